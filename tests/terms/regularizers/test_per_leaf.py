"""What the starting-point regularizers share: which leaves count, and strengths."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import L1SP, L2SP, CosineSP, GroupLassoSP

TERMS = [L1SP, L2SP, GroupLassoSP, CosineSP]
EACH = pytest.mark.parametrize("cls", TERMS, ids=lambda c: c.__name__)


def _value(term, room, params=None):
    found = term(View(room.context(params), "term", 0))
    return found[0] if isinstance(found, tuple) else found


def _alone(cls, room):
    """Returns path -> the term's value where only that leaf counts, times leaves."""
    return {
        path: float(_value(cls(select=path), room))
        for path in trees.flatten(room.params)
    }


@EACH
def test_strengths_are_factors_of_leaves_and_the_first_match_counts(bench, cls):
    room = bench()
    alone = _alone(cls, room)
    strengths = {"layer1/.*/kernel": 3.0, "layer1": 0.0, ".*/bias": 0.25}
    term = cls(strengths=strengths)
    term.check(room.setup)
    factor = {
        "layer1/dense/kernel": 3.0,
        "layer1/dense/bias": 0.0,
        "head/dense/bias": 0.25,
        "head/dense/kernel": 1.0,  # no pattern covers it
    }
    assert set(factor) == set(alone)
    expected = sum(factor[path] * value for path, value in alone.items())
    expected /= len(alone) if cls is CosineSP else 1
    np.testing.assert_allclose(_value(term, room), expected, rtol=1e-5)


@EACH
def test_frozen_unselected_and_new_leaves_cost_nothing(bench, cls):
    room = bench(frozen=("layer1",))
    term = cls(select=".*/kernel")
    term.check(room.setup)
    grad = jax.grad(lambda p: _value(term, room, p))(room.params)
    assert not any(np.any(g) for g in jax.tree.leaves(grad["layer1"]))
    assert not np.any(grad["head"]["dense"]["bias"])
    assert np.any(grad["head"]["dense"]["kernel"])
    room = bench(new_head=True)
    cls().check(room.setup)
    grad = jax.grad(lambda p: _value(cls(), room, p))(room.params)
    assert not any(np.any(g) for g in jax.tree.leaves(grad["head"]))
    assert np.any(grad["layer1"]["dense"]["kernel"])


@EACH
def test_it_is_0_with_gradient_0_at_the_source(bench, cls):
    room = bench(moved=0.0)
    value, grad = jax.value_and_grad(lambda p: _value(cls(), room, p))(room.params)
    # Two lengths of one vector may be rounded differently.
    small = 1e-6 if cls is CosineSP else 0.0
    assert abs(value) <= small**2
    assert all(np.all(abs(g) <= small) for g in jax.tree.leaves(grad))  # no NaN either


@EACH
def test_errors(bench, cls):
    setup = bench().setup
    with pytest.raises(UserError, match=r"terms\.term.*from scratch.*an init="):
        cls().check(bench(scratch=True).setup)
    with pytest.raises(UserError, match=r"term\.select: .*'layer2'.*mean 'layer1'"):
        cls(select="layer2").check(setup)
    with pytest.raises(UserError, match=r"no trainable parameter.*in: layer1"):
        cls(select="head").check(bench(new_head=True).setup)
    with pytest.raises(UserError, match=r"term\.strengths: .*'hea'.*mean 'head'"):
        cls(strengths={"hea": 2.0}).check(setup)
    with pytest.raises(UserError, match=r"'layer1' decides nothing.*'\.\*'"):
        cls(strengths={".*": 2.0, "layer1": 1.0}).check(setup)
    with pytest.raises(UserError, match=r"strengths\['head'\]=-1.*at least 0"):
        cls(strengths={"head": -1.0}).check(setup)
    with pytest.raises(UserError, match=r"strengths\['head'\]='x': expected a number"):
        cls(strengths={"head": "x"}).check(setup)
    with pytest.raises(UserError, match=r"strengths=2\.0: expected a mapping"):
        cls(strengths=2.0).check(setup)


def test_strengths_may_speak_of_frozen_leaves(bench):
    # So that an ablation of what is frozen need not change them.
    L2SP(strengths={"layer1": 2.0}).check(bench(frozen=("layer1",)).setup)


def test_terms_with_strengths_compare_by_value():
    one, two = L1SP(strengths={"head": 1.0}), L1SP(strengths={"head": 1.0})
    assert one == two
    assert dataclasses.replace(one, strengths={}) != two
