"""Robust losses against numpy loops of the papers' equations in float64, and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms import losses
from jaxtl.terms.context import View
from jaxtl.terms.noisy import (
    ELR,
    GCE,
    SCE,
    BackwardCorrection,
    ForwardCorrection,
    elr,
    estimate_transition,
    gce,
    loss_correction,
    sce,
    transition_matrix,
)

T = np.asarray([[0.7, 0.2, 0.1], [0.0, 0.9, 0.1], [0.25, 0.05, 0.7]])


def _case(seed=0, n=7, classes=3, scale=3.0):
    rng = np.random.default_rng(seed)
    z = scale * rng.normal(size=(n, classes))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return jnp.asarray(z, jnp.float32), rng.integers(0, classes, n), p


def _close(actual, expected, rtol=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6)


def test_forward_correction_is_the_log_likelihood_of_the_observed_labels():
    z, y, p = _case()
    expected = np.mean([-np.log(p[n] @ T[:, y[n]]) for n in range(len(y))])
    _close(loss_correction.forward_corrected(z, y, T), expected)
    _close(
        loss_correction.forward_corrected(z, y, np.eye(3)), losses.cross_entropy(z, y)
    )
    grad = jax.grad(loss_correction.forward_corrected)(z, y, jnp.asarray(T))
    assert np.isfinite(grad).all()


def test_backward_correction_is_unbiased_for_the_clean_loss():
    """Theorem 1: averaged over observed labels, it is the loss of the true one."""
    z, y, p = _case()
    inverse = np.linalg.inv(T)
    expected = np.mean([-(inverse[y[n]] @ np.log(p[n])) for n in range(len(y))])
    _close(loss_correction.backward_corrected(z, y, inverse), expected)
    for n, true in enumerate(y):
        label_losses = [
            loss_correction.backward_corrected(
                z[n : n + 1], np.asarray([label]), inverse
            )
            for label in range(3)
        ]
        _close(T[true] @ np.asarray(label_losses), -np.log(p[n, true]), rtol=1e-4)


def test_forward_correction_is_minimized_by_the_clean_model():
    """Theorem 2: its minimizer is that of the clean loss, in closed form."""
    true = np.asarray([0.5, 0.3, 0.2])
    probabilities = true @ T  # the distribution of labels that one x gets

    def expected_loss(z):
        label_losses = jax.vmap(
            lambda y: loss_correction.forward_corrected(
                z[None], y[None], jnp.asarray(T)
            )
        )(jnp.arange(3))
        return jnp.sum(jnp.asarray(probabilities, jnp.float32) * label_losses)

    z = jnp.zeros(3)
    step = jax.jit(lambda z: z - 2.0 * jax.grad(expected_loss)(z))
    for _ in range(2000):
        z = step(z)
    _close(jax.nn.softmax(z), true, rtol=1e-2)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "square matrix"),
        ("no numbers", "square matrix"),
        ([[0.5, 0.5], [0.9, 0.2]], "row 1 sums to 1.1"),
        ([[0.9, 0.3], [0.1, 0.7]], "it may be transposed"),
        ([[1.2, -0.2], [0.0, 1.0]], "holds -0.2 in row 0, column 1"),
        ([[np.nan, 1.0], [0.0, 1.0]], "nan"),
        ([[1.0]], None),
    ],
)
def test_a_transition_matrix_must_be_square_and_stochastic(matrix, message):
    if message is None:
        assert transition_matrix.check_transition(matrix).shape == (1, 1)
        return
    with pytest.raises(UserError, match=message):
        transition_matrix.check_transition(matrix)


def test_terms_reject_matrices_of_another_size_or_without_an_inverse(bench, tmp_path):
    setup = bench().setup
    np.save(tmp_path / "t.npy", T)
    for cls, transition, message in (
        (ForwardCorrection, ((0.5, 0.5), (0.2, 0.8)), "2 × 2, and the model has 3"),
        (ForwardCorrection, ((1, 0, 0), (1, 0, 0), (0, 0, 1)), "column 1 is all 0"),
        (BackwardCorrection, ((1, 0, 0), (1, 0, 0), (0, 0, 1)), "no inverse"),
        (ForwardCorrection, "", "nested tuples"),
        (ForwardCorrection, str(tmp_path / "absent.npy"), "absent.npy"),
    ):
        with pytest.raises(UserError, match=message):
            cls(transition=transition).check(setup)
    harness = bench()
    nested = tuple(map(tuple, T.tolist()))
    values = []
    for transition in (str(tmp_path / "t.npy"), nested):
        term = ForwardCorrection(transition=transition)
        term.check(setup)
        view = View(harness.context(constants=term.constants(setup)), "term", 0)
        values.append(float(term(view)[0]))
    assert values[0] == values[1]


def test_anchor_points_recover_the_transition_matrix():
    """Predictions p(true | x) @ T of examples, some of them certain (eq. 12)."""
    rng = np.random.default_rng(0)
    clean = np.concatenate([np.eye(3), rng.dirichlet(np.ones(3), 200)])
    rng.shuffle(clean)
    _close(estimate_transition(clean @ T), T)
    noisy = np.concatenate([clean @ T, [[0.05, 0.0, 0.95]]])  # an outlier for class 2
    assert abs(estimate_transition(noisy) - T).max() > 0.1
    # The largest p(2 | x) is the outlier's; the next largest is a true anchor's.
    quantile = 1 - 1 / len(noisy)
    _close(estimate_transition(noisy, quantile=quantile)[2], T[2])
    for p, quantile, message in (
        (np.ones((4, 2)), 1.0, "sums to 2"),
        (clean, 0.0, "quantile=0"),
        (np.ones(3), 1.0, "classes"),
    ):
        with pytest.raises(UserError, match=message):
            estimate_transition(p, quantile)


@pytest.mark.parametrize("q", [0.05, 0.3, 0.7, 1.0])
def test_gce_is_the_papers_equation(q):
    z, y, p = _case()
    expected = np.mean([(1 - p[n, y[n]] ** q) / q for n in range(len(y))])
    _close(gce.generalized_cross_entropy(z, y, q), expected)
    k = 0.3
    cut = [(1 - max(p[n, y[n]], k) ** q) / q for n in range(len(y))]
    _close(gce.generalized_cross_entropy(z, y, q, k), np.mean(cut))
    grad = jax.grad(gce.generalized_cross_entropy)(z, y, q, k)
    below = p[np.arange(len(y)), y] < k
    assert 0 < below.sum() < len(below)
    np.testing.assert_array_equal(np.abs(grad).max(1) == 0, below)


def test_gce_is_cross_entropy_and_absolute_error_in_its_limits():
    """q → 0 is cross-entropy (value and gradient), q = 1 half of the ℓ₁ distance."""
    z, y, p = _case(1)
    value_and_grad = jax.jit(jax.value_and_grad(gce.generalized_cross_entropy))
    entropy = jax.value_and_grad(losses.cross_entropy)(z, y)
    for q in (0.0, 1e-7, 1e-5):
        value, grad = value_and_grad(z, y, q)
        _close(value, entropy[0], rtol=1e-3)
        np.testing.assert_allclose(grad, entropy[1], atol=1e-4)
    hot = np.eye(3)[y]
    _close(value_and_grad(z, y, 1.0)[0], np.abs(p - hot).sum(1).mean() / 2)


def test_gradients_of_gce_are_weighted_by_confidence():
    """∂L_q/∂θ = p_y^q · ∂CE/∂θ, the paper's section 3.3."""
    z, y, p = _case(2)
    grad = jax.grad(gce.generalized_cross_entropy)(z, y, 0.7)
    plain = jax.grad(losses.cross_entropy)(z, y)
    factor = p[np.arange(len(y)), y] ** 0.7
    np.testing.assert_allclose(grad, factor[:, None] * plain, atol=1e-6)


