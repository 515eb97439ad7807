"""Optimal transport against scipy, closed forms in one dimension, and POT."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from jaxtl.analysis.alignment import OTMapping, optimal_transport


def cost_of(seed, n, m, d=2):
    rng = np.random.default_rng(seed)
    xs, xt = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 1
    return xs, xt, ((xs[:, None] - xt[None]) ** 2).sum(-1)


def assert_margins(plan, n, m, atol=1e-9):
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(1), 1 / n, atol=atol)
    np.testing.assert_allclose(plan.sum(0), 1 / m, atol=atol)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 7), m=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_the_exact_plan_has_the_least_cost(seed, n, m):
    _, _, cost = cost_of(seed, n, m)
    plan = optimal_transport.exact(cost)
    assert_margins(plan, n, m)
    # With n·m copies of unit mass it is an assignment.
    copies = np.repeat(np.repeat(cost, m, 0), n, 1)
    rows, columns = optimize.linear_sum_assignment(copies)
    least = copies[rows, columns].sum() / (n * m)
    assert (plan * cost).sum() == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 13)])
def test_the_exact_plan_in_one_dimension_gives_the_wasserstein_distance(n, m):
    rng = np.random.default_rng(0)
    xs, xt = rng.normal(size=(n, 1)), rng.normal(size=(m, 1)) + 2
    plan = optimal_transport.exact(np.abs(xs - xt.T))
    distance = (plan * np.abs(xs - xt.T)).sum()
    reference = stats.wasserstein_distance(xs.ravel(), xt.ravel())
    assert distance == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("entropy", [0.05, 0.5, 5.0])
def test_sinkhorn_converges_to_the_plan_of_plain_scaling(entropy):
    _, _, cost = cost_of(1, 9, 6)
    plan = optimal_transport.sinkhorn(cost, entropy, 100_000, 1e-13)
    assert_margins(plan, 9, 6)
    kernel = np.exp(-cost / entropy)
    u, v = np.ones(9), np.ones(6)
    for _ in range(20_000):
        u = (1 / 9) / (kernel @ v)
        v = (1 / 6) / (kernel.T @ u)
    np.testing.assert_allclose(plan, u[:, None] * kernel * v, atol=1e-9)


def test_sinkhorn_approaches_the_exact_plan_as_entropy_falls():
    _, _, cost = cost_of(2, 8, 8)
    least = (optimal_transport.exact(cost) * cost).sum()
    # The gap is at most entropy · log(n) (Weed, 2018).
    for entropy in (0.5, 0.1):
        plan = optimal_transport.sinkhorn(cost, entropy, 5_000, 1e-10)
        gap = (plan * cost).sum() - least
        assert -1e-9 <= gap <= entropy * np.log(8)
    plan = optimal_transport.sinkhorn(cost, 1e6)
    np.testing.assert_allclose(plan, 1 / 64, atol=1e-6)
    tiny = optimal_transport.sinkhorn(cost, 1e-5, 50)  # no underflow
    assert np.isfinite(tiny).all()


def test_class_penalty_is_the_gradient():
    rng = np.random.default_rng(3)
    plan, ys = rng.uniform(0.1, 1, (5, 3)), np.array([0, 1, 0, 2, 1])

    def penalty(p):
        return sum((p[ys == c].sum(0) + 1e-3) ** 0.5 for c in (0, 1, 2)).sum()

    expected = np.empty_like(plan)
    for i in range(5):
        for j in range(3):
            step = np.zeros_like(plan)
            step[i, j] = 1e-6
            expected[i, j] = (penalty(plan + step) - penalty(plan - step)) / 2e-6
    np.testing.assert_allclose(
        optimal_transport.class_penalty(plan, ys), expected, rtol=1e-6
    )


def test_the_class_penalty_keeps_classes_apart():
    rng = np.random.default_rng(4)
    ys = np.arange(20) % 2
    xs = rng.normal(size=(20, 2)) + 2.0 * ys[:, None]
    xt = rng.normal(size=(20, 2)) + 2.0 * ys[:, None]

    def mixed(plan):
        share = plan[ys == 0].sum(0) / plan.sum(0)
        return np.minimum(share, 1 - share).mean()

    unpenalized = OTMapping(entropy=1.0).fit(xs, xt, ys).plan_
    penalized = OTMapping(entropy=1.0, classes=5.0).fit(xs, xt, ys).plan_
    assert_margins(penalized, 20, 20, 1e-6)
    assert mixed(penalized) < 0.3 * mixed(unpenalized)


def test_optimal_transport_recovers_a_shift():
    rng = np.random.default_rng(5)
    xs = rng.normal(size=(15, 3))
    method = OTMapping()
    # For squared distances the best plan of a shift is the shift (Brenier).
    zs, zt = method.fit_transform(xs, (xs + [4.0, -1.0, 2.0])[::-1])
    np.testing.assert_allclose(zs, xs + [4.0, -1.0, 2.0], atol=1e-12)
    assert zt.shape == (15, 3)
    near = xs[2:3] + 1e-6
    np.testing.assert_allclose(
        method.transform(near, "source"), near + [4.0, -1.0, 2.0], atol=1e-9
    )


def test_metrics_agree_with_their_formulas():
    xs, xt, _ = cost_of(8, 6, 6)
    for metric, function in (
        ("cityblock", lambda a, b: np.abs(a - b).sum()),
        ("cosine", lambda a, b: 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
    ):
        cost = np.array([[function(a, b) for b in xt] for a in xs])
        plan = OTMapping(metric=metric).fit(xs, xt).plan_
        assert (plan * cost).sum() == pytest.approx(
            (optimal_transport.exact(cost) * cost).sum(), abs=1e-12
        )


def test_scales_divide_the_cost():
    xs, xt, cost = cost_of(6, 7, 5)
    for scale, size in (("max", cost.max()), ("median", np.median(cost))):
        plan = OTMapping(entropy=0.1, scale=scale).fit(xs, xt).plan_
        np.testing.assert_allclose(
            plan, optimal_transport.sinkhorn(cost / size, 0.1), atol=1e-12
        )


def test_plans_agree_with_pot():
    ot = pytest.importorskip("ot")
    xs, xt, cost = cost_of(7, 12, 9)
    a, b, ys = np.full(12, 1 / 12), np.full(9, 1 / 9), np.arange(12) % 3
    exact = optimal_transport.exact(cost)
    assert (exact * cost).sum() == pytest.approx(ot.emd2(a, b, cost), abs=1e-10)
    for entropy in (0.1, 1.0):
        np.testing.assert_allclose(
            optimal_transport.sinkhorn(cost, entropy, 100_000, 1e-13),
            ot.sinkhorn(a, b, cost, entropy, stopThr=1e-13, numItermax=100_000),
            atol=1e-8,
        )
    np.testing.assert_allclose(
        # Its ten rounds count the first plan, without a penalty.
        optimal_transport.class_regularized(cost, ys, 1.0, 0.1, 9, 100_000),
        ot.da.sinkhorn_lpl1_mm(
            a, ys, b, cost, 1.0, 0.1, stopInnerThr=1e-12, numInnerItermax=100_000
        ),
        atol=1e-5,
    )
    reference = ot.da.SinkhornTransport(reg_e=1.0, tol=1e-12, max_iter=100_000)
    mapped = reference.fit(Xs=xs, Xt=xt).transform(Xs=xs)
    mapped_here, _ = OTMapping(entropy=1.0, steps=100_000).fit_transform(xs, xt)
    np.testing.assert_allclose(mapped_here, mapped, atol=1e-6)
