"""The place of a process in a job, by options, Kubernetes and SLURM."""

import os
import socket

import jax
import pytest
from jax._src.clusters.slurm_cluster import SlurmCluster

from jaxtl.core import membership, process_group
from jaxtl.core.errors import UserError
from jaxtl.core.membership import Membership

KUBERNETES = {
    "COORDINATOR_ADDRESS": "train-0.train",
    "NUM_PROCESSES": "4",
    "JOB_COMPLETION_INDEX": "3",
}
SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_NODELIST": "gpu[003-007,9],cpu1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
}


def test_a_process_without_a_job_is_alone():
    assert membership.resolve({}) is None
    assert membership.resolve({"NUM_PROCESSES": "4"}) is None
    assert membership.resolve(KUBERNETES, count=1) is None
    assert membership.resolve({**KUBERNETES, "NUM_PROCESSES": "1"}) is None


def test_an_indexed_job_of_kubernetes():
    place = membership.resolve(KUBERNETES)
    assert (place.host, place.port) == ("train-0.train", 12321)
    assert (place.count, place.index) == (4, 3)
    text = "process 3 of 4, which meet at train-0.train:12321 (by $COORDINATOR_ADDRESS)"
    assert text in place.describe()
    own_port = membership.resolve({**KUBERNETES, "COORDINATOR_PORT": "99"})
    assert own_port.coordinator == "train-0.train:99"
    own_port = membership.resolve({**KUBERNETES, "COORDINATOR_ADDRESS": "[::1]:98"})
    assert (own_port.host, own_port.port) == ("::1", 98)


def test_options_come_before_the_environment():
    place = membership.resolve({**KUBERNETES, **SLURM}, "a:5", 2, 1)
    assert place == Membership(coordinator="a:5", count=2, index=1, origin="by options")


def test_tasks_of_srun_meet_where_jax_would_have_them_meet(monkeypatch):
    place = membership.resolve(SLURM)
    assert (place.count, place.index, place.host) == (8, 5, "gpu003")
    assert place.local_devices == (1,), "two tasks share a node's accelerators"
    bound = membership.resolve({**SLURM, "CUDA_VISIBLE_DEVICES": "1"})
    assert bound.local_devices is None, "SLURM gave the task one"
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert SlurmCluster.is_env_present()
    assert place.coordinator == SlurmCluster.get_coordinator_address(1, None)


@pytest.mark.parametrize(
    "missing", ["SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID"]
)
def test_a_batch_script_without_srun_is_alone(missing):
    environ = {name: value for name, value in SLURM.items() if name != missing}
    assert membership.resolve(environ) is None


@pytest.mark.parametrize("nodes", ["n1", "n1,n2", "n[1-3]", "n[1,4-5],m7", "n[1-2]-a"])
def test_the_first_node_of_a_list(nodes):
    assert membership.first_node(nodes) in ("n1", "n1-a")


