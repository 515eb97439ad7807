"""The device that a user names, on a machine with a CPU."""

import subprocess
import sys

import jax
import pytest

from jaxtl.cli import main
from jaxtl.core import devices, sharding
from jaxtl.core.errors import UserError


@pytest.fixture(autouse=True)
def default_again():
    yield
    devices.use_device(None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gpuu", "--device gpuu is unknown; did you mean 'gpu'?"),
        ("cuda:", "(expected cpu, gpu, cuda, rocm, tpu, or one of them with a number"),
        ("cpu:9999", "--device cpu:9999: there is none; this machine has "),
        ("tpu:7", "--device tpu:7: there is none; this machine has "),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(name, text, capsys):
    with pytest.raises(UserError) as error:
        devices.use_device(name)
    assert text in str(error.value)
    assert main.main(["eval", "nowhere", "--device", name]) == 1
    assert text in capsys.readouterr().err
    assert devices.first() == jax.devices()[0]


def test_the_choice_is_said_and_undone_after_a_command(capsys):
    assert "default; --device" in devices.describe()
    devices.use_device("CPU")
    assert devices.describe() == "cpu:0 (chosen)"
    assert sharding.mesh().devices.flat[0] == jax.devices("cpu")[0]
    main.main(["eval", "nowhere", "--device", "cpu"])
    assert "default; --device" in devices.describe()


def test_every_command_that_computes_takes_a_device():
    parser = main._parser()
    [subparsers] = parser._subparsers._group_actions
    without = {
        name
        for name, command in subparsers.choices.items()
        if "--device" not in command.format_help()
    }
    # The report of one run predicts its test split once more.
    looking = {"data", "list", "compare", "watch", "models"}
    assert without == {*looking, "new", "completion"}


PROGRAM = """
import jax, jaxtl as tl
from jaxtl.core import devices, sharding
jax.config.update("jax_num_cpu_devices", 3)
tl.use_device("cpu:2")
from jaxtl.data.sources.digits import Digits
exp = tl.Experiment(model=tl.models.MLP(widths=(2,)), data=Digits(limit=40), steps=0)
run = tl.setup(exp)
print({d.id for x in jax.tree.leaves(run.params) for d in x.devices()})
print({d.id for d in jax.numpy.ones(2).devices()}, devices.describe())
print([d.id for d in sharding.mesh(2).devices.flat])
"""


@pytest.mark.slow
def test_parameters_lie_on_the_chosen_device():
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    assert output.splitlines() == ["{2}", "{2} cpu:2 (chosen)", "[2, 0]"]
