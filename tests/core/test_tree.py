"""Trees: splitting and putting together are each other's inverse, norms are numpy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtl.core import tree as trees

NAMES = st.sampled_from(["stem", "stem2", "head", "header", "bn", "a.b"])
LEAVES = st.integers(-9, 9).map(float)
TREES = st.recursive(
    LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)


@st.composite
def masked(draw):
    tree = draw(TREES)
    return tree, jax.tree.map(lambda _: draw(st.booleans()), tree)


def test_paths_are_slashed_and_none_is_no_leaf():
    tree = {"stem": {"w": 1, "gone": None}, "row": (2, [3])}
    assert trees.flatten(tree) == {"row/0": 2, "row/1/0": 3, "stem/w": 1}


@given(masked())
def test_merge_undoes_partition(pair):
    tree, mask = pair
    yes, no = trees.partition(tree, mask)
    assert trees.merge(yes, no) == tree == trees.merge(no, yes)
    chosen = {p for p, m in trees.flatten(mask).items() if m}
    assert trees.flatten(yes).keys() == chosen
    assert trees.flatten(no).keys() == trees.flatten(tree).keys() - chosen


@given(masked())
def test_restrict_keeps_what_partition_keeps(pair):
    tree, mask = pair
    yes, _ = trees.partition(tree, mask)
    assert trees.restrict(tree, mask) == yes
    assert trees.restrict(yes, mask) == yes, "None leaves stay None"


def test_norms_sizes_and_products_are_numpys():
    rng = np.random.default_rng(0)
    a = {"x": rng.normal(size=(3, 4)), "y": {"z": rng.normal(size=5)}}
    b = {"x": rng.normal(size=(3, 4)), "y": {"z": rng.normal(size=5)}}
    left, right = (
        np.concatenate([t["x"].ravel(), t["y"]["z"]]).astype(np.float64) for t in (a, b)
    )
    a, b = (jax.tree.map(jnp.float32, t) for t in (a, b))
    assert float(trees.sum_squares(a)) == pytest.approx(left @ left, rel=1e-6)
    assert float(trees.dot(a, b)) == pytest.approx(left @ right, rel=1e-5)
    apart = trees.sub(a, b)
    assert float(trees.sum_squares(apart)) == pytest.approx(
        np.square(left - right).sum(), rel=1e-6
    )
    assert trees.norms(a)["y"] == pytest.approx(np.linalg.norm(left[12:]), rel=1e-6)
    assert (trees.size(a), trees.nbytes(a)) == (17, 68)


def test_sums_of_half_precision_are_wide():
    ones = {"w": jnp.full(4096, 0.1, jnp.bfloat16)}
    exact = 4096 * float(jnp.bfloat16(0.1)) ** 2
    assert float(trees.sum_squares(ones)) == pytest.approx(exact, rel=1e-5)
    assert trees.sum_squares(ones).dtype == jnp.float32


def test_sub_is_none_where_either_has_no_leaf():
    a = {"head": {"w": jnp.ones(2)}, "stem": None}
    b = {"head": {"w": None}, "stem": jnp.ones(2)}
    assert trees.sub(a, b) == {"head": {"w": None}, "stem": None}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_finds_one_bad_number(bad):
    good = {"w": jnp.zeros(3), "count": jnp.int32(7)}
    assert bool(trees.all_finite(good))
    assert not bool(trees.all_finite({**good, "v": jnp.array([0.0, bad])}))
    assert bool(trees.all_finite({"only": jnp.int32(1)}))


def test_copies_survive_the_donation_of_the_original():
    tree = {"w": jnp.arange(4.0)}
    copy = trees.copy(tree)
    jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(tree)
    np.testing.assert_array_equal(copy["w"], np.arange(4.0))