@pytest.mark.parametrize(
    ("environ", "options", "message"),
    [
        ({}, ("a:5", 2, None), "not its --process; give the option or set JAX_PROCESS"),
        ({}, (None, 2, 0), "not its --coordinator"),
        (
            {},
            ("a:5", 2, 2),
            "process 2 of a job of 2 .*: expected a number from 0 to 1",
        ),
        ({}, ("a:5", 0, 0), "--processes 0: expected a whole number of at least 1"),
        ({}, ("a:70000", 2, 0), "'a:70000' .*: expected HOST:PORT with a port from"),
        ({**KUBERNETES, "NUM_PROCESSES": "two"}, (), "NUM_PROCESSES='two': expected"),
        ({**SLURM, "JAX_LOCAL_DEVICE_IDS": "a"}, (), "JAX_LOCAL_DEVICE_IDS='a'"),
    ],
)
def test_places_that_cant_be_are_told(environ, options, message):
    with pytest.raises(UserError, match=message):
        membership.resolve(environ, *options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES='2' and NUM_PROCESSES='4' dif"),
        (
            {"PROCESS_ID": "1", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID='2' and PROCESS_ID='1' differ; unset one of them",
        ),
        ({"JAX_COORDINATOR_ADDRESS": "b"}, "JAX_COORDINATOR_ADDRESS='b' and COORDINA"),
        (
            {"COORDINATOR_ADDRESS": "a:5", "COORDINATOR_PORT": "6"},
            "COORDINATOR_ADDRESS='a:5' has another port than the variable .*, 6; unset",
        ),
        (
            {**SLURM, "SLURM_STEP_NUM_TASKS": "2"},
            "JOB_COMPLETION_INDEX=3 and SLURM_PROCID=5 are of different jobs",
        ),
        (SLURM, "NUM_PROCESSES=4 and SLURM_STEP_NUM_TASKS=8 are of different jobs"),
        (
            {**SLURM, "SLURM_STEP_NUM_TASKS": "4"},
            "JOB_COMPLETION_INDEX=3 and SLURM_PROCID=5 are of different jobs; unset",
        ),
    ],
)
def test_variables_of_different_jobs_are_refused_by_name(changes, message):
    environ = {**KUBERNETES, **changes}
    with pytest.raises(UserError, match=message):
        membership.resolve(environ)
    by_options = membership.resolve(environ, "c:7", 2, 1)
    assert (by_options.coordinator, by_options.index) == ("c:7", 1)


def test_variables_and_tasks_of_one_job_agree():
    same = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "PROCESS_ID": "3"}
    place = membership.resolve({**KUBERNETES, **SLURM, **same})
    assert (place.host, place.count, place.index) == ("train-0.train", 4, 3)
    alone = {**KUBERNETES, **SLURM, "SLURM_STEP_NUM_TASKS": "1"}
    assert membership.resolve(alone).index == 3
    # Each of two tasks starts two processes, which it numbers one after another or not.
    for task, index in ((0, 1), (1, 2), (1, 3), (0, 2)):
        place = {"SLURM_PROCID": str(task), "JAX_PROCESS_ID": str(index)}
        environ = {**KUBERNETES, **SLURM, "SLURM_STEP_NUM_TASKS": "2", **place}
        assert membership.resolve(environ).index == index


def test_a_pod_of_several_processes_and_an_address_with_its_port():
    # Pod 1 of two, the second of its processes; addresses with and without the port.
    several = {"JOB_COMPLETION_INDEX": "1", "PROCESS_ID": "3"}
    same = {"JAX_COORDINATOR_ADDRESS": "train-0.train:99", "COORDINATOR_PORT": "99"}
    place = membership.resolve({**KUBERNETES, **several, **same})
    assert (place.index, place.coordinator) == (3, "train-0.train:99")
    ports = {"JAX_COORDINATOR_PORT": "1", "COORDINATOR_PORT": "2"}
    assert membership.resolve({**KUBERNETES, **ports}, "c:7", 2, 1).port == 7


def test_a_taken_port_and_an_unreachable_coordinator_are_told(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", None)  # must not be reached
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        place = dict(coordinator=f"127.0.0.1:{port}", count=2, origin="")
        with pytest.raises(UserError, match=f"port {port} of this machine is taken"):
            process_group.join(Membership(index=0, **place))
    with pytest.raises(UserError, match=r"process 1 could not reach .* within 0.1 s: "):
        process_group.join(Membership(index=1, **place), wait=0.1)


def test_a_process_alone_agrees_with_itself():
    done = []
    process_group.on_first(lambda: done.append(os.getpid()))
    process_group.check_same("experiment", {"steps": 1}, "")
    assert done == [os.getpid()]
    assert process_group.all_values((1, 2)) == [(1, 2)]
    assert process_group.name() == ""
    assert not process_group.is_lost(RuntimeError("Gloo AllReduce failed"))
