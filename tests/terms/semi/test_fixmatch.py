"""FixMatch, FlexMatch and FreeMatch: masks by hand, thresholds by simulation."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_pseudo_targets import softmax

import jaxtl as tl
from jaxtl.terms.context import View
from jaxtl.terms.semi import fixmatch, flexmatch, freematch

NOISE = (tl.data.Noise(scale=0.5),)


def _log(p):
    return jnp.log(jnp.asarray(p, jnp.float32))


def test_the_mask_and_the_value_by_hand():
    weak = _log([[0.96, 0.04], [0.9, 0.1], [0.02, 0.98], [0.5, 0.5]])
    strong = _log([[0.7, 0.3], [0.6, 0.4], [0.8, 0.2], [0.5, 0.5]])
    value, mask, labels = fixmatch.fixmatch(weak, strong, 0.95)
    np.testing.assert_array_equal(mask, [1, 0, 1, 0])
    np.testing.assert_array_equal(labels[:3], [0, 0, 1])
    np.testing.assert_allclose(value, -(np.log(0.7) + np.log(0.2)) / 4, rtol=1e-5)
    _, mask, _ = fixmatch.fixmatch(weak, strong, jnp.asarray([0.97, 0.5]))
    np.testing.assert_array_equal(mask, [0, 0, 1, 0])


def _passes(harness, step, stream="unlabelled"):
    """Returns float64 probabilities of the weak view and logits of the strong one."""
    context = harness.context(step=step, seed=step)
    view = View(context, "term", 0)
    x = context.batches[stream]["x"]
    strong = context.view(stream, NOISE, view.key)
    assert np.abs(strong - x).max() > 0.1
    both = [
        harness.network.apply(harness.params, harness.stats, a).logits
        for a in (x, strong)
    ]
    return softmax(both[0]), np.asarray(both[1], np.float64)


def _cross_entropy(strong, labels, mask):
    log_p = np.log(softmax(strong))
    return -sum(m * row[k] for row, k, m in zip(log_p, labels, mask)) / len(labels)


def _redraw(harness, step):
    """Gives the unlabelled stream another batch, of rows partly seen before."""
    rng = np.random.default_rng(step)
    batch = harness.batches["unlabelled"]
    x = jnp.asarray(3 * rng.normal(size=batch["x"].shape), jnp.float32)
    rows = jnp.asarray(rng.permutation(12)[: len(x)], jnp.int32)
    harness.batches["unlabelled"] = {**batch, "x": x, "row": rows}


@pytest.mark.parametrize("batch", [2, 30])
def test_the_terms_value_whatever_the_labelled_batchs_size(bench, batch):
    harness = bench()
    label = harness.batches["target"]
    harness.batches["target"] = {
        k: jnp.resize(v, (batch, *v.shape[1:])) for k, v in label.items()
    }
    q, strong = _passes(harness, 3)
    term = tl.semi.FixMatch(threshold=0.5, strong=NOISE)
    value, extra = term(View(harness.context(step=3, seed=3), "term", 0))
    mask = q.max(-1) >= 0.5
    assert 0 < mask.mean() < 1
    np.testing.assert_allclose(extra["mask"], mask.mean(), rtol=1e-6)
    expected = _cross_entropy(strong, q.argmax(-1), mask)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("mapping", ["convex", "linear"])
def test_flexmatch_thresholds_follow_a_simulation(bench, warmup, mapping):
    harness, tau = bench(), 0.6
    term = tl.semi.FlexMatch(
        threshold=tau, warmup=warmup, mapping=mapping, strong=NOISE
    )
    # The stream has 12 rows of a data set of 20.
    harness.batches["unlabelled"]["row"] = jnp.arange(8)
    setup = harness.setup
    batches = [{"row": jnp.arange(8)}, {"row": jnp.arange(8, 12)}]
    object.__setattr__(setup, "batches", lambda stream: iter(batches))
    state = term.init_state(setup)
    assert state["memory"].shape == (20,)
    memory = dict.fromkeys(range(12))
    for step in range(5):
        _redraw(harness, step)
        q, strong = _passes(harness, step)
        context = harness.context(step=step, seed=step, state=state)
        value, extra = term(View(context, "term", 0))
        state = context.term_states["term"]
        # Algorithm 1: thresholds first, from what was remembered before this step.
        sigma = [sum(m == c for m in memory.values()) for c in range(3)]
        unused = sum(m is None for m in memory.values())
        most = max(*sigma, unused) if warmup else max(sigma)
        beta = [s / most if most else 0.0 for s in sigma]
        limits = [tau * (b / (2 - b) if mapping == "convex" else b) for b in beta]
        labels = q.argmax(-1)
        mask = [p.max() >= limits[k] for p, k in zip(q, labels)]
        np.testing.assert_allclose(extra["mask"], np.mean(mask), rtol=1e-6)
        np.testing.assert_allclose(extra["lowest"], min(limits), rtol=1e-5)
        np.testing.assert_allclose(extra["highest"], max(limits), rtol=1e-5)
        expected = _cross_entropy(strong, labels, mask)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
        rows = np.asarray(harness.batches["unlabelled"]["row"]).tolist()
        for row, p, label in zip(rows, q, labels):
            if p.max() >= tau:
                memory[row] = int(label)
        expected_memory = [-1 if memory[r] is None else memory[r] for r in range(12)]
        np.testing.assert_array_equal(state["memory"], expected_memory + [-2] * 8)


def test_freematch_thresholds_and_fairness_follow_a_simulation(bench):
    harness, m, share = bench(), 0.8, 0.3
    term = tl.semi.FreeMatch(momentum=m, fairness=share, strong=NOISE)
    state = term.init_state(harness.setup)
    tau, p, h = 1 / 3, np.full(3, 1 / 3), np.full(3, 1 / 3)
    masks = []
    for step in range(5):
        _redraw(harness, step)
        q, strong = _passes(harness, step)
        context = harness.context(step=step, seed=step, state=state)
        value, extra = term(View(context, "term", 0))
        state = context.term_states["term"]
        n, labels = len(q), q.argmax(-1)
        tau = m * tau + (1 - m) * sum(row.max() for row in q) / n
        p = m * p + (1 - m) * q.sum(0) / n
        h = m * h + (1 - m) * np.bincount(labels, minlength=3) / n
        limits = tau * p / max(p)
        mask = np.asarray([row.max() >= limits[k] for row, k in zip(q, labels)])
        masks.append(mask.mean())
        s = softmax(strong)
        shares = np.bincount(s.argmax(-1)[mask], minlength=3) / mask.sum()
        mean = s[mask].mean(0)
        prediction_shares = mean[shares > 0] / shares[shares > 0]
        target_shares = (p / h)[shares > 0] / (p / h).sum()
        prediction_shares = prediction_shares / prediction_shares.sum()
        fair = sum(a * np.log(b) for a, b in zip(target_shares, prediction_shares))
        np.testing.assert_allclose(extra["threshold"], tau, rtol=1e-5)
        np.testing.assert_allclose(state["probabilities"], p, rtol=1e-5)
        np.testing.assert_allclose(state["histogram"], h, rtol=1e-5)
        np.testing.assert_allclose(extra["mask"], mask.mean(), rtol=1e-6)
        np.testing.assert_allclose(extra["fairness"], fair, rtol=1e-4, atol=1e-6)
        expected = _cross_entropy(strong, labels, mask) + share * fair
        np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert min(masks) < max(masks)


def test_fairness_is_nothing_where_no_example_counts():
    state = {"probabilities": jnp.ones(3) / 3, "histogram": jnp.ones(3) / 3}
    assert freematch.fairness_loss(state, jnp.ones((4, 3)), jnp.zeros(4)) == 0


def test_a_class_never_seen_holds_flexmatchs_thresholds_down():
    memory = jnp.asarray([0, 0, 0, 1, -1, -2, -2])
    np.testing.assert_allclose(flexmatch.learning_status(memory, 3), [1, 1 / 3, 0])
    memory = jnp.asarray([0, -1, -1, -1, -1])
    np.testing.assert_allclose(flexmatch.learning_status(memory, 3), [0.25, 0, 0])
    status = flexmatch.learning_status(memory, 3, warmup=False)
    np.testing.assert_allclose(status, [1, 0, 0])
