"""Adaptation × tuning × regularization: any of each goes with any of the others.

Two steps of every combination from one θ₀, on a target without labels. What is frozen
must stay bit for bit; what trains must move; every term must be in the loss.
"""

import dataclasses

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.pretrained.match import Weights

ADAPTATION = {
    "DAN": tl.domain.DAN(),
    "DANN": tl.domain.DANN(widths=(4,), reversal=1.0),
    "CDAN": tl.domain.CDAN(widths=(4,), reversal=1.0),
    "MDD": tl.domain.MDD(widths=(4,), reversal=1.0, weight=0.1),
    "MCC": tl.domain.MCC(),
}
TUNING = {
    "all": {},
    "partial": {"optim": tl.optim.AdamW(groups={"layer1": tl.FROZEN, ".*": 1.0})},
    "LoRA": {"peft": tl.peft.LoRA(rank=2, select="layer.*/kernel")},
}
REGULARIZERS = {
    "L2SP": tl.regularizers.L2SP(weight=0.1),
    "Jacobian": tl.regularizers.JacobianDifference(weight=0.1, stream="unlabelled"),
}
FROZEN = {"all": (), "partial": ("layer1",), "LoRA": ("layer1", "layer2")}


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Initial weights from memory."""

    weights: Weights

    def read(self):
        return self.weights


def _data(seed, shift, **options):
    rng = np.random.default_rng(seed)
    y = np.arange(45) % 3
    x = (rng.normal(size=(45, 4)) + 3 * np.eye(4)[y] + shift).astype(np.float32)
    return tl.data.Arrays(x=x, y=y, test=0.2, val=0.2, split_seed=0, **options)


@pytest.fixture(scope="module")
def start():
    """An experiment on a target without labels, and the θ₀ it starts from."""
    plain = tl.Experiment(
        model=tl.models.MLP(widths=(6, 5)),
        data=_data(1, 1.0, labels=0),
        streams={"source": _data(0, 0.0)},
        terms={"task": tl.losses.CrossEntropy(stream="source")},
        optim=tl.optim.AdamW(),
        batch={"source": 8, "unlabelled": 6},
        steps=2,
        monitor=None,
        cache="off",
    )
    parts = tl.setup(plain).parts
    weights = Weights(parts.model.base_params, parts.model.stats)
    return dataclasses.replace(plain, init=InMemory(weights)), weights.params


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("tuning", TUNING)
@pytest.mark.parametrize("adaptation", ADAPTATION)
def test_every_combination_takes_two_steps(start, adaptation, tuning, regularizer):
    plain, origin = start
    terms = {
        **plain.terms,
        "adapt": ADAPTATION[adaptation],
        "keep": REGULARIZERS[regularizer],
    }
    exp = dataclasses.replace(plain, terms=terms, **TUNING[tuning])
    run = tl.setup(exp)
    before = jax.tree.map(np.array, run.state.trainable)
    steps = run.advance(2)

    assert len(steps) == 2
    for metrics in steps:
        assert np.isfinite(list(metrics.values())).all()
        summed = sum(term.weight * metrics[name] for name, term in terms.items())
        np.testing.assert_allclose(metrics["loss"], summed, rtol=1e-5)
    assert steps[0]["keep"] == 0  # at θ₀
    assert steps[1]["keep"] > 0

    base = trees.flatten(trees.merge(run.state.trainable["model"], run.fixed.frozen))
    first = trees.flatten(origin)
    for path, leaf in base.items():
        frozen = path.split("/")[0] in FROZEN[tuning]
        same = np.array_equal(leaf, first[path])
        assert same == frozen, path
    if tuning == "LoRA":
        assert _moved(before["peft"], run.state.trainable["peft"])
    adversary = before["terms"].get("adapt", {})
    assert bool(adversary) == (adaptation in ("DANN", "CDAN", "MDD"))
    if adversary:
        assert _moved(adversary, run.state.trainable["terms"]["adapt"])


def _moved(before, after) -> bool:
    """Whether every layer of a tree has moved (some leaf of it)."""
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after))
    ]
    return sum(changed) >= len(changed) / 2