def test_sce_is_the_papers_equation(bench):
    z, y, p = _case()
    log_q = np.full((3, 3), -4.0)
    np.fill_diagonal(log_q, 0.0)
    reverse = np.mean([-(p[n] @ log_q[y[n]]) for n in range(len(y))])
    _close(sce.reverse_cross_entropy(z, y), reverse)
    harness = bench()
    value, extra = SCE(alpha=0.3, beta=2.0)(View(harness.context(), "term", 0))
    _close(value, 0.3 * extra["cross_entropy"] + 2.0 * extra["reverse"])
    logits = harness.network.apply(
        harness.params, harness.stats, harness.batches["target"]["x"]
    ).logits
    labels = harness.batches["target"]["y"]
    _close(extra["cross_entropy"], losses.cross_entropy(logits, labels))


def test_symmetric_losses_sum_to_a_constant_over_labels():
    """Σ_y L(p, y) is constant for MAE and RCE, which makes them robust."""
    z, _, _ = _case(3, n=5)
    for loss, total in (
        (lambda z, y: gce.generalized_cross_entropy(z, y, 1.0), 2.0),
        (sce.reverse_cross_entropy, 4.0 * 2),
    ):
        sums = sum(loss(z, np.full(5, label)) for label in range(3))
        _close(sums, total)


