"""Robust losses: against numpy float64 loops of the papers' equations, and limits."""

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


def _close(found, wanted, rtol=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-6)


def test_forward_correction_is_the_mixture_of_given_labels():
    z, y, p = _case()
    wanted = np.mean([-np.log(p[n] @ T[:, y[n]]) for n in range(len(y))])
    _close(loss_correction.forward_corrected(z, y, T), wanted)
    _close(
        loss_correction.forward_corrected(z, y, np.eye(3)), losses.cross_entropy(z, y)
    )
    grad = jax.grad(loss_correction.forward_corrected)(z, y, jnp.asarray(T))
    assert np.isfinite(grad).all()


def test_backward_correction_is_unbiased_for_the_clean_loss():
    """Theorem 1: averaged over given labels, it is the loss of the true one."""
    z, y, p = _case()
    inverse = np.linalg.inv(T)
    wanted = np.mean([-(inverse[y[n]] @ np.log(p[n])) for n in range(len(y))])
    _close(loss_correction.backward_corrected(z, y, inverse), wanted)
    for n, true in enumerate(y):
        each = [
            loss_correction.backward_corrected(
                z[n : n + 1], np.asarray([given]), inverse
            )
            for given in range(3)
        ]
        _close(T[true] @ np.asarray(each), -np.log(p[n, true]), rtol=1e-4)


def test_forward_correction_finds_the_clean_model():
    """Theorem 2: its minimiser is that of the clean loss: counts tell, closed form."""
    true = np.asarray([0.5, 0.3, 0.2])
    given = true @ T  # the distribution of labels that one x gets

    def expected(z):
        each = jax.vmap(
            lambda y: loss_correction.forward_corrected(
                z[None], y[None], jnp.asarray(T)
            )
        )(jnp.arange(3))
        return jnp.sum(jnp.asarray(given, jnp.float32) * each)

    z = jnp.zeros(3)
    step = jax.jit(lambda z: z - 2.0 * jax.grad(expected)(z))
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
def test_a_transition_matrix_is_stochastic(matrix, message):
    if message is None:
        assert transition_matrix.check_transition(matrix).shape == (1, 1)
        return
    with pytest.raises(UserError, match=message):
        transition_matrix.check_transition(matrix)


def test_terms_refuse_matrices_that_cannot_work(bench, tmp_path):
    setup = bench().setup
    np.save(tmp_path / "t.npy", T)
    for cls, given, message in (
        (ForwardCorrection, ((0.5, 0.5), (0.2, 0.8)), "2 × 2, and the model has 3"),
        (ForwardCorrection, ((1, 0, 0), (1, 0, 0), (0, 0, 1)), "column 1 is all 0"),
        (BackwardCorrection, ((1, 0, 0), (1, 0, 0), (0, 0, 1)), "no inverse"),
        (ForwardCorrection, "", "nested tuples"),
        (ForwardCorrection, str(tmp_path / "absent.npy"), "absent.npy"),
    ):
        with pytest.raises(UserError, match=message):
            cls(transition=given).check(setup)
    room = bench()
    nested = tuple(map(tuple, T.tolist()))
    values = []
    for given in (str(tmp_path / "t.npy"), nested):
        term = ForwardCorrection(transition=given)
        term.check(setup)
        view = View(room.context(constants=term.constants(setup)), "term", 0)
        values.append(float(term(view)[0]))
    assert values[0] == values[1]


def test_anchor_points_find_the_noise():
    """Predictions p(true | x) @ T of examples, some of them certain (eq. 12)."""
    rng = np.random.default_rng(0)
    clean = np.concatenate([np.eye(3), rng.dirichlet(np.ones(3), 200)])
    rng.shuffle(clean)
    _close(estimate_transition(clean @ T), T)
    noisy = np.concatenate([clean @ T, [[0.05, 0.0, 0.95]]])  # an outlier for class 2
    assert abs(estimate_transition(noisy) - T).max() > 0.1
    # The largest p(2 | x) is the outlier's; one place below it stands a true anchor.
    place = 1 - 1 / len(noisy)
    _close(estimate_transition(noisy, quantile=place)[2], T[2])
    for p, quantile, message in (
        (np.ones((4, 2)), 1.0, "sums to 2"),
        (clean, 0.0, "quantile=0"),
        (np.ones(3), 1.0, "classes"),
    ):
        with pytest.raises(UserError, match=message):
            estimate_transition(p, quantile)


@pytest.mark.parametrize("q", [0.05, 0.3, 0.7, 1.0])
def test_gce_is_the_papers(q):
    z, y, p = _case()
    wanted = np.mean([(1 - p[n, y[n]] ** q) / q for n in range(len(y))])
    _close(gce.generalized_cross_entropy(z, y, q), wanted)
    k = 0.3
    cut = [(1 - max(p[n, y[n]], k) ** q) / q for n in range(len(y))]
    _close(gce.generalized_cross_entropy(z, y, q, k), np.mean(cut))
    grad = jax.grad(gce.generalized_cross_entropy)(z, y, q, k)
    below = p[np.arange(len(y)), y] < k
    assert 0 < below.sum() < len(below)
    np.testing.assert_array_equal(np.abs(grad).max(1) == 0, below)


