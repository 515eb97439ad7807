"""Weak labels against loops: candidate sets, positives alone, label proportions."""

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


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _logits(harness, stream="target"):
    x = harness.batches[stream]["x"]
    z = harness.network.apply(harness.params, harness.stats, x).logits
    return np.asarray(z, np.float64)


def test_proden_normalizes_probabilities_over_the_candidates():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, 4))
    s = np.asarray([[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0] * 4, [0, 1, 0, 1]])
    p = _softmax(z)
    expected = np.zeros((5, 4))
    for n in range(5):
        total = sum(p[n, c] for c in range(4) if s[n, c])
        for c in range(4):
            expected[n, c] = p[n, c] / total if s[n, c] else 0.0
    actual = proden.candidate_weights(jnp.asarray(z, jnp.float32), jnp.asarray(s))
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    far = jnp.asarray([[200.0, 0.0, -200.0]])  # p of the candidates underflows
    np.testing.assert_allclose(
        proden.candidate_weights(far, jnp.asarray([[0, 1, 1]])), [[0, 1, 0]]
    )
    value = proden.weighted_cross_entropy(jnp.asarray(z, jnp.float32), expected)
    np.testing.assert_allclose(
        value, -np.mean((expected * np.log(p)).sum(1)), rtol=1e-5
    )


def test_prodens_weights_are_uniform_at_first_and_later_the_models_predictions(bench):
    harness, term = bench("multilabel"), PRODEN()
    term.check(harness.setup)
    batch, p = harness.batches["target"], _softmax(_logits(harness))
    s = np.asarray(batch["y"])
    weights = s / np.maximum(s.sum(1, keepdims=True), 1)
    state = term.init_state(harness.setup)
    for _ in range(2):
        context = harness.context(state=state)
        value, metrics = term(View(context, "term", 0))
        state = context.term_states["term"]
        expected = -np.mean((weights * np.log(p)).sum(1))
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
        weights = s * p / np.maximum((s * p).sum(1, keepdims=True), 1e-30)
        np.testing.assert_allclose(
            state["weights"][batch["row"]], weights, rtol=1e-4, atol=1e-7
        )
    np.testing.assert_allclose(metrics["candidates"], s.sum(1).mean(), rtol=1e-6)


def test_proden_with_a_single_candidate_is_cross_entropy():
    z, y = jnp.asarray([[1.0, 2.0, 0.5]]), np.asarray([1])
    candidates = jnp.eye(3)[y]
    actual = proden.weighted_cross_entropy(z, proden.candidate_weights(z, candidates))
    np.testing.assert_allclose(actual, losses.cross_entropy(z, y), rtol=1e-6)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("low", [False, True])
def test_the_non_negative_risk_and_its_gradient_are_the_papers(low, beta):
    rng = np.random.default_rng(0)
    gp, gu = rng.normal(size=6), rng.normal(size=9) + (-6.0 if low else 2.0)
    weights, prior, gamma = np.asarray([1, 1, 0, 1, 0, 1.0]), 0.4, 0.7
    positives = gp[weights > 0]
    right, wrong = _sigmoid(-positives).mean(), _sigmoid(positives).mean()
    negative = _sigmoid(gu).mean() - prior * wrong
    assert (negative < -beta) == low

    def risk(gp, gu):
        return nnpu.non_negative_risk(gp, weights, gu, prior, beta, gamma)[0]

    expected = prior * right + (-beta if low else negative)
    gp, gu = jnp.asarray(gp, jnp.float32), jnp.asarray(gu, jnp.float32)
    np.testing.assert_allclose(risk(gp, gu), expected, rtol=1e-5)
    on_p, on_u = jax.grad(risk, argnums=(0, 1))(gp, gu)
    slope = _sigmoid(np.asarray(gu)) * _sigmoid(-np.asarray(gu)) / 9
    bend = _sigmoid(np.asarray(gp)) * _sigmoid(-np.asarray(gp)) * weights / 4
    if low:  # algorithm 1, line 9: the gradient of −γ · R⁻ and of nothing else
        np.testing.assert_allclose(on_u, -gamma * slope, atol=1e-7)
        np.testing.assert_allclose(on_p, gamma * prior * bend, atol=1e-7)
    else:
        np.testing.assert_allclose(on_u, slope, atol=1e-7)
        np.testing.assert_allclose(on_p, -2 * prior * bend, atol=1e-7)


def test_margins_are_log_odds_of_the_positive_class():
    z = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(
        nnpu.margin(jnp.asarray(z[:, :1]), 1), z[:, 0], rtol=1e-6
    )
    two = nnpu.margin(jnp.asarray(z[:, :2]), 0)
    np.testing.assert_allclose(two, z[:, 0] - z[:, 1], rtol=1e-5)
    p = _softmax(z)
    expected = np.log(p[:, 1] / (1 - p[:, 1]))
    np.testing.assert_allclose(nnpu.margin(jnp.asarray(z), 1), expected, rtol=1e-5)


