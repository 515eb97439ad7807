"""Terms that act on each k-th step: two programs, between which the host chooses."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.optim.phases import Phase

MODEL = tl.models.MLP(widths=(6,))


def _start(digits, tmp_path):
    exp = digits(model=MODEL, steps=2, monitor=None, batch=8)
    tl.train(tl.setup(exp, tmp_path / "start"), progress=False)
    return tl.pretrained.FromRun(str(tmp_path / "start"))


def _tuning(digits, start, **changes):
    terms = {
        "task": tl.losses.CrossEntropy(),
        "near": tl.regularizers.JacobianDifference(every=3, weight=0.1),
    }
    fields = {"terms": terms, "init": start, "steps": 8, "batch": 8, "monitor": None}
    return digits(model=MODEL, **{**fields, **changes})


def _leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("estimator", ["projected", "forward"])
def test_the_host_takes_the_steps_that_the_device_would_take(
    digits, tmp_path, estimator
):
    exp = _tuning(digits, _start(digits, tmp_path))
    near = dataclasses.replace(exp.terms["near"], estimator=estimator)
    exp = dataclasses.replace(exp, terms={**exp.terms, "near": near})
    by_host, by_device = (
        tl.setup(dataclasses.replace(exp, steps_per_dispatch=count)) for count in (1, 4)
    )
    rows = by_host.advance(8), by_device.advance(8)
    assert len(by_host.compiled.dispatches) == 2
    assert len(by_device.compiled.dispatches) == 1
    for host, device in zip(*rows):
        np.testing.assert_allclose(host["near"], device["near"], rtol=1e-4)
    assert [row["near"] > 0 for row in rows[0]] == [i in (2, 5) for i in range(8)]
    for a, b in zip(_leaves(by_host.params), _leaves(by_device.params)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_other_steps_are_plain_steps_and_flops_are_their_mean(digits, tmp_path):
    exp = _tuning(digits, _start(digits, tmp_path))
    assert tl.setup(exp).compile().most == 1
    always = dataclasses.replace(exp.terms["near"], every=1)
    full, plain = (
        tl.setup(dataclasses.replace(exp, terms=terms)).compile().flops
        for terms in ({**exp.terms, "near": always}, {"task": exp.terms["task"]})
    )
    compiled = tl.setup(exp).compile()
    # The zero of the term that is left out is one more metric.
    np.testing.assert_allclose(compiled.at(0).flops, plain, rtol=1e-2)
    np.testing.assert_allclose(compiled.at(2).flops, full, rtol=1e-2)
    np.testing.assert_allclose(compiled.flops, (2 * plain + full) / 3, rtol=1e-2)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_resumed_within_a_period_ends_bit_for_bit_the_same(
    digits, tmp_path, assert_resumes, stop
):
    assert_resumes(_tuning(digits, _start(digits, tmp_path)), stop)


@pytest.mark.parametrize("count", [1, 4])
def test_the_period_is_counted_from_the_phase_in_which_the_term_begins(
    digits, tmp_path, count
):
    phases = (Phase(until=0.5, terms=("task",)), Phase())
    exp = _tuning(digits, _start(digits, tmp_path), phases=phases)
    run = tl.setup(dataclasses.replace(exp, steps_per_dispatch=count))
    values = [row.get("near") for row in run.advance(8)]
    assert values[:4] == [None] * 4
    assert [value > 0 for value in values[4:]] == [False, False, True, False]
