"""Domain generalization in runs: cached features, micro-batches, half precision."""

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.terms import generalization

NAMES = ("art", "photo", "sketch")


def _domain(seed, shift, **fields):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 60)
    x = rng.normal(shift, 0.5, (60, 5)) + y[:, None]
    return tl.data.Arrays(x=x.astype(np.float32), y=y, **fields)


def _losses(term, **changes):
    fields = {
        "model": tl.models.MLP(widths=(6, 4)),
        "data": _domain(9, 0.3, labels=0),
        "streams": {name: _domain(i, 0.5 * i) for i, name in enumerate(NAMES)},
        "terms": {"task": term},
        "optim": tl.optim.AdamW(lr=1e-2),
        "steps": 3,
        "batch": 8,
    }
    run = tl.setup(tl.Experiment(**{**fields, **changes}))
    losses = [row["loss"] for row in run.advance(3)]
    assert np.isfinite(losses).all()
    return losses, run


@pytest.mark.parametrize(
    ("term", "frozen"),
    [
        (generalization.PooledERM(streams=NAMES), "layer1"),
        (generalization.MLDG(streams=NAMES), "layer1"),
        (generalization.InterDomainMixup(streams=NAMES), "layer1"),
        (generalization.MixStyle(streams=NAMES, probability=1.0), "layer1"),
        # Styles are mixed below what is cached, so that is of no use.
        (generalization.MixStyle(streams=NAMES, stages=("layer1",)), "layer[12]"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_cached_features_change_nothing(term, frozen):
    optim = tl.optim.AdamW(lr=1e-2, groups={frozen: tl.FROZEN, ".*": 1.0})
    plain, _ = _losses(term, optim=optim, cache="off")
    cached, run = _losses(term, optim=optim, cache="memory")
    assert "cached" in run.notes["cache"]
    np.testing.assert_allclose(cached, plain, rtol=1e-4)


def test_batches_of_unequal_size_and_half_precision_run():
    sizes = {"art": 8, "photo": 4, "sketch": 6}
    _losses(generalization.MixStyle(streams=NAMES), batch=sizes, dtype="bfloat16")
    _losses(generalization.MLDG(streams=NAMES), batch=sizes)


def test_group_weights_move_with_every_micro_batch():
    # The same risks each time would give q ∝ exp(η·R·count).
    term = generalization.GroupDRO(streams=NAMES, eta=1.0)
    _, run = _losses(term, accumulate=2)
    moved = np.asarray(run.state.terms["task"]["log_weights"])
    assert np.ptp(moved) > 0
    np.testing.assert_allclose(np.exp(moved).sum(), 1.0, rtol=1e-5)