def test_nnpu_reads_positives_of_one_stream_and_all_examples_of_the_other(bench):
    harness, term = bench(), NNPU(prior=0.4, positive=2)
    term.check(harness.setup)
    value, metrics = term(View(harness.context(), "term", 0))
    is_positive = np.asarray(harness.batches["target"]["y"]) == 2
    g = [
        np.log(p[:, 2] / (1 - p[:, 2]))
        for p in (_softmax(_logits(harness, s)) for s in ("target", "unlabelled"))
    ]
    count = max(is_positive.sum(), 1)
    right = (is_positive * _sigmoid(-g[0])).sum() / count
    wrong = (is_positive * _sigmoid(g[0])).sum() / count
    negative = _sigmoid(g[1]).mean() - 0.4 * wrong
    np.testing.assert_allclose(value, 0.4 * right + max(negative, 0), rtol=1e-4)
    np.testing.assert_allclose(metrics["negative_risk"], negative, rtol=1e-3)
    np.testing.assert_allclose(metrics["positive_share"], np.mean(g[1] > 0))


def _bags(harness, term, batch=None, state=None):
    state = term.init_state(harness.setup) if state is None else state
    constants = term.constants(harness.setup)
    batches = {"target": batch or harness.batches["target"]}
    context = harness.context(constants=constants, state=state, batches=batches)
    value, metrics = term(View(context, "term", 0))
    return value, metrics, constants, context.term_states["term"]


def test_bags_of_one_example_give_cross_entropy(bench):
    harness = bench()
    value, _, _, _ = _bags(harness, LabelProportions(size=1))
    labels = harness.batches["target"]["y"]
    expected = losses.cross_entropy(jnp.asarray(_logits(harness)), labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_mean_predictions_of_bags_are_compared_with_their_proportions(bench):
    harness, term = bench(), LabelProportions(size=7)
    value, metrics, constants, _ = _bags(harness, term)
    row, y = (np.asarray(harness.batches["target"][k]) for k in ("row", "y"))
    p, total = _softmax(_logits(harness)), 0.0
    bags = sorted(set((row // 7).tolist()))
    for bag in bags:
        members = row // 7 == bag
        share = np.bincount(y[members], minlength=3) / members.sum()
        np.testing.assert_allclose(constants["proportions"][bag], share, rtol=1e-6)
        mean = p[members].mean(0)
        total += sum(s * np.log(s / m) for s, m in zip(share, mean) if s > 0)
    np.testing.assert_allclose(value, total / len(bags), rtol=1e-4)
    assert metrics["bags"] == len(bags)


def test_predictions_of_a_bags_other_examples_are_remembered(bench):
    harness, term = bench(), LabelProportions(size=20)
    batch = harness.batches["target"]
    value, _, _, state = _bags(harness, term)
    half = {k: v[:3] for k, v in batch.items()}
    again, metrics, _, _ = _bags(harness, term, half, state)
    np.testing.assert_allclose(again, value, rtol=1e-5)  # one bag, nothing moved
    assert metrics["remembered"] == 6


def test_labels_may_be_proportions_of_bags_from_a_file(bench, tmp_path):
    harness = bench("regression")
    share = np.random.default_rng(0).dirichlet(np.ones(3), 2)
    bags = np.arange(20) % 2
    np.save(tmp_path / "bags.npy", bags + 7)
    row = np.asarray(harness.batches["target"]["row"])
    batch = {
        **harness.batches["target"],
        "y": jnp.asarray(share[bags[row]], jnp.float32),
    }
    setup = dataclasses.replace(harness.setup, batches=lambda stream: iter([batch]))
    term = LabelProportions(bags=str(tmp_path / "bags.npy"))
    term.check(setup)
    constants = term.constants(setup)
    np.testing.assert_array_equal(constants["bags"], bags)
    np.testing.assert_allclose(constants["proportions"], share, rtol=1e-5)
    with pytest.raises(UserError, match="at least 0"):
        term.constants(harness.setup)  # whose y may be negative
    np.save(tmp_path / "short.npy", bags[:5])
    for name, message in (("short.npy", "each of the 20 rows"), ("no.npy", "no such")):
        with pytest.raises(UserError, match=message):
            LabelProportions(bags=str(tmp_path / name)).check(setup)


def test_divergence_is_zero_at_the_proportions_and_ignores_absent_bags():
    share = jnp.asarray([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    present = jnp.asarray([1.0, 0.0])
    means = jnp.asarray([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    value, grad = jax.value_and_grad(label_proportions.bag_divergence)(
        means, share, present
    )
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[1], 0)


@pytest.mark.parametrize("positives", [0, 1])
def test_gradients_are_finite_for_a_batch_of_one_class(bench, positives):
    harness = bench()
    batch = {**harness.batches["target"], "y": jnp.full(6, positives)}
    batches = {**harness.batches, "target": batch}
    for term in (NNPU(), LabelProportions()):
        state, constants = term.init_state(harness.setup), term.constants(harness.setup)

        @jax.grad
        def grad(params, term=term, state=state, constants=constants):
            context = harness.context(
                params, batches=batches, state=state, constants=constants
            )
            return term(View(context, "term", 0))[0]

        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grad(harness.params)))


def test_errors_name_the_field(bench):
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
