"""Co-teaching and DivideMix against loops, and their mixture against scikit-learn."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.noisy import (
    CoTeaching,
    DivideMix,
    base,
    coteaching,
    dividemix,
    fit_two_gaussians,
    gaussian_mixture,
    second_network,
)


def _losses(n=400, seed=0):
    rng = np.random.default_rng(seed)
    low, high = rng.normal(0.2, 0.08, n // 2), rng.normal(0.7, 0.15, n - n // 2)
    return np.concatenate([low, high])


@pytest.mark.parametrize("iterations", [1, 5, 40])
def test_the_fitted_mixture_equals_scikit_learns(iterations):
    learn = pytest.importorskip("sklearn.mixture", reason="EM is held to sklearn's")
    x = _losses()
    start = fit_two_gaussians(jnp.asarray(x, jnp.float32), iterations=0)
    actual = fit_two_gaussians(jnp.asarray(x, jnp.float32), iterations=iterations)
    shares = np.asarray(start.shares, np.float64)
    theirs = learn.GaussianMixture(
        2,
        means_init=np.asarray(start.means, np.float64)[:, None],
        weights_init=shares / shares.sum(),
        precisions_init=1 / np.asarray(start.variances, np.float64)[:, None, None],
        reg_covar=gaussian_mixture.VARIANCE_OFFSET,
        max_iter=iterations,
        tol=0.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stopped before convergence
        theirs.fit(x[:, None])
    np.testing.assert_allclose(actual.means, theirs.means_[:, 0], rtol=1e-3)
    np.testing.assert_allclose(
        actual.variances, theirs.covariances_[:, 0, 0], rtol=5e-3
    )
    np.testing.assert_allclose(actual.shares, theirs.weights_, rtol=1e-3)
    p = theirs.predict_proba(x[:, None])[:, theirs.means_[:, 0].argmin()]
    np.testing.assert_allclose(
        gaussian_mixture.lower_component_probability(
            actual, jnp.asarray(x, jnp.float32)
        ),
        p,
        atol=2e-3,
    )


def test_the_mixture_starts_from_a_split_halfway_between_the_extremes():
    x = np.asarray([0.0, 0.1, 0.2, 0.9, 1.0])
    start = fit_two_gaussians(jnp.asarray(x), iterations=0)
    for i, part in enumerate((x[:3], x[3:])):
        np.testing.assert_allclose(start.means[i], part.mean(), rtol=1e-5)
        expected = part.var() + gaussian_mixture.VARIANCE_OFFSET
        np.testing.assert_allclose(start.variances[i], expected, rtol=1e-4)
        np.testing.assert_allclose(start.shares[i], len(part) / 5, rtol=1e-5)


def test_values_of_weight_zero_do_not_count():
    x = _losses(60)
    more = np.concatenate([x, np.full(20, 50.0)])
    weights = np.concatenate([np.ones(60), np.zeros(20)])
    plain = fit_two_gaussians(jnp.asarray(x, jnp.float32))
    actual = jax.jit(fit_two_gaussians)(
        jnp.asarray(more, jnp.float32), jnp.asarray(weights)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), actual, plain
    )


@pytest.mark.parametrize("x", [np.zeros(5), np.ones(1), np.asarray([0.0, 1.0])])
def test_a_mixture_of_few_or_equal_values_is_finite(x):
    actual = fit_two_gaussians(jnp.asarray(x, jnp.float32))
    assert trees.all_finite(actual)
    assert trees.all_finite(
        gaussian_mixture.lower_component_probability(actual, jnp.asarray(x))
    )


def test_the_mask_selects_the_smallest_losses():
    rng = np.random.default_rng(0)
    for share in (1.0, 0.75, 0.6, 0.01, 0.0):
        losses = rng.normal(size=8)
        actual = coteaching.small_loss_mask(jnp.asarray(losses), jnp.float32(share))
        count = max(int(share * 8 + 1e-4), 1)
        expected = np.zeros(8)
        expected[sorted(range(8), key=lambda i: losses[i])[:count]] = 1
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(
        coteaching.small_loss_mask(jnp.ones(4), 0.5), [1, 1, 0, 0]
    )


def test_each_network_learns_from_the_small_losses_of_the_other():
    first, second = jnp.asarray([1.0, 5.0, 2.0, 9.0]), jnp.asarray([7.0, 1.0, 3.0, 2.0])
    actual = coteaching.co_teaching_losses(first, second, 0.5)
    np.testing.assert_allclose(actual, [(5 + 9) / 2, (7 + 3) / 2])
    grads = jax.grad(lambda a: coteaching.co_teaching_losses(a, second, 0.5)[0])(first)
    np.testing.assert_allclose(grads, [0, 0.5, 0, 0.5])


def test_the_share_falls_linearly_to_one_minus_the_noise_rate():
    for step in (0, 5, 10, 50):
        actual = coteaching.small_loss_share(jnp.asarray(step), 100, 0.4, 0.1)
        np.testing.assert_allclose(actual, 1 - 0.4 * min(step / 10, 1), rtol=1e-6)


def test_the_second_network_differs_from_the_model(bench):
    harness = bench(frozen=("layer1",), new_head=True)
    second_params = second_network.init(jax.random.key(3), harness.setup, "target", 0.1)
    assert not trees.flatten(
        second_params["layer1"]
    )  # frozen parameters are the model's
    kernels = trees.flatten(second_params)["head/dense/kernel"]
    assert abs(kernels - harness.params["head"]["dense"]["kernel"]).max() > 0.1
    harness = bench()
    second_params = second_network.init(jax.random.key(3), harness.setup, "target", 0.1)
    for path, leaf in trees.flatten(second_params).items():
        loaded = trees.flatten(harness.params)[path]
        expected = 0.1 * float(np.std(loaded)) if loaded.ndim > 1 else 0.0
        assert float(np.std(leaf - loaded)) == pytest.approx(
            expected, rel=0.5, abs=1e-6
        )
    scratch = bench(scratch=True)
    first, second = (
        second_network.init(jax.random.key(k), scratch.setup, "target", 0.0)
        for k in (1, 2)
    )
    assert (
        abs(trees.flatten(trees.sub(first, second))["layer1/dense/kernel"]).max() > 0.1
    )


def test_co_teaching_trains_both_networks_but_no_frozen_stage(bench):
    harness = bench(frozen=("layer1",))
    term = CoTeaching(forget=0.5, ramp=0.0)
    term.check(harness.setup)
    second_params = term.init(jax.random.key(0), harness.setup)

    @jax.grad
    def grad(both):
        params = {**harness.params, "head": both["model"]}
        context = harness.context(
            params, term_params=both["second"], state=harness.stats
        )
        return term(View(context, "term", 0))[0]

    actual = grad({"model": harness.params["head"], "second": second_params})
    for part in actual.values():
        assert trees.sum_squares(part) > 0
    assert set(trees.flatten(actual["second"])) == {
        "head/dense/bias",
        "head/dense/kernel",
    }


def test_sharpening_and_refinement_are_the_papers_equations():
    rng = np.random.default_rng(0)
    p, w = rng.dirichlet(np.ones(3), 5), rng.random(5)
    hot = np.eye(3)[rng.integers(0, 3, 5)]
    mixed = w[:, None] * hot + (1 - w[:, None]) * p
    powered = mixed**2
    expected = powered / powered.sum(1, keepdims=True)
    actual = dividemix.refine_labels(jnp.asarray(p), hot, jnp.asarray(w), 0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    np.testing.assert_allclose(dividemix.sharpen(jnp.asarray(p), 1.0), p, rtol=1e-4)


def test_the_three_losses_of_dividemix_are_the_papers_equations():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(6, 3))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    t, labelled = rng.dirichlet(np.ones(3), 6), np.asarray([1, 0, 1, 1, 0, 0.0])
    cross = np.mean([-(t[i] @ np.log(p[i])) for i in range(6) if labelled[i]])
    square = np.mean([np.mean((p[i] - t[i]) ** 2) for i in range(6) if not labelled[i]])
    prior = sum(np.log((1 / 3) / p[:, c].mean()) / 3 for c in range(3))
    actual = dividemix.dividemix_losses(
        jnp.asarray(z, jnp.float32), t, jnp.asarray(labelled)
    )
    np.testing.assert_allclose(actual, [cross, square, prior], rtol=1e-5)
    for labelled in (jnp.zeros(6), jnp.ones(6)):
        parts = dividemix.dividemix_losses(jnp.asarray(z), t, labelled)
        assert trees.all_finite(parts)


def _step(term, harness, second_params, state, step, **fields):
    context = harness.context(
        term_params=second_params, state=state, step=step, **fields
    )
    value, metrics = term(View(context, "term", 0))
    return value, metrics, context.term_states["term"]


def test_the_warm_up_is_cross_entropy_of_both_networks(bench):
    harness = bench()
    term = DivideMix(warmup=0.5)
    second_params = term.init(jax.random.key(0), harness.setup)
    state = term.init_state(harness.setup)
    value, _, state = _step(term, harness, second_params, state, 2)
    batch = harness.batches["target"]
    expected = np.stack(
        [
            base.example_cross_entropies(
                harness.network.apply(params, harness.stats, batch["x"]).logits,
                batch["y"],
            )
            for params in (harness.params, second_params)
        ]
    )
    np.testing.assert_allclose(value, expected.mean(1).sum(), rtol=1e-5)
    np.testing.assert_allclose(state["losses"][:, batch["row"]], expected, rtol=1e-5)
    assert state["seen"].sum() == 6
    np.testing.assert_array_equal(state["span"], [[0, 1], [0, 1]])  # nothing fitted


def test_mixtures_are_fitted_to_the_known_losses_every_few_steps(bench):
    harness = bench()
    term = DivideMix(warmup=0.5, every=2)
    second_params = term.init(jax.random.key(0), harness.setup)
    state = term.init_state(harness.setup)
    spans = []
    for step in (4, 5, 6, 7):
        state = {**state, "losses": state["losses"] + 0.01 * step}
        _, metrics, state = _step(term, harness, second_params, state, step)
        spans.append(state)
    fitted = [not np.array_equal(s["span"], [[0, 1], [0, 1]]) for s in spans]
    # The warm-up ends at step 5; the next fit is due at step 7.
    assert fitted == [False, True, True, True]
    was_seen = np.asarray(state["seen"]) > 0
    losses = np.asarray(state["losses"])[0, was_seen]
    np.testing.assert_allclose(
        state["span"][0], [losses.min(), losses.max()], rtol=1e-5
    )
    scaled = (losses - losses.min()) / (losses.max() - losses.min())
    expected = fit_two_gaussians(jnp.asarray(scaled))
    np.testing.assert_allclose(state["mixtures"].means[0], expected.means, rtol=1e-3)
    assert 0 <= metrics["labelled"] <= 1


def test_each_network_learns_from_the_division_by_the_other(bench):
    harness = bench()
    term = DivideMix(warmup=0.0, every=1000)
    second_params = term.init(jax.random.key(0), harness.setup)
    state = term.init_state(harness.setup)
    # The first network's mixture calls every loss low, the second's every loss high.
    sides = [[-1.0, 1e3], [-1e3, 1.0]]
    mixtures = gaussian_mixture.Mixture(
        jnp.asarray(sides), jnp.full((2, 2), 10.0), jnp.full((2, 2), 0.5)
    )
    state = {**state, "mixtures": mixtures}
    _, metrics, _ = _step(
        term, harness, second_params, state, 3
    )  # a step without a fit
    assert metrics["labelled"] == 0  # the second network divides for the model


def test_all_views_are_mixed(bench):
    calls = []

    def shift(key, x):
        calls.append(x.shape)
        return x + 1.0

    harness = bench()
    term = DivideMix(warmup=0.0, views=2, augment=(shift,))
    term.check(harness.setup)
    second_params = term.init(jax.random.key(0), harness.setup)
    value, _, _ = _step(term, harness, second_params, term.init_state(harness.setup), 3)
    assert calls == [(6, 5)]
    assert np.isfinite(value)


@pytest.mark.parametrize("term", [CoTeaching(), DivideMix(warmup=0.0)])
def test_results_are_finite_for_a_batch_of_one_class(bench, term):
    harness = bench()
    batch = {**harness.batches["target"], "y": jnp.zeros(6, int)}
    second_params, state = (
        term.init(jax.random.key(0), harness.setup),
        term.init_state(harness.setup),
    )
    batches = {"target": batch}
    value, metrics, state = _step(
        term, harness, second_params, state, 3, batches=batches
    )
    assert trees.all_finite((value, metrics, state))


def test_runs_train_both_networks_and_store_the_second_ones_statistics(digits):
    """BatchNorm statistics and trainable parameters of both networks move in a run."""
    for term in (
        CoTeaching(forget=0.3),
        DivideMix(warmup=0.3, every=2, unlabelled=1.0),
    ):
        exp = digits(
            model=tl.models.CNN(widths=(4,), units=8, norm=True),
            data=tl.data.Digits(label_noise=0.3),
            terms={"task": term},
        )
        run = tl.setup(exp)
        before = trees.copy(run.state)
        tl.train(run, progress=False)
        term_state = run.state.terms["task"]
        stats = term_state["stats"] if isinstance(term, DivideMix) else term_state
        start = before.terms["task"]
        start = start["stats"] if isinstance(term, DivideMix) else start
        for moved, was in ((stats, start), (run.state.stats, before.stats)):
            assert trees.sum_squares(trees.sub(moved, was)) > 0
        for part in ("model", "terms"):
            moved = trees.sub(run.state.trainable[part], before.trainable[part])
            assert trees.sum_squares(moved) > 0
        assert trees.all_finite(run.state.trainable)


def test_caching_frozen_features_does_not_change_the_second_network(digits):
    """The second network shares the frozen stages, so caching them changes nothing."""
    ends = []
    for cache in ("memory", "off"):
        exp = digits(
            terms={"task": CoTeaching(forget=0.3)},
            optim=tl.optim.AdamW(lr=1e-2, groups={"layer1": tl.FROZEN, ".*": 1.0}),
            cache=cache,
        )
        run = tl.setup(exp)
        tl.train(run, progress=False)
        assert (run.cached is not None) == (cache == "memory"), run.notes
        ends.append(run.state.trainable)
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_errors_name_the_field(bench):
    setup = bench().setup
    for term, message in (
        (CoTeaching(forget=1.5), "terms.term.forget=1.5"),
        (CoTeaching(noise=-1.0), "noise"),
        (DivideMix(views=2), "the views would all be the same"),
        (DivideMix(temperature=0.0), "temperature"),
        (DivideMix(every=0), "every"),
    ):
        with pytest.raises(UserError, match=message):
            term.check(setup)
    tokens = [{"x": {"input_ids": jnp.zeros((2, 3), int)}, "y": jnp.zeros(2, int)}]
    text = dataclasses.replace(setup, batches=lambda stream: iter(tokens))
    with pytest.raises(UserError, match="mixes inputs"):
        DivideMix().init(jax.random.key(0), text)