def test_gces_limits():
    """q → 0 is cross-entropy, q = 1 half of the ℓ₁ distance; values and gradients."""
    z, y, p = _case(1)
    both = jax.jit(jax.value_and_grad(gce.generalized_cross_entropy))
    entropy = jax.value_and_grad(losses.cross_entropy)(z, y)
    for q in (0.0, 1e-7, 1e-5):
        value, grad = both(z, y, q)
        _close(value, entropy[0], rtol=1e-3)
        np.testing.assert_allclose(grad, entropy[1], atol=1e-4)
    hot = np.eye(3)[y]
    _close(both(z, y, 1.0)[0], np.abs(p - hot).sum(1).mean() / 2)


def test_gces_gradient_weighs_by_confidence():
    """∂L_q/∂θ = p_y^q · ∂CE/∂θ, the paper's section 3.3."""
    z, y, p = _case(2)
    grad = jax.grad(gce.generalized_cross_entropy)(z, y, 0.7)
    plain = jax.grad(losses.cross_entropy)(z, y)
    factor = p[np.arange(len(y)), y] ** 0.7
    np.testing.assert_allclose(grad, factor[:, None] * plain, atol=1e-6)


def test_sce_is_the_papers(bench):
    z, y, p = _case()
    log_q = np.full((3, 3), -4.0)
    np.fill_diagonal(log_q, 0.0)
    reverse = np.mean([-(p[n] @ log_q[y[n]]) for n in range(len(y))])
    _close(sce.reverse_cross_entropy(z, y), reverse)
    room = bench()
    value, extra = SCE(alpha=0.3, beta=2.0)(View(room.context(), "term", 0))
    _close(value, 0.3 * extra["cross_entropy"] + 2.0 * extra["reverse"])
    logits = room.network.apply(
        room.params, room.stats, room.batches["target"]["x"]
    ).logits
    labels = room.batches["target"]["y"]
    _close(extra["cross_entropy"], losses.cross_entropy(logits, labels))


def test_symmetric_losses_are_symmetric():
    """Σ_y L(p, y) is a constant for MAE and RCE, which is what makes them robust."""
    z, _, _ = _case(3, n=5)
    for loss, total in (
        (lambda z, y: gce.generalized_cross_entropy(z, y, 1.0), 2.0),
        (sce.reverse_cross_entropy, 4.0 * 2),
    ):
        sums = sum(loss(z, np.full(5, label)) for label in range(3))
        _close(sums, total)


def test_elr_is_the_papers(bench):
    rng = np.random.default_rng(0)
    z, y, p = _case()
    t = rng.dirichlet(np.ones(3), len(y)) * 0.8
    clipped = np.clip(p, 1e-4, 1 - 1e-4)
    wanted = np.mean([np.log(1 - clipped[n] @ t[n]) for n in range(len(y))])
    _close(elr.early_learning_penalty(z, jnp.asarray(t)), wanted)
    new = 0.7 * t + 0.3 * clipped / clipped.sum(1, keepdims=True)
    _close(elr.ensembled_targets(jnp.asarray(t), z, 0.7), new)


def test_elrs_memory_follows_each_example(bench):
    room = bench()
    term = ELR(strength=2.0, beta=0.9)
    state, wanted = term.init_state(room.setup), np.zeros((20, 3))
    x, row = room.batches["target"]["x"], np.asarray(room.batches["target"]["row"])
    z = np.asarray(room.network.apply(room.params, room.stats, x).logits, np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    for _ in range(3):
        context = room.context(state=state)
        value, _ = term(View(context, "term", 0))
        state = context.term_states["term"]
        wanted[row] = 0.9 * wanted[row] + 0.1 * p
        _close(state["targets"], wanted, rtol=1e-3)
    labels = np.asarray(room.batches["target"]["y"])
    cross = -np.mean(np.log(p[np.arange(len(p)), labels]))
    penalty = np.mean(np.log(1 - (p * wanted[row]).sum(1)))
    _close(value, cross + 2.0 * penalty, rtol=1e-3)


def test_elrs_gradient_holds_on_to_the_memory():
    """Where the label disagrees with the memory, the penalty weakens its pull."""
    z, y = jnp.asarray([[3.0, 0.0, 0.0]]), jnp.asarray([1])
    t = jnp.asarray([[0.95, 0.03, 0.02]])

    def total(z, strength):
        return losses.cross_entropy(z, y) + strength * elr.early_learning_penalty(z, t)

    pulls = [-jax.grad(total)(z, s)[0, 1] for s in (0.0, 1.0, 3.0)]
    assert pulls[0] > pulls[1] > pulls[2]


@pytest.mark.parametrize("cls", [GCE, SCE, ELR, ForwardCorrection, BackwardCorrection])
def test_a_batch_of_one_class_is_finite(bench, cls):
    nested = tuple(map(tuple, T.tolist()))
    fields = {"transition": nested} if "Corr" in cls.__name__ else {}
    room, term = bench(), cls(**fields)
    batch = {**room.batches["target"], "y": jnp.zeros(6, int)}
    given, state = term.constants(room.setup), term.init_state(room.setup)

    @jax.grad
    def grad(params):
        context = room.context(
            params, batches={"target": batch}, constants=given, state=state
        )
        return term(View(context, "term", 0))[0]

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grad(room.params)))


def test_numbers_out_of_range_are_named(bench):
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
