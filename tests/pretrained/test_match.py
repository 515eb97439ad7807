"""Matching: each leaf is loaded, re-initialized, skipped or complained about."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.pretrained.match import Weights, match


def arrays(spec, value):
    """Builds a nested tree from {path: shape}."""
    tree = {}
    for path, shape in spec.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.full(shape, value, np.float32)
    return tree


MODEL = {
    "stem/conv/kernel": (3, 3, 1, 4),
    "stem/bn/scale": (4,),
    "stem2/conv/kernel": (3, 3, 4, 4),
    "head/dense/kernel": (4, 3),
    "head/dense/bias": (3,),
}
STATS = {"stem/bn/mean": (4,), "stem/bn/var": (4,)}


def test_everything_that_fits_is_loaded():
    params, stats, source, rows = match(
        arrays(MODEL, 0.0),
        arrays(STATS, 0.0),
        Weights(arrays(MODEL, 1.0), arrays(STATS, 2.0)),
    )
    assert all((np.asarray(x) == 1).all() for x in jax.tree.leaves(params))
    assert all((np.asarray(x) == 2).all() for x in jax.tree.leaves(stats))
    assert {r.status for r in rows} == {"loaded"}
    assert [r.path for r in rows] == [*trees.flatten(params), *trees.flatten(stats)]
    assert jax.tree.structure(source.params) == jax.tree.structure(params)


def test_reset_keeps_the_initial_value_and_the_old_head():
    theirs = arrays({**MODEL, "head/dense/kernel": (4, 10)}, 1.0)
    params, _, source, rows = match(
        arrays(MODEL, 0.0),
        arrays(STATS, 0.0),
        Weights(theirs, arrays(STATS, 2.0)),
        reset=("head",),
    )
    assert (params["head"]["dense"]["kernel"] == 0).all()
    assert (params["stem"]["conv"]["kernel"] == 1).all()
    assert source.params["head"]["dense"] == {"kernel": None, "bias": None}
    assert source.head["dense"]["kernel"].shape == (4, 10)
    again = {r.path: r for r in rows if r.status == "re-initialized"}
    assert again["head/dense/kernel"].source_shape == (4, 10)
    assert set(again) == {"head/dense/kernel", "head/dense/bias"}


def test_a_reset_stage_reinitialises_its_statistics_too_and_not_its_near_namesake():
    params, stats, source, _ = match(
        arrays(MODEL, 0.0),
        arrays(STATS, 0.0),
        Weights(arrays(MODEL, 1.0), arrays(STATS, 2.0)),
        reset=("stem",),
    )
    assert (stats["stem"]["bn"]["mean"] == 0).all()
    assert source.stats["stem"]["bn"] == {"mean": None, "var": None}
    assert (params["stem2"]["conv"]["kernel"] == 1).all()


def test_a_string_is_one_pattern():
    weights = Weights(arrays(MODEL, 1.0), arrays(STATS, 2.0))
    params, *_ = match(arrays(MODEL, 0.0), arrays(STATS, 0.0), weights, reset="head")
    assert (params["head"]["dense"]["bias"] == 0).all()


def test_leaves_take_the_dtype_of_the_model():
    ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), arrays(MODEL, 0.0))
    params, *_ = match(
        ours,
        arrays(STATS, 0.0),
        Weights(arrays(MODEL, 1.5), arrays(STATS, 2.0)),
    )
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_only_the_head_differs_so_the_message_says_reset_head():
    theirs = {**MODEL, "head/dense/kernel": (4, 10), "head/dense/bias": (10,)}
    with pytest.raises(UserError) as error:
        match(
            arrays(MODEL, 0.0),
            arrays(STATS, 0.0),
            Weights(arrays(theirs, 1.0), arrays(STATS, 2.0)),
        )
    message = str(error.value)
    assert 'reset=("head",)' in message
    assert "- head/dense/kernel (4, 10)" in message
    assert "+ head/dense/kernel (4, 3)" in message
    assert "- head/dense/bias (10,)" in message


def test_all_problems_are_told_at_once():
    theirs = dict(MODEL)
    theirs["stem/conv1/kernel"] = theirs.pop("stem/conv/kernel")
    theirs["head/dense/bias"] = (7,)
    theirs["pooler/kernel"] = (4, 4)
    with pytest.raises(UserError) as error:
        match(
            arrays(MODEL, 0.0),
            arrays(STATS, 0.0),
            Weights(arrays(theirs, 1.0), {}),
        )
    message = str(error.value)
    assert "did you mean 'stem/conv1/kernel'" in message
    assert "- pooler/kernel (4, 4)" in message
    assert "+ stem/bn/mean (4,)" in message
    assert "1 of another shape, 3 missing in the weights, 2 unknown" in message


def test_superfluous_stages_are_named_for_ignore():
    theirs = arrays({**MODEL, "pooler/kernel": (4, 4)}, 1.0)
    weights = Weights(theirs, arrays(STATS, 2.0))
    with pytest.raises(UserError, match=r"ignore=\('pooler',\)"):
        match(arrays(MODEL, 0.0), arrays(STATS, 0.0), weights)
    *_, rows = match(
        arrays(MODEL, 0.0), arrays(STATS, 0.0), weights, ignore=("pooler",)
    )
    assert [r.path for r in rows if r.status == "skipped"] == ["pooler/kernel"]


@pytest.mark.parametrize("field", ["reset", "ignore"])
def test_a_pattern_that_matches_nothing_is_an_error(field):
    weights = Weights(arrays(MODEL, 1.0), arrays(STATS, 2.0))
    with pytest.raises(UserError, match=f"{field}.*'haed'.*did you mean 'head'"):
        match(arrays(MODEL, 0.0), arrays(STATS, 0.0), weights, **{field: ("haed",)})


@given(
    ours=st.sets(st.sampled_from(sorted(MODEL)), min_size=1),
    theirs=st.sets(st.sampled_from(sorted(MODEL)), min_size=1),
)
def test_no_leaf_is_ever_lost(ours, theirs):
    """Any two sets of leaves: everything is in the table, or everything is told."""
    model = arrays({p: MODEL[p] for p in ours}, 0.0)
    weights = Weights(arrays({p: MODEL[p] for p in theirs}, 1.0))
    try:
        params, _, _, rows = match(model, {}, weights)
    except UserError as error:
        assert ours != theirs
        told = str(error)
        assert all(f"+ {p} " in told for p in ours - theirs)
        assert all(f"- {p} " in told for p in theirs - ours)
    else:
        assert ours == theirs
        assert {r.path for r in rows} == set(trees.flatten(params))
