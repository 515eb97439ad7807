"""Streams that pass through the model together: BatchNorm sees all of them at once."""

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.optim.phases import Phase

ROWS = 12
MODEL = tl.models.CNN(widths=(2,), kernel=1, units=3, norm=True)
TERMS = {
    "DANN": tl.domain.DANN(widths=(3,), reversal=1.0),
    "CDAN": tl.domain.CDAN(widths=(3,), reversal=1.0),
    "MDD": tl.domain.MDD(widths=(3,), reversal=1.0),
    "MCD": tl.domain.MCD(widths=(3,)),
    "DAN": tl.domain.DAN(),
    "JAN": tl.domain.JAN(),
    "DeepCORAL": tl.domain.DeepCORAL(),
    "CMD": tl.domain.CMD(),
    "AFN": tl.domain.AFN(),
    "MCC": tl.domain.MCC(),
}


def _pixels(shift, size=4):
    rng = np.random.default_rng(int(shift))
    return rng.normal(shift, 1 + shift, (ROWS, size, size, 1)).astype(np.float32)


def _adaptation(term=TERMS["DANN"], **changes):
    y = np.arange(ROWS) % 2
    options = {"val": 0, "test": 0}
    fields = {
        "model": MODEL,
        "data": tl.data.Arrays(x=_pixels(4.0), y=y, labels=0, **options),
        "streams": {"source": tl.data.Arrays(x=_pixels(0.0), y=y, **options)},
        "terms": {"task": tl.losses.CrossEntropy(stream="source"), "adapt": term},
        "batch": ROWS,  # all rows of a stream: the reference needs no sampler
        "optim": tl.optim.SGD(lr=0.0),
        "monitor": None,
        "steps": 4,
        "preprocess": tl.data.Preprocess(),
        "joint_pass": ("source", "unlabelled"),
    }
    return tl.Experiment(**{**fields, **changes})


def _running(run, *batches):
    """Running mean and variance of the first block after one step, in float64."""
    block = run.parts.model.base_params["block1"]
    kernel = np.float64(block["conv"]["kernel"])[0, 0]
    z = np.concatenate([np.float64(x) for x in batches]).reshape(-1, 1) @ kernel
    z += np.float64(block["conv"].get("bias", 0.0))
    return 0.1 * z.mean(0), 0.9 + 0.1 * z.var(0)


def _assert_running(run, expected):
    stats = run.state.stats["block1"]["bn"]
    for name, value in zip(("mean", "var"), expected):
        np.testing.assert_allclose(stats[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_every_adaptation_term_takes_the_joint_pass(name):
    run = tl.setup(_adaptation(TERMS[name]))
    run.advance(1)
    _assert_running(run, _running(run, _pixels(0.0), _pixels(4.0)))


def test_a_phase_on_the_source_alone_normalizes_by_the_source_alone():
    phases = (Phase(until=0.5, terms=("task",)), Phase())
    run = tl.setup(_adaptation(phases=phases))
    run.advance(1)
    _assert_running(run, _running(run, _pixels(0.0)))


def test_without_batch_norm_joint_and_separate_passes_are_equal():
    model = tl.models.CNN(widths=(2,), kernel=1, units=3)
    runs = [
        tl.setup(_adaptation(model=model, joint_pass=joint, optim=tl.optim.SGD(lr=0.1)))
        for joint in ((), ("source", "unlabelled"))
    ]
    rows = [run.advance(2)[-1] for run in runs]
    np.testing.assert_allclose(rows[0]["adapt"], rows[1]["adapt"], rtol=1e-5)
    for a, b in zip(*(jax.tree.leaves(run.params) for run in runs)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_cached_features_pass_together_as_well():
    frozen = {"block1": tl.FROZEN, ".*": 1.0}
    rows = [
        tl.setup(
            _adaptation(optim=tl.optim.SGD(lr=0.1, groups=frozen), cache=cache)
        ).advance(2)[-1]
        for cache in ("off", "memory")
    ]
    for name in ("task", "adapt"):
        np.testing.assert_allclose(rows[0][name], rows[1][name], rtol=1e-4)


def test_streams_that_no_term_reads_are_told():
    with pytest.raises(tl.UserError, match=r"no term reads a stream 'sorce'.*'source'"):
        tl.setup(_adaptation(joint_pass=("sorce", "unlabelled")))
