"""Weak labels: candidate sets, positives alone, proportions; against loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms import losses
from jaxtl.terms.context import View
from jaxtl.terms.noisy import (
    NNPU,
    PRODEN,
    LabelProportions,
    label_proportions,
    nnpu,
    proden,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _logits(room, stream="target"):
    x = room.batches[stream]["x"]
    z = room.network.apply(room.params, room.stats, x).logits
    return np.asarray(z, np.float64)


def test_proden_identifies_among_the_candidates():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, 4))
    s = np.asarray([[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0] * 4, [0, 1, 0, 1]])
    p = _softmax(z)
    wanted = np.zeros((5, 4))
    for n in range(5):
        total = sum(p[n, c] for c in range(4) if s[n, c])
        for c in range(4):
            wanted[n, c] = p[n, c] / total if s[n, c] else 0.0
    found = proden.candidate_weights(jnp.asarray(z, jnp.float32), jnp.asarray(s))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    far = jnp.asarray([[200.0, 0.0, -200.0]])  # p of the candidates underflows
    np.testing.assert_allclose(
        proden.candidate_weights(far, jnp.asarray([[0, 1, 1]])), [[0, 1, 0]]
    )
    value = proden.weighted_cross_entropy(jnp.asarray(z, jnp.float32), wanted)
    np.testing.assert_allclose(value, -np.mean((wanted * np.log(p)).sum(1)), rtol=1e-5)


def test_prodens_weights_are_uniform_first_and_then_the_models(bench):
    room, term = bench("multilabel"), PRODEN()
    term.check(room.setup)
    batch, p = room.batches["target"], _softmax(_logits(room))
    s = np.asarray(batch["y"])
    weights = s / np.maximum(s.sum(1, keepdims=True), 1)
    state = term.init_state(room.setup)
    for _ in range(2):
        context = room.context(state=state)
        value, metrics = term(View(context, "term", 0))
        state = context.term_states["term"]
        wanted = -np.mean((weights * np.log(p)).sum(1))
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-7)
        weights = s * p / np.maximum((s * p).sum(1, keepdims=True), 1e-30)
        np.testing.assert_allclose(
            state["weights"][batch["row"]], weights, rtol=1e-4, atol=1e-7
        )
    np.testing.assert_allclose(metrics["candidates"], s.sum(1).mean(), rtol=1e-6)


def test_proden_with_one_candidate_is_cross_entropy():
    z, y = jnp.asarray([[1.0, 2.0, 0.5]]), np.asarray([1])
    one = jnp.eye(3)[y]
    found = proden.weighted_cross_entropy(z, proden.candidate_weights(z, one))
    np.testing.assert_allclose(found, losses.cross_entropy(z, y), rtol=1e-6)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("low", [False, True])
def test_the_risk_is_the_papers_and_so_is_its_gradient(low, beta):
    rng = np.random.default_rng(0)
    gp, gu = rng.normal(size=6), rng.normal(size=9) + (-6.0 if low else 2.0)
    weights, prior, gamma = np.asarray([1, 1, 0, 1, 0, 1.0]), 0.4, 0.7
    chosen = gp[weights > 0]
    right, wrong = _sigmoid(-chosen).mean(), _sigmoid(chosen).mean()
    negative = _sigmoid(gu).mean() - prior * wrong
    assert (negative < -beta) == low

    def risk(gp, gu):
        return nnpu.non_negative_risk(gp, weights, gu, prior, beta, gamma)[0]

    wanted = prior * right + (-beta if low else negative)
    gp, gu = jnp.asarray(gp, jnp.float32), jnp.asarray(gu, jnp.float32)
    np.testing.assert_allclose(risk(gp, gu), wanted, rtol=1e-5)
    on_p, on_u = jax.grad(risk, argnums=(0, 1))(gp, gu)
    slope = _sigmoid(np.asarray(gu)) * _sigmoid(-np.asarray(gu)) / 9
    bend = _sigmoid(np.asarray(gp)) * _sigmoid(-np.asarray(gp)) * weights / 4
    if low:  # algorithm 1, line 9: the gradient of −γ · R⁻ and of nothing else
        np.testing.assert_allclose(on_u, -gamma * slope, atol=1e-7)
        np.testing.assert_allclose(on_p, gamma * prior * bend, atol=1e-7)
    else:
        np.testing.assert_allclose(on_u, slope, atol=1e-7)
        np.testing.assert_allclose(on_p, -2 * prior * bend, atol=1e-7)


def test_margins():
    z = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(
        nnpu.margin(jnp.asarray(z[:, :1]), 1), z[:, 0], rtol=1e-6
    )
    two = nnpu.margin(jnp.asarray(z[:, :2]), 0)
    np.testing.assert_allclose(two, z[:, 0] - z[:, 1], rtol=1e-5)
    p = _softmax(z)
    wanted = np.log(p[:, 1] / (1 - p[:, 1]))
    np.testing.assert_allclose(nnpu.margin(jnp.asarray(z), 1), wanted, rtol=1e-5)


def test_nnpu_reads_positives_of_one_stream_and_all_of_the_other(bench):
    room, term = bench(), NNPU(prior=0.4, positive=2)
    term.check(room.setup)
    value, metrics = term(View(room.context(), "term", 0))
    is_positive = np.asarray(room.batches["target"]["y"]) == 2
    g = [
        np.log(p[:, 2] / (1 - p[:, 2]))
        for p in (_softmax(_logits(room, s)) for s in ("target", "unlabelled"))
    ]
    count = max(is_positive.sum(), 1)
    right = (is_positive * _sigmoid(-g[0])).sum() / count
    wrong = (is_positive * _sigmoid(g[0])).sum() / count
    negative = _sigmoid(g[1]).mean() - 0.4 * wrong
    np.testing.assert_allclose(value, 0.4 * right + max(negative, 0), rtol=1e-4)
    np.testing.assert_allclose(metrics["negative_risk"], negative, rtol=1e-3)
    np.testing.assert_allclose(metrics["positive_share"], np.mean(g[1] > 0))


def _bags(room, term, batch=None, state=None):
    state = term.init_state(room.setup) if state is None else state
    given = term.constants(room.setup)
    batches = {"target": batch or room.batches["target"]}
    context = room.context(constants=given, state=state, batches=batches)
    value, metrics = term(View(context, "term", 0))
    return value, metrics, given, context.term_states["term"]


def test_bags_of_one_are_cross_entropy(bench):
    room = bench()
    value, _, _, _ = _bags(room, LabelProportions(size=1))
    labels = room.batches["target"]["y"]
    wanted = losses.cross_entropy(jnp.asarray(_logits(room)), labels)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_bags_are_compared_as_a_whole(bench):
    room, term = bench(), LabelProportions(size=7)
    value, metrics, given, _ = _bags(room, term)
    row, y = (np.asarray(room.batches["target"][k]) for k in ("row", "y"))
    p, total = _softmax(_logits(room)), 0.0
    bags = sorted(set((row // 7).tolist()))
    for bag in bags:
        mine = row // 7 == bag
        share = np.bincount(y[mine], minlength=3) / mine.sum()
        np.testing.assert_allclose(given["proportions"][bag], share, rtol=1e-6)
        mean = p[mine].mean(0)
        total += sum(s * np.log(s / m) for s, m in zip(share, mean) if s > 0)
    np.testing.assert_allclose(value, total / len(bags), rtol=1e-4)
    assert metrics["bags"] == len(bags)


def test_the_rest_of_a_bag_is_remembered(bench):
    room, term = bench(), LabelProportions(size=20)
    batch = room.batches["target"]
    value, _, _, state = _bags(room, term)
    half = {k: v[:3] for k, v in batch.items()}
    again, metrics, _, _ = _bags(room, term, half, state)
    np.testing.assert_allclose(again, value, rtol=1e-5)  # one bag, nothing moved
    assert metrics["remembered"] == 6


def test_proportions_may_be_all_that_is_known(bench, tmp_path):
    room = bench("regression")
    share = np.random.default_rng(0).dirichlet(np.ones(3), 2)
    of = np.arange(20) % 2
    np.save(tmp_path / "bags.npy", of + 7)
    row = np.asarray(room.batches["target"]["row"])
    batch = {**room.batches["target"], "y": jnp.asarray(share[of[row]], jnp.float32)}
    setup = dataclasses.replace(room.setup, batches=lambda stream: iter([batch]))
    term = LabelProportions(bags=str(tmp_path / "bags.npy"))
    term.check(setup)
    given = term.constants(setup)
    np.testing.assert_array_equal(given["bags"], of)
    np.testing.assert_allclose(given["proportions"], share, rtol=1e-5)
    with pytest.raises(UserError, match="at least 0"):
        term.constants(room.setup)  # whose y are any numbers
    np.save(tmp_path / "short.npy", of[:5])
    for name, message in (("short.npy", "each of the 20 rows"), ("no.npy", "no such")):
        with pytest.raises(UserError, match=message):
            LabelProportions(bags=str(tmp_path / name)).check(setup)


def test_divergence_is_zero_at_the_proportions_and_absent_bags_do_not_matter():
    share = jnp.asarray([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    there = jnp.asarray([1.0, 0.0])
    means = jnp.asarray([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    value, grad = jax.value_and_grad(label_proportions.bag_divergence)(
        means, share, there
    )
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[1], 0)


@pytest.mark.parametrize("positives", [0, 1])
def test_a_batch_of_one_class_is_finite(bench, positives):
    room = bench()
    batch = {**room.batches["target"], "y": jnp.full(6, positives)}
    batches = {**room.batches, "target": batch}
    for term in (NNPU(), LabelProportions()):
        state, given = term.init_state(room.setup), term.constants(room.setup)

        @jax.grad
        def grad(params, term=term, state=state, given=given):
            context = room.context(
                params, batches=batches, state=state, constants=given
            )
            return term(View(context, "term", 0))[0]

        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grad(room.params)))


def test_errors(bench):
    setup = bench().setup
    for term, message in (
        (NNPU(prior=1.5), "terms.term.prior=1.5"),
        (NNPU(positive=3), "a class from 0 to 2"),
        (NNPU(unlabelled="unlabeled"), "did you mean 'unlabelled'"),
        (PRODEN(), "PRODEN is a term for multilabel"),
        (LabelProportions(size=0), "size"),
    ):
        with pytest.raises(UserError, match=message):
            term.check(setup)
