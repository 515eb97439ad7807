"""The rows that a run draws ahead are those of each step drawn alone."""

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.data import device_stream
from jaxtl.training import step as step_lib
from jaxtl.training.step_data import DRAWN_STEPS, StepData


@pytest.fixture(scope="module")
def run(digits):
    return tl.setup(digits(steps=4))


@pytest.fixture
def data(run):
    data = StepData(run.datasets, run.exp.seed)
    data.use(run.parts.device_streams)
    return data


def rows_at(stream, run, step):
    seed = step_lib.stream_seed(run.exp.seed, 0)
    size = run.program.batch_sizes["target"]
    batch = device_stream.batch_at_step(stream, seed, step, size)
    return np.asarray(batch["row"])


@pytest.mark.parametrize("most", [1, DRAWN_STEPS + 7])
@pytest.mark.parametrize("first", [0, 5, DRAWN_STEPS - 1, DRAWN_STEPS, 200])
def test_drawn_rows_are_those_of_the_step(run, data, first, most):
    plain = run.parts.device_streams["target"]
    seed = run.state.hypers["seed"]
    data.at(run.program, seed, 0, 1)  # what was drawn before may not be enough
    drawn = data.at(run.program, seed, first, most)["target"]
    for step in (first, first + most - 1):
        np.testing.assert_array_equal(
            rows_at(drawn, run, step), rows_at(plain, run, step)
        )


def test_rows_are_drawn_once_for_steps_in_a_row(run, data):
    seed = run.state.hypers["seed"]
    first = data.at(run.program, seed, 0, 1)["target"]
    again = data.at(run.program, seed, DRAWN_STEPS - 1, 1)["target"]
    later = data.at(run.program, seed, DRAWN_STEPS, 1)["target"]
    assert again is first
    assert later is not first


def test_a_copy_reads_the_same_streams(run, data):
    seed = run.state.hypers["seed"]
    drawn = data.at(run.program, seed, 3, 1)["target"]
    copied = data.copy().at(run.program, seed, 3, 1)["target"]
    jax.tree.map(np.testing.assert_array_equal, drawn.rows, copied.rows)
    np.testing.assert_array_equal(rows_at(copied, run, 3), rows_at(drawn, run, 3))