def test_elr_is_the_papers_equations(bench):
    rng = np.random.default_rng(0)
    z, y, p = _case()
    t = rng.dirichlet(np.ones(3), len(y)) * 0.8
    clipped = np.clip(p, 1e-4, 1 - 1e-4)
    expected = np.mean([np.log(1 - clipped[n] @ t[n]) for n in range(len(y))])
    _close(elr.early_learning_penalty(z, jnp.asarray(t)), expected)
    new = 0.7 * t + 0.3 * clipped / clipped.sum(1, keepdims=True)
    _close(elr.ensembled_targets(jnp.asarray(t), z, 0.7), new)


def test_elr_averages_the_predictions_of_each_example(bench):
    harness = bench()
    term = ELR(strength=2.0, beta=0.9)
    state, expected = term.init_state(harness.setup), np.zeros((20, 3))
    x, row = (
        harness.batches["target"]["x"],
        np.asarray(harness.batches["target"]["row"]),
    )
    z = np.asarray(
        harness.network.apply(harness.params, harness.stats, x).logits, np.float64
    )
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    for _ in range(3):
        context = harness.context(state=state)
        value, _ = term(View(context, "term", 0))
        state = context.term_states["term"]
        expected[row] = 0.9 * expected[row] + 0.1 * p
        _close(state["targets"], expected, rtol=1e-3)
    labels = np.asarray(harness.batches["target"]["y"])
    cross = -np.mean(np.log(p[np.arange(len(p)), labels]))
    penalty = np.mean(np.log(1 - (p * expected[row]).sum(1)))
    _close(value, cross + 2.0 * penalty, rtol=1e-3)


def test_elr_weakens_the_gradient_of_labels_that_disagree_with_its_targets():
    """The penalty weakens the pull towards a label that the targets contradict."""
    z, y = jnp.asarray([[3.0, 0.0, 0.0]]), jnp.asarray([1])
    t = jnp.asarray([[0.95, 0.03, 0.02]])

    def total(z, strength):
        return losses.cross_entropy(z, y) + strength * elr.early_learning_penalty(z, t)

    pulls = [-jax.grad(total)(z, s)[0, 1] for s in (0.0, 1.0, 3.0)]
    assert pulls[0] > pulls[1] > pulls[2]


@pytest.mark.parametrize("cls", [GCE, SCE, ELR, ForwardCorrection, BackwardCorrection])
def test_gradients_are_finite_for_a_batch_of_one_class(bench, cls):
    nested = tuple(map(tuple, T.tolist()))
    fields = {"transition": nested} if "Corr" in cls.__name__ else {}
    harness, term = bench(), cls(**fields)
    batch = {**harness.batches["target"], "y": jnp.zeros(6, int)}
    constants, state = term.constants(harness.setup), term.init_state(harness.setup)

    @jax.grad
    def grad(params):
        context = harness.context(
            params, batches={"target": batch}, constants=constants, state=state
        )
        return term(View(context, "term", 0))[0]

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grad(harness.params)))


def test_errors_name_the_field_that_is_out_of_range(bench):
    setup = bench().setup
    for term, message in (
        (GCE(q=1.5), "terms.term.q=1.5"),
        (GCE(threshold=-1.0), "threshold"),
        (SCE(alpha=-1.0), "alpha"),
        (ELR(beta=1.5), "beta"),
        (ELR(stream="tagret"), "did you mean 'target'"),
    ):
        with pytest.raises(UserError, match=message):
            term.check(setup)
    with pytest.raises(UserError, match="GCE is a term for classification"):
        GCE().check(bench("regression").setup)
