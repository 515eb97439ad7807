"""Losses and weights for imbalanced classes against torch, scikit-learn and numpy."""

import jax
import numpy as np
import pytest
from scipy import special
from sklearn.utils.class_weight import compute_class_weight

import jaxtl as tl
from jaxtl.terms import losses
from jaxtl.terms.context import View

COUNTS = np.array([5, 2, 1])  # of the bench
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (8, 3)).astype(np.float32)
LABELS = np.array([0, 0, 1, 2, 0, 1, 0, 0])
P = special.softmax(LOGITS.astype(np.float64), 1)
P_Y = P[np.arange(8), LABELS]


def test_balanced_weights_are_sklearns():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    counts = np.bincount(LABELS)
    np.testing.assert_allclose(tl.imbalance.balanced_weights(counts), expected)
    # A class that does not occur changes no other's weight.
    weights = tl.imbalance.balanced_weights([*counts, 0])
    np.testing.assert_allclose(weights, [*expected, 0])


def test_effective_number_weights_are_the_authors():
    counts, beta = np.array([500, 50, 5]), 0.999
    # github.com/richardaecn/class-balanced-loss: weights / sum(weights) · classes.
    weights = (1 - beta) / (1 - np.power(beta, counts))
    expected = weights / weights.sum() * 3
    ours = tl.imbalance.effective_number_weights(counts, beta)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    np.testing.assert_allclose(tl.imbalance.effective_number_weights(counts, 0.0), 1)
    near = tl.imbalance.effective_number_weights(counts, 1 - 1e-15)
    inverse = 1 / counts
    np.testing.assert_allclose(near, inverse / inverse.sum() * 3, rtol=1e-9)


def test_focal_losses_are_the_equation():
    @jax.jit
    def value_and_gradient(logits, labels, gamma):
        def total(z):
            values = tl.imbalance.focal_losses(z, labels, gamma)
            return values.sum(), values

        return jax.value_and_grad(total, has_aux=True)(logits)

    # Sure predictions, right and wrong, have no NaN and no gradient that explodes.
    sure = np.full((8, 3), -80.0, np.float32)
    sure[:, 0] = 80.0
    for gamma in (0.0, 0.5, 2.0):
        (_, ours), _ = value_and_gradient(LOGITS, LABELS, gamma)
        expected = -((1 - P_Y) ** gamma) * np.log(P_Y)
        np.testing.assert_allclose(ours, expected, rtol=2e-5)
        _, gradient = value_and_gradient(sure, LABELS, gamma)
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient[LABELS == 0], 0, atol=1e-6)


def test_sigmoid_focal_losses_are_the_equation():
    targets = (RNG.random((8, 3)) < 0.4).astype(np.float32)
    p = special.expit(LOGITS.astype(np.float64))
    p_t = np.where(targets > 0, p, 1 - p)
    ours = tl.imbalance.sigmoid_focal_losses(LOGITS, targets, 2.0)
    np.testing.assert_allclose(ours, -((1 - p_t) ** 2) * np.log(p_t), rtol=2e-5)


def _value(bench, term, *, task="classification", batches=None, counts=COUNTS):
    """A term's value on the bench's target, its logits and labels."""
    room = bench(task=task)
    setup = room.setup
    term.check(setup)
    context = room.context(constants=term.constants(setup))
    context.batches = {**context.batches, **(batches or {})}
    result = term(View(context, "term", 0))
    value = result[0] if isinstance(result, tuple) else result
    logits = np.float64(context.forward("target").logits)
    return float(value), logits, np.asarray(room.batches["target"]["y"])


def _torchs(logits, labels, w, smoothing):
    """torch.nn.functional.cross_entropy(weight=w, label_smoothing=smoothing)."""
    log_p = special.log_softmax(logits, 1)
    of_label = w[labels] * log_p[np.arange(len(labels)), labels]
    smooth = (w * log_p).sum(1) / logits.shape[1]
    total = (1 - smoothing) * of_label + smoothing * smooth
    return -total.sum() / w[labels].sum()


WEIGHTS = (
    ("balanced", 8 / (3 * COUNTS)),
    ({"2": 4.0, "0": 0.5}, np.array([0.5, 1.0, 4.0])),
    (
        tl.imbalance.EffectiveNumber(beta=0.9),
        3 / (1 - 0.9**COUNTS) / (1 / (1 - 0.9**COUNTS)).sum(),
    ),
)


@pytest.mark.parametrize(("weights", "w"), WEIGHTS, ids=["balanced", "map", "number"])
def test_weighted_cross_entropy_is_torchs(bench, weights, w):
    term = tl.losses.CrossEntropy(class_weights=weights, label_smoothing=0.1)
    value, logits, labels = _value(bench, term)
    assert value == pytest.approx(_torchs(logits, labels, w, 0.1), rel=1e-5)


