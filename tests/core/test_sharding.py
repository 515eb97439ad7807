"""The same experiment on one device and on eight, and what lies where."""

import jax
import pytest
import virtual_devices
from jax.sharding import PartitionSpec

from jaxtl.core import sharding
from jaxtl.core.errors import UserError

# All in one process with eight virtual devices; results come back as JSON.
EIGHT = """
import json, pathlib, sys
import jax, numpy as np
import jaxtl as tl

def experiment(**changes):
    fields = dict(
        model=tl.models.CNN(widths=(4,), units=8, norm=True),
        data=tl.data.Digits(labels_per_class=40),
        optim=tl.optim.AdamW(
            lr=0.01, weight_decay=0.1, clip=1.0, groups={"head": 2.0, ".*": 1.0}
        ),
        steps=4, batch=32, evaluate_batch=100,
    )
    return tl.Experiment(**{**fields, **changes})

def facts(run, losses):
    def flat(tree):
        return {k: np.asarray(v).tolist() for k, v in tl.tree.flatten(tree).items()}

    return {
        "losses": losses,
        "params": flat(run.params),
        "stats": flat(run.state.stats),
        "val": tl.evaluate(run, "val"),
    }

def shards(tree):
    def one(v):
        shard = v.sharding.shard_shape(v.shape)
        return [list(v.shape), list(shard), len(v.sharding.device_set)]

    return {k: one(v) for k, v in tl.tree.flatten(tree).items()}

out, folder = {}, pathlib.Path(sys.argv[1])
for name, changes in {
    "one": {},
    "data": {"devices": 8},
    "param": {"devices": 8, "param_shards": 4},
    "host": {"devices": 8, "param_shards": 4, "device_bytes": 0},
}.items():
    run = tl.setup(experiment(**changes))
    out[name] = facts(run, [float(r["loss"]) for r in run.advance(4)])
    out[name]["shards"] = shards(run.params)
    out[name]["moments"] = shards(run.state.opt)

exp = experiment(devices=8, param_shards=4, save_every=2, steps=2)
tl.train(tl.setup(exp, folder / "run"))
run = tl.resume(folder / "run")
out["resumed"] = shards(run.params)
weights = tl.pretrained.FromRun(str(folder / "run"), which="last").read()
out["same"] = bool(
    np.array_equal(run.params["head"]["dense"]["kernel"],
                   weights.params["head"]["dense"]["kernel"])
)
linear = dict(model=tl.models.MLP(widths=(8,)))
counted = {"terms": {"task": tl.semi.AnnealedCrossEntropy(rise="exp")}}
for name, changes in {
    "whole": {},
    "parts": {"devices": 4, "accumulate": 2},
    "counted whole": counted,
    "counted data": {**counted, "devices": 8},
    "counted parts": {**counted, "devices": 4, "accumulate": 2},
}.items():
    run = tl.setup(experiment(**linear, **changes))
    out[name] = facts(run, [float(r["loss"]) for r in run.advance(4)])
(folder / "out.json").write_text(json.dumps(out))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    return virtual_devices.run(EIGHT, 8, folder)


@pytest.mark.parametrize("mesh", ["data", "param", "host"])
def test_eight_devices_compute_what_one_does(eight, mesh):
    assert eight[mesh]["losses"] == pytest.approx(eight["one"]["losses"], rel=1e-4)
    for part in ("params", "stats", "val"):
        virtual_devices.assert_near(eight[mesh][part], eight["one"][part])


def test_batch_statistics_are_those_of_the_whole_batch(eight):
    assert eight["one"]["stats"]["block1/bn/var"] != [1.0] * 4
    virtual_devices.assert_near(eight["data"]["stats"], eight["one"]["stats"])


def test_accumulation_on_four_devices_is_the_whole_batch(eight):
    assert eight["parts"]["losses"] == pytest.approx(eight["whole"]["losses"], rel=1e-4)
    virtual_devices.assert_near(eight["parts"]["params"], eight["whole"]["params"])


@pytest.mark.parametrize("name", ["counted data", "counted parts"])
def test_examples_are_counted_over_all_devices(eight, name):
    """A term that divides by the number of examples that count."""
    whole = eight["counted whole"]
    assert eight[name]["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    virtual_devices.assert_near(eight[name]["params"], whole["params"])


def test_data_parallel_copies_parameters(eight):
    for whole, shard, devices in eight["data"]["shards"].values():
        assert shard == whole
        assert devices == 8


def test_parameters_and_moments_are_really_split(eight):
    split = eight["param"]["shards"]
    assert split["hidden/dense/kernel"] == [[64, 8], [16, 8], 8]
    assert split["head/dense/kernel"] == [[8, 10], [2, 10], 8]
    assert split["head/dense/bias"] == [[10], [10], 8], "4 does not divide 10"
    assert split["block1/bn/scale"] == [[4], [1], 8]
    moments = [
        v for k, v in eight["param"]["moments"].items() if "mu" in k or "nu" in k
    ]
    assert len(moments) == 2 * len(split)
    assert sorted(moments) == sorted([*split.values(), *split.values()])


def test_a_split_run_resumes_split(eight):
    assert eight["resumed"] == eight["param"]["shards"]
    assert eight["same"]


@pytest.mark.parametrize(
    ("shape", "param", "spec"),
    [
        ((), 4, PartitionSpec()),
        ((8, 12), 4, PartitionSpec(None, "param")),
        ((12, 8), 4, PartitionSpec("param", None)),
        ((9, 8), 4, PartitionSpec(None, "param")),
        ((3, 3), 4, PartitionSpec()),
        ((8, 12), 1, PartitionSpec()),
    ],
)
def test_the_largest_axis_that_divides_is_split(shape, param, spec):
    assert sharding.leaf_spec(shape, param) == spec


def test_meshes_that_cant_be_are_told():
    there = len(jax.devices())
    with pytest.raises(UserError, match=f"devices={there + 1}, but this process sees"):
        sharding.mesh(there + 1)
    with pytest.raises(UserError, match="devices=0"):
        sharding.mesh(0)
    with pytest.raises(UserError, match="param_shards=2 must divide devices=1"):
        sharding.mesh(1, 2)


def test_batches_that_do_not_divide_are_told(digits):
    import jaxtl as tl

    with pytest.raises(
        UserError, match=r"batch=30 of the stream 'target' must be a po"
    ):
        tl.setup(digits(batch=30, accumulate=4))
