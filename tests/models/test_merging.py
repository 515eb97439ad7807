"""Model merging: results by hand, by numpy in float64 and by PEFT, and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import UserError
from jaxtl.models import merging


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    values = {"stem": {"w": rng.normal(size=(3, 4))}, "head": {"b": rng.normal(size=5)}}
    return jax.tree.map(lambda x: np.float32(scale * x), values)


def wide(result):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), result)


def close(result, expected, rtol=1e-6, atol=1e-7):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        result,
        expected,
    )


def equal(result, expected):
    jax.tree.map(np.testing.assert_array_equal, result, expected)


# --- averages, interpolation ---------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.3, -0.5, 1.5])
def test_interpolation_is_numpys(alpha):
    a, b = tree(0), tree(1)
    expected = jax.tree.map(lambda x, y: (1 - alpha) * x + alpha * y, wide(a), wide(b))
    close(merging.interpolate(a, b, alpha), expected, atol=1e-6)
    traced = jax.jit(merging.interpolate)(a, b, jnp.float32(alpha))
    close(traced, expected, atol=1e-6)


@pytest.mark.parametrize("wrapped", [float, jnp.float32])
def test_the_ends_of_an_interpolation_are_exact(wrapped):
    a = {"w": np.float32([1e-30, 3.3, -np.inf, 0.1])}
    b = {"w": np.float32([1e30, -1e-7, 2.0, np.inf])}
    between = jax.jit(merging.interpolate)
    equal(between(a, b, wrapped(0)), a)
    equal(between(a, b, wrapped(1)), b)


# XLA's CPU backend takes subnormal numbers for 0.
FLOATS = st.floats(-100, 100, width=32, allow_subnormal=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=3, max_size=3), st.floats(0, 1))
def test_an_interpolated_value_lies_between_its_ends(pairs, alpha):
    a, b = np.float32(pairs).T
    between = np.asarray(merging.interpolate({"w": a}, {"w": b}, alpha)["w"])
    tolerance = 1e-5 * (1 + np.maximum(np.abs(a), np.abs(b)))
    assert (between >= np.minimum(a, b) - tolerance).all()
    assert (between <= np.maximum(a, b) + tolerance).all()
    same = merging.interpolate({"w": a}, {"w": a}, alpha)["w"]
    np.testing.assert_array_equal(same, a)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.integers(1, 5))
def test_the_order_of_a_soup_does_not_matter(order, copies):
    models = [tree(i) for i in range(4)]
    result = merging.uniform_soup([models[i] for i in order])
    close(result, jax.tree.map(lambda *x: np.mean(x, 0), *map(wide, models)), atol=1e-6)
    equal(merging.uniform_soup([models[0]] * copies), models[0])


def test_half_precision_is_averaged_in_float32_and_stays_half():
    models = [{"w": jnp.asarray([x], jnp.bfloat16)} for x in (1.0, 1.0078125, 1.0)]
    result = merging.uniform_soup(models)["w"]
    assert result.dtype == jnp.bfloat16
    # The mean 1.0026 rounds to 1; summed in bfloat16, 3.0078 would be 3.0 at once.
    assert float(result[0]) == 1.0
    assert merging.interpolate(*models[:2], 0.6)["w"].dtype == jnp.bfloat16


def test_none_stays_none():
    a = {"stem": np.ones(2, np.float32), "head": None}
    b = {"stem": np.zeros(2, np.float32), "head": np.ones(3, np.float32)}
    for result in (
        merging.interpolate(a, b, 0.5),
        merging.interpolate(b, a, 0.5),
        merging.uniform_soup([b, a]),
        merging.ema(a, b, 0.5),
        merging.swa(b, a, 1),
        merging.task_vector(b, a),
    ):
        assert result["head"] is None
        assert np.isfinite(result["stem"]).all()
    # A task vector without a head does not change the head.
    vector = merging.task_vector(a, {"stem": b["stem"], "head": None})
    for result in (
        merging.task_arithmetic(b, [vector], 2.0),
        merging.ties(b, [vector], 1.0, 2.0),
    ):
        np.testing.assert_array_equal(result["stem"], [2.0, 2.0])
        np.testing.assert_array_equal(result["head"], b["head"])
    assert merging.task_arithmetic(a, [vector], 1.0)["head"] is None
    assert merging.dare(jax.random.key(0), vector, 0.5)["head"] is None


# --- greedy soup --------------------------------------------------------------------


TARGET = 0.3217  # no two means of whole numbers lie equally far from it


def brute_greedy(values, target):
    """The recipe by hand on numbers: score −|mean − target|."""
    order = sorted(range(len(values)), key=lambda i: abs(values[i] - target))
    members = [order[0]]
    for i in order[1:]:
        before = abs(np.mean([values[j] for j in members]) - target)
        after = abs(np.mean([values[j] for j in (*members, i)]) - target)
        if after <= before:
            members.append(i)
    return members


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-64, 64), min_size=1, max_size=5, unique_by=abs))
def test_greedy_soup_is_the_recipe_on_numbers(values):
    values = [float(v) for v in values]
    models = [{"w": np.float32([v])} for v in values]
    result = merging.greedy_soup(models, lambda t: -abs(float(t["w"][0]) - TARGET))
    assert list(result.members) == brute_greedy(values, TARGET)
    mean = np.mean([values[i] for i in result.members])
    np.testing.assert_allclose(result.tree["w"], [mean], rtol=1e-5, atol=1e-6)
    assert result.score >= max(result.scores)


def test_greedy_soup_takes_ties_and_never_a_nan():
    # Scores by the mean: 1 alone .5; with 3 the mean 2 scores .5 again, "no worse".
    table = {1.0: 0.5, 3.0: 0.4, 2.0: 0.5, 9.0: np.nan, 5.0: np.nan}
    models = [{"w": np.float32([v])} for v in (9.0, 3.0, 1.0)]
    score = lambda t: table.get(round(float(t["w"][0]), 3), np.nan)  # noqa: E731
    result = merging.greedy_soup(models, score)
    assert result.members == (2, 1)
    assert result.score == 0.5
    alone = merging.greedy_soup(models[:1], score)
    assert alone.members == (0,)
    equal(alone.tree, models[0])


# --- averages over training ---------------------------------------------------------


def test_ema_is_the_recursion_and_its_warm_up_the_mean():
    history = [tree(i) for i in range(6)]
    average, expected = history[0], wide(history[0])
    for new in history[1:]:
        average = merging.ema(average, new, 0.9)
        expected = jax.tree.map(lambda m, x: 0.9 * m + 0.1 * x, expected, wide(new))
    close(average, expected, atol=1e-6)
    # With a step, the value before counts for nothing, not even a NaN.
    average = jax.tree.map(lambda x: np.full_like(x, np.nan), history[0])
    step = jax.jit(merging.ema)
    for t, new in enumerate(history):
        average = step(average, new, 0.999, t)
    close(average, jax.tree.map(lambda *x: np.mean(x, 0), *map(wide, history)), 1e-5)
    # From 9 / 10 on the decay is the smaller: then the recursion alone.
    last = merging.ema(average, history[0], 0.9, 50)
    close(last, merging.ema(average, history[0], 0.9))


def test_swa_is_the_running_mean():
    history = [tree(i) for i in range(5)]
    average = jax.tree.map(lambda x: np.full_like(x, np.nan), history[0])
    for n, new in enumerate(history):
        average = merging.swa(average, new, n)
        expected = [wide(t) for t in history[: n + 1]]
        close(average, jax.tree.map(lambda *x: np.mean(x, 0), *expected), atol=1e-6)


# --- task vectors -------------------------------------------------------------------


def test_task_arithmetic_adds_and_negates():
    theta0, first, second = (wide(tree(i)) for i in range(3))
    vectors = [merging.task_vector(t, theta0) for t in (first, second)]
    close(
        merging.task_arithmetic(theta0, vectors, 0.4),
        jax.tree.map(
            lambda z, a, b: z + 0.4 * ((a - z) + (b - z)), theta0, first, second
        ),
        atol=1e-6,
    )
    forgot = merging.task_arithmetic(theta0, vectors[:1], -1.0)
    close(forgot, jax.tree.map(lambda z, a: z - (a - z), theta0, first), atol=1e-6)


def test_ties_by_hand():
    # τ₁ = ( 3, -1,  2,  0), its two largest: ( 3, 0, 2, 0)
    # τ₂ = (-1,  4, -5,  1), its two largest: ( 0, 4, -5, 0)
    # sums: (3, 4, -3, 0); signs (+, +, −, none)
    # means of those that agree: 3, 4, −5 (τ₂ alone), 0; θ₀ = 10, λ = ½.
    first = {"a": np.float32([3, -1]), "b": np.float32([2, 0])}
    second = {"a": np.float32([-1, 4]), "b": np.float32([-5, 1])}
    theta0 = {"a": np.float32([10, 10]), "b": np.float32([10, 10])}
    result = merging.ties(theta0, [first, second], density=0.5, scale=0.5)
    equal(result, {"a": np.float32([11.5, 12.0]), "b": np.float32([7.5, 10.0])})
    # Trimming counts the whole tree, not each leaf: a quarter of τ₁ is its 3.
    trimmed = merging.trim(first, 0.25)
    equal(trimmed, {"a": np.float32([3, 0]), "b": np.float32([0, 0])})


def reference_ties(flat, density):
    """TIES-Merging, Algorithm 1, in numpy: flat is (tasks, parameters)."""
    trimmed = np.zeros_like(flat)
    for t, row in enumerate(flat):
        top = np.argsort(-np.abs(row))[: round(density * row.size)]
        trimmed[t, top] = row[top]
    out = np.zeros(flat.shape[1])
    for p in range(flat.shape[1]):
        positive = sum(v for v in trimmed[:, p] if v > 0)
        negative = -sum(v for v in trimmed[:, p] if v < 0)
        sign = np.sign(positive - negative)  # the larger total movement
        agree = [v for v in trimmed[:, p] if v != 0 and np.sign(v) == sign]
        out[p] = np.mean(agree) if agree else 0.0
    return out


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_the_algorithm_in_numpy(density):
    vectors = [tree(i) for i in range(3)]
    theta0 = jax.tree.map(np.zeros_like, vectors[0])
    flat = np.stack(
        [np.concatenate([v["head"]["b"], v["stem"]["w"].ravel()]) for v in vectors]
    )
    result = merging.ties(theta0, vectors, density, 0.7)
    result = np.concatenate([result["head"]["b"], np.ravel(result["stem"]["w"])])
    expected = reference_ties(flat.astype(np.float64), density)
    np.testing.assert_allclose(result, 0.7 * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("density", [0.25, 0.5, 0.9])
def test_ties_is_pefts(density):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft.utils.merge_utils")
    flat = np.random.default_rng(3).normal(size=(4, 40)).astype(np.float32)
    theirs = peft.ties([torch.tensor(f) for f in flat], torch.ones(4), density)
    zero = {"w": np.zeros(40, np.float32)}
    ours = merging.ties(zero, [{"w": f} for f in flat], density)["w"]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_ties_moves_nothing_where_the_task_vectors_cancel():
    theta0 = {"w": np.float32([1.0, 1.0])}
    pair = [{"w": np.float32([2.0, 1.0])}, {"w": np.float32([-2.0, 3.0])}]
    equal(merging.ties(theta0, pair, 1.0), {"w": np.float32([1.0, 3.0])})


def test_dare_drops_rescales_and_is_unbiased():
    vector = {"a": np.full(2000, 3.0, np.float32), "b": np.full(2000, -1.0, np.float32)}
    result = merging.dare(jax.random.key(0), vector, 0.9)
    for name, value in (("a", 3.0), ("b", -1.0)):
        x = np.asarray(result[name], np.float64)
        stays = x != 0
        np.testing.assert_allclose(x[stays], value / 0.1, rtol=1e-6)
        # Binomial: 200 of 2000 with a standard deviation of 13.4.
        assert abs(stays.sum() - 200) < 5 * 13.4
    # Each leaf draws its own mask: the same elements of both 20 times of 2000.
    both = (np.asarray(result["a"]) != 0) & (np.asarray(result["b"]) != 0)
    assert both.sum() < 60
    equal(merging.dare(jax.random.key(0), vector, 0.0), vector)
    traced = jax.jit(merging.dare)(jax.random.key(0), vector, 0.9)
    close(traced, result)


def test_dare_ties_is_ties_of_what_was_left():
    theta0, vectors = tree(9), [tree(i) for i in range(2)]
    result = merging.dare_ties(jax.random.key(1), theta0, vectors, 0.5, 0.3)
    keys = jax.random.split(jax.random.key(1), 2)
    dropped = [merging.dare(k, v, 0.5) for k, v in zip(keys, vectors)]
    for path in (("stem", "w"), ("head", "b")):
        rows = np.stack([np.ravel(t[path[0]][path[1]]) for t in dropped])
        moved = 0.3 * reference_ties(rows.astype(np.float64), 1.0)
        merged = np.ravel(result[path[0]][path[1]])
        start = np.ravel(theta0[path[0]][path[1]])
        np.testing.assert_allclose(merged, start + moved, rtol=1e-5, atol=1e-6)


# --- errors -------------------------------------------------------------------------


def test_trees_that_differ_are_errors_that_name_the_leaf():
    a, b = tree(0), tree(1)
    b["stem"]["w"] = b["stem"]["w"].T
    message = r"'stem/w' has the shape \(3, 4\) in one and \(4, 3\) in the other"
    for fn in (
        lambda: merging.interpolate(a, b, 0.5),
        lambda: merging.uniform_soup([a, b]),
        lambda: merging.task_vector(a, b),
        lambda: merging.task_arithmetic(a, [b], 1.0),
        lambda: merging.ties(a, [a, b]),
    ):
        with pytest.raises(UserError, match=message):
            fn()
    del b["stem"]
    with pytest.raises(UserError, match="only one has 'stem/w'"):
        merging.swa(a, b, 1)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda: merging.uniform_soup([]), "at least one model"),
        (lambda: merging.greedy_soup([], float), "at least one model"),
        (lambda: merging.ties({}, []), "at least one task vector"),
        (lambda: merging.trim(tree(0), 0.0), "density=0.0"),
        (lambda: merging.ties(tree(0), [tree(1)], 1.2), "density=1.2"),
        (lambda: merging.dare(jax.random.key(0), tree(0), 1.0), "drop=1.0"),
    ],
)
def test_bad_arguments_are_errors(fn, message):
    with pytest.raises(UserError, match=message):
        fn()