def test_positive_weights_are_torchs(bench):
    term = tl.losses.BinaryCrossEntropy(positive_weights="balanced")
    value, logits, targets = _value(bench, term, task="multilabel")
    # torch.nn.functional.binary_cross_entropy_with_logits(pos_weight=w)
    w, p = (8 - COUNTS) / COUNTS, special.expit(logits)
    expected = -(w * targets * np.log(p) + (1 - targets) * np.log1p(-p)).mean()
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_closed_forms_are_torchs():
    torch = pytest.importorskip("torch")
    logits, targets = np.float64(LOGITS), np.eye(3)[LABELS]
    w = np.array([0.5, 1.0, 4.0])
    for smoothing in (0.0, 0.1):
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(logits),
            torch.tensor(LABELS),
            weight=torch.tensor(w),
            label_smoothing=smoothing,
        )
        ours = _torchs(logits, LABELS, w, smoothing)
        assert ours == pytest.approx(float(expected), rel=1e-12)
    ours = losses.binary_cross_entropies(LOGITS, targets, w).mean()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(targets), pos_weight=torch.tensor(w)
    )
    assert float(ours) == pytest.approx(float(expected), rel=1e-5)


def test_logit_adjustment_is_the_equation(bench):
    value, logits, labels = _value(bench, tl.imbalance.LogitAdjustment(tau=1.5))
    adjusted = logits + 1.5 * np.log(COUNTS / COUNTS.sum())
    log_p = special.log_softmax(adjusted, 1)[np.arange(len(labels)), labels]
    assert value == pytest.approx(-log_p.mean(), rel=1e-5)


def test_ldam_is_the_authors(bench):
    term = tl.imbalance.LDAM(class_weights={"1": 3.0})
    value, logits, labels = _value(bench, term)
    # github.com/kaidic/LDAM-DRW, losses.py: max_m=0.5, s=30, cross_entropy(weight=).
    margins = 1.0 / np.sqrt(np.sqrt(COUNTS))
    margins = margins * (0.5 / margins.max())
    rows = np.arange(len(labels))
    shifted = logits.copy()
    shifted[rows, labels] -= margins[labels]
    log_p = special.log_softmax(30 * shifted, 1)[rows, labels]
    w = np.array([1.0, 3.0, 1.0])[labels]
    assert value == pytest.approx(-(w * log_p).sum() / w.sum(), rel=1e-5)


def test_no_weights_are_weights_of_one(bench):
    plain, *_ = _value(bench, tl.losses.CrossEntropy())
    ones, *_ = _value(bench, tl.losses.CrossEntropy(class_weights={"0": 1, "1": 1}))
    assert ones == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (tl.losses.CrossEntropy(class_weights="balenced"), "did you mean 'balanced'"),
        (tl.losses.CrossEntropy(class_weights={"cat": 2}), "no class 'cat'"),
        (tl.losses.CrossEntropy(class_weights={"0": -1}), r"\['0'\]=-1: expected"),
        (tl.losses.CrossEntropy(class_weights=3), "expected 'balanced', a mapping"),
        (tl.imbalance.FocalLoss(alpha=0.2), "for a multilabel"),
        (
            tl.imbalance.LDAM(class_weights=tl.imbalance.EffectiveNumber(beta=1.0)),
            r"beta=1.0: expected a number in \[0, 1\)",
        ),
    ],
)
def test_errors_name_the_field(bench, term, message):
    with pytest.raises(tl.UserError, match=message):
        term.check(bench().setup)


def test_a_class_without_a_label_has_no_share(digits):
    data = tl.data.Digits(classes=("1", "2", "3"), labels=2)
    for term in (tl.imbalance.LogitAdjustment(), tl.imbalance.LDAM()):
        with pytest.raises(tl.UserError, match="needs a train label of every class"):
            tl.setup(digits(data=data, terms={"task": term}))


def test_distributions_as_labels_are_refused(bench):
    room = bench()
    term = tl.losses.CrossEntropy(class_weights={"0": 2})
    context = room.context(constants=term.constants(room.setup))
    soft = jax.nn.one_hot(room.batches["target"]["y"], 3)
    context.batches = {"target": {**room.batches["target"], "y": soft}}
    with pytest.raises(tl.UserError, match="labels are distributions"):
        term(View(context, "term", 0))


def test_smoothed_values_of_examples_are_the_mean():
    values = losses.cross_entropies(LOGITS, LABELS, 0.1)
    assert float(values.mean()) == float(losses.cross_entropy(LOGITS, LABELS, 0.1))
