"""KMM and KLIEP against scipy and a known ratio; TrAdaBoost in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier

from jaxtl.analysis.alignment import KLIEP, KMM, TrAdaBoost, kliep, kmm, tradaboost

# Source N(0, 1), target N(0.7, 0.6²): the ratio of densities is known and bounded.
SOURCE, TARGET = stats.norm(0, 1), stats.norm(0.7, 0.6)


def gaussians(seed, n=400, m=300):
    rng = np.random.default_rng(seed)
    xs = SOURCE.rvs(n, random_state=rng)[:, None]
    return xs, TARGET.rvs(m, random_state=rng)[:, None]


def ratio(x):
    return (TARGET.pdf(x) / SOURCE.pdf(x)).ravel()


@given(
    seed=st.integers(0, 10**6),
    top=st.floats(0.6, 5),
    low=st.floats(0, 3),
    span=st.floats(0, 2),
)
@settings(max_examples=50, deadline=None)
def test_projection_gives_the_nearest_feasible_point(seed, top, low, span):
    rng = np.random.default_rng(seed)
    v = rng.normal(0, 3, 7)
    low = min(low, 7 * top)
    high = low + span
    projected = kmm.project(v, top, low, high)
    assert (projected >= 0).all()
    assert (projected <= top + 1e-12).all()
    assert low - 1e-9 <= projected.sum() <= high + 1e-9
    for _ in range(20):  # no feasible point makes an acute angle with v − found
        feasible = optimize.linprog(
            rng.normal(size=7),
            A_ub=[np.ones(7), -np.ones(7)],
            b_ub=[high, -low],
            bounds=(0, top),
        ).x
        assert (v - projected) @ (feasible - projected) <= 1e-7


@pytest.mark.parametrize(
    ("top", "slack"), [(1000.0, 0.9), (1000.0, 0.0), (1.5, 0.1), (1.0, 0.3)]
)
def test_kmm_solves_the_quadratic_program_as_scipy_does(top, slack):
    xs, xt = gaussians(0, 12, 9)
    gram, kappa = kmm.problem(xs, xt, 0.8)
    beta = kmm.solve(gram, kappa, top, slack, 50_000, 1e-9)

    def value(beta):
        return 0.5 * beta @ gram @ beta - kappa @ beta

    reference = optimize.minimize(
        value,
        np.ones(12),
        jac=lambda beta: gram @ beta - kappa,
        bounds=[(0, top)] * 12,
        constraints=[
            {"type": "ineq", "fun": lambda b: 12 * (1 + slack) - b.sum()},
            {"type": "ineq", "fun": lambda b: b.sum() - 12 * (1 - slack)},
        ],
        options={"maxiter": 2000, "ftol": 1e-13},
    )
    assert reference.success
    assert value(beta) == pytest.approx(reference.fun, abs=1e-6)
    assert value(beta) <= reference.fun + 1e-7
    assert (beta >= 0).all()
    assert (beta <= top).all()
    assert abs(beta.sum() - 12) <= 12 * slack + 1e-8


def test_the_objective_of_kmm_is_the_distance_of_mean_embeddings():
    xs, xt = gaussians(1, 8, 5)
    gram, kappa = kmm.problem(xs, xt, 1.3)
    beta = np.random.default_rng(0).uniform(0, 2, 8)

    def k(a, b):
        return np.exp(-((a - b) ** 2) / (2 * 1.3**2)).item()

    distance = 0.0
    for i in range(8):
        for j in range(8):
            distance += beta[i] * beta[j] * k(xs[i], xs[j]) / 64
        for j in range(5):
            distance -= 2 * beta[i] * k(xs[i], xt[j]) / 40
    value = (beta @ gram @ beta - 2 * kappa @ beta) / 64
    assert value == pytest.approx(distance, rel=1e-10)


def test_weights_match_the_targets_moments_and_the_true_ratio():
    xs, xt = gaussians(2)
    for method in (KMM(), KLIEP()):
        w = method.fit(xs, xt).weights
        w = w / w.mean()
        assert np.corrcoef(w, ratio(xs))[0, 1] > 0.9
        assert (w @ xs.ravel()) / len(xs) == pytest.approx(xt.mean(), abs=0.08)
        assert (w @ xs.ravel() ** 2) / len(xs) == pytest.approx((xt**2).mean(), abs=0.1)


def test_kliep_converges_to_the_true_ratio():
    grid = np.linspace(-0.5, 1.9, 25)[:, None]
    errors = []
    for n in (200, 5000):
        method = KLIEP(bandwidth=0.42).fit(*gaussians(0, n, n))
        errors.append(np.abs(method.ratio(grid) - ratio(grid)).mean())
    assert errors[1] < min(errors[0], 0.08 * ratio(grid).mean())


def test_weighted_least_squares_fits_the_target():
    # Shimodaira's: y = x³ − x, a line fitted under covariate shift.
    rng = np.random.default_rng(3)
    xs = rng.normal(0.5, 0.5, (300, 1))
    xt = rng.normal(0.0, 0.3, (300, 1))
    y = (xs**3 - xs).ravel() + rng.normal(0, 0.1, 300)
    goal = xt**3 - xt
    plain = LinearRegression().fit(xs, y)
    wrong = np.mean((plain.predict(xt) - goal.ravel()) ** 2)
    for method in (KMM(), KLIEP()):
        fitted = LinearRegression().fit(xs, y, sample_weight=method.fit(xs, xt).weights)
        assert np.mean((fitted.predict(xt) - goal.ravel()) ** 2) < 0.25 * wrong


def test_kliep_reaches_the_optimum_that_scipy_finds():
    xs, xt = gaussians(4, 30, 20)
    centers = xt[:6]
    phi, psi = (np.exp(-((x - centers.T) ** 2) / (2 * 0.5**2)) for x in (xs, xt))
    alpha = kliep.coefficients(phi, psi, 200_000, 1e-9)
    assert (alpha >= 0).all()
    assert (phi @ alpha).mean() == pytest.approx(1, abs=1e-12)
    reference = optimize.minimize(
        lambda a: -np.log(psi @ a).mean(),
        np.full(6, 1 / phi.mean(0).sum()),
        bounds=[(0, None)] * 6,
        constraints={"type": "eq", "fun": lambda a: (phi @ a).mean() - 1},
        options={"maxiter": 2000, "ftol": 1e-14},
    )
    assert reference.success
    assert np.log(psi @ alpha).mean() == pytest.approx(-reference.fun, abs=1e-7)


def test_the_tolerance_of_kliep_bounds_the_remaining_gain():
    xs, xt = gaussians(5, 60, 50)
    phi, psi = (np.exp(-((x - xt[:20].T) ** 2) / (2 * 0.4**2)) for x in (xs, xt))
    best = np.log(psi @ kliep.coefficients(phi, psi, 100_000, 1e-7)).mean()
    for tolerance in (1e-1, 1e-2, 1e-3):
        reached = np.log(psi @ kliep.coefficients(phi, psi, 100_000, tolerance)).mean()
        assert best - reached <= tolerance + 1e-7


def test_kliep_chooses_the_bandwidth_most_likely_on_held_out_rows():
    xs, xt = gaussians(6, 150, 100)
    method = KLIEP(centers=40).fit(xs, xt)
    order = np.random.default_rng(0).permutation(100)
    pooled = np.abs(np.subtract.outer(*[np.concatenate([xs, xt]).ravel()] * 2))
    median = np.median(pooled[np.triu_indices(250, 1)])
    centers, scores = xt[order[:40]], {}
    for factor in kliep.BANDWIDTHS:
        width, score = median * factor, 0.0
        for part in np.array_split(order, 5):
            training = np.setdiff1d(order, part)
            kernels = [
                np.exp(-((x - centers.T) ** 2) / (2 * width**2))
                for x in (xs, xt[training], xt[part])
            ]
            alpha = kliep.coefficients(kernels[0], kernels[1], 5_000, 1e-4)
            score += np.log(kernels[2] @ alpha).mean()
        scores[width] = score
    assert method.bandwidth_ == pytest.approx(max(scores, key=scores.get))


def labelled_domains(seed, n=60, m=20, flip=True):
    """A source with flipped labels in its second half, and a correct target."""
    rng = np.random.default_rng(seed)
    xs, xt = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    ys, yt = (xs[:, 0] > 0).astype(int), (xt[:, 0] > 0).astype(int)
    if flip:
        ys[n // 2 :] = 1 - ys[n // 2 :]
    return xs, ys, xt, yt


def test_weights_of_tradaboost_have_a_closed_form():
    xs, ys, xt, yt = labelled_domains(0)
    yt[:3] = 1 - yt[:3]  # so that no stump is perfect
    fitted = TrAdaBoost(rounds=12).fit(xs, ys, xt, yt)
    x, y = np.concatenate([xs, xt]), np.concatenate([ys, yt])
    beta = 1 / (1 + np.sqrt(2 * np.log(60) / 12))
    logs = np.zeros(80)
    for learner, error in zip(fitted.learners_, fitted.errors_):
        wrong = learner.predict(x) != y
        logs[:60] += np.where(wrong[:60], np.log(beta), 0)
        logs[60:] += np.where(wrong[60:], np.log((1 - error) / error), 0)
    expected = np.exp(logs) / np.exp(logs).sum()
    np.testing.assert_allclose(fitted.weights_, expected, rtol=1e-10)
    # Each error is the weighted one of the target alone.
    assert fitted.errors_[0] == pytest.approx(
        np.mean(fitted.learners_[0].predict(xt) != yt)
    )
    first = DecisionTreeClassifier(max_depth=1, random_state=0).fit(x, y)
    np.testing.assert_array_equal(fitted.learners_[0].predict(x), first.predict(x))


def test_two_classes_vote_by_the_papers_threshold():
    xs, ys, xt, yt = labelled_domains(1)
    yt[:3] = 1 - yt[:3]
    fitted = TrAdaBoost(rounds=11).fit(xs, ys, xt, yt)
    x = np.random.default_rng(2).normal(size=(200, 2))
    product, threshold = np.ones(200), 1.0
    for t in range(6 - 1, 11):  # rounds ⌈N/2⌉ … N
        error = min(fitted.errors_[t], 0.5 - 1e-10)  # the paper has no case above ½
        beta_t = error / (1 - error)
        product *= beta_t ** -fitted.learners_[t].predict(x).astype(float)
        threshold *= beta_t**-0.5
    np.testing.assert_array_equal(fitted.predict(x), (product >= threshold).astype(int))


def test_wrongly_labelled_source_rows_lose_their_weight():
    xs, ys, xt, yt = labelled_domains(3)
    fitted = TrAdaBoost(rounds=20).fit(xs, ys, xt, yt)
    correct, flipped = fitted.weights_[:30].mean(), fitted.weights_[30:60].mean()
    assert flipped < 0.1 * correct
    x = np.random.default_rng(4).normal(size=(500, 2))
    assert np.mean(fitted.predict(x) == (x[:, 0] > 0)) > 0.9


def test_errors_of_zero_and_one_half_are_clipped():
    weights = np.full(4, 0.25)
    for wrong in ([0, 0, 0, 0], [0, 0, 1, 1]):
        new, beta_t, error = tradaboost.update(weights, np.array(wrong, bool), 2, 0.5)
        assert np.isfinite(new).all()
        assert 0 < beta_t < 1
        assert error == np.mean(wrong[2:])
    assert tradaboost.source_factor(1, 10) == 1.0


def test_tradaboost_takes_three_classes_and_string_labels():
    rng = np.random.default_rng(5)
    names = np.array(["left", "middle", "right"])
    xs, xt = rng.uniform(-3, 3, (90, 1)), rng.uniform(-3, 3, (30, 1))
    ys, yt = (names[np.digitize(x.ravel(), [-1, 1])] for x in (xs + 0.2, xt))
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    fitted = TrAdaBoost(tree, rounds=10).fit(xs, ys, xt, yt)
    assert fitted.score(xt, yt) > 0.95
