"""Co-Tuning: both relationships by numpy and scikit-learn, the loss by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import CoTuning
from jaxtl.terms.regularizers.cotuning import direct_relationship, reverse_relationship

rng = np.random.default_rng(0)


def _dense(params, x):
    dense = params["dense"]
    return x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"])


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_the_direct_relationship_is_a_mean_per_class(seed):
    draw = np.random.default_rng(seed)
    known, labels = draw.dirichlet(np.ones(4), 12), draw.integers(0, 3, 12)
    table = direct_relationship(known, labels, 4)
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-12)
    for k in range(4):
        rows = [p for p, y in zip(known, labels) if y == k] or list(known)
        np.testing.assert_allclose(table[k], sum(rows) / len(rows), rtol=1e-12)


def test_the_reverse_relationship_is_scikit_learn_s_by_bayes():
    from sklearn.linear_model import LogisticRegression

    known = rng.dirichlet(np.full(4, 0.3), 60)
    labels = (known.argmax(1) + (rng.random(60) < 0.2)) % 3
    model = LogisticRegression(C=1 / (60 * 0.01), fit_intercept=False, tol=1e-8)
    coefficients = model.fit(known, labels).coef_
    marginal = known.mean(0)
    expected = np.zeros((3, 4))
    for s in range(4):
        p = np.exp(coefficients[:, s]) / np.exp(coefficients[:, s]).sum()
        expected[:, s] = p * marginal[s]
    expected /= expected.sum(1, keepdims=True)
    table = reverse_relationship(known, labels, 3, 0.01)
    np.testing.assert_allclose(table, expected, atol=1e-3)
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("approach", ["direct", "reverse"])
def test_the_term_by_numpy(bench, approach):
    room = bench(source_outputs=5, batch=30)
    batch = room.batches["target"]
    parts = [jax.tree.map(lambda a, s=s: a[s], batch) for s in np.split(range(30), [7])]
    setup = dataclasses.replace(room.setup, batches=lambda _: iter(parts))
    term = CoTuning(approach=approach, temperature=1.3, decay=0.02)
    term.check(setup)
    given, own = term.constants(setup), term.init(jax.random.key(0), setup)
    x, y = (np.asarray(batch[k], np.float64) for k in "xy")
    y = y.astype(int)

    def hidden(params):
        return np.maximum(_dense(params["layer1"], x), 0)

    logits = _dense(room.source.head, hidden(room.source.params))
    known = special.softmax(logits / 1.3, 1)
    if approach == "direct":
        table = direct_relationship(known, y, 3)
    else:
        table = reverse_relationship(np.float32(known), y, 3, 0.02)
    np.testing.assert_allclose(given["relationship"], table, atol=1e-4)
    own = jax.tree.map(lambda a: a + 0.1, own)
    log_q = special.log_softmax(_dense(own, hidden(room.params)), 1)
    expected = -np.mean([table[label] @ q for label, q in zip(y, log_q)])
    value = term(View(room.context(term_params=own, constants=given), "term", 0))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    mixed = {"target": {"x": batch["x"], "y": jax.nn.one_hot(batch["y"], 3)}}
    context = room.context(term_params=own, constants=given, batches=mixed)
    np.testing.assert_allclose(term(View(context, "term", 0)), expected, rtol=1e-4)


def test_gradients_reach_the_head_and_the_features(bench):
    room = bench(source_outputs=5)
    term = CoTuning()
    given, own = term.constants(room.setup), term.init(jax.random.key(0), room.setup)
    jax.tree.map(np.testing.assert_array_equal, own, room.source.head)

    def value(own, params):
        return term(
            View(room.context(params, term_params=own, constants=given), "term", 0)
        )

    head, body = jax.grad(value, argnums=(0, 1))(own, room.params)
    assert np.any(head["dense"]["kernel"])
    assert np.any(body["layer1"]["dense"]["kernel"])
    assert not jnp.any(body["head"]["dense"]["kernel"])


def test_errors(bench):
    with pytest.raises(UserError, match=r"from scratch"):
        CoTuning().check(bench(scratch=True).setup)
    room = bench(new_head=True)
    room.source_network = None
    with pytest.raises(UserError, match=r"CoTuning reads.*brings none"):
        CoTuning().check(room.setup)
    with pytest.raises(UserError, match=r"for classification.*'regression'"):
        CoTuning().check(bench("regression").setup)
    with pytest.raises(UserError, match=r"did you mean 'reverse'"):
        CoTuning(approach="revers").check(bench().setup)
