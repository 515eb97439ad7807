"""Function distance and LwF by numpy, scipy and torch; both sorts of head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import FunctionDistance, LwF
from jaxtl.terms.regularizers.function_distance import (
    bernoulli_kl,
    kl_divergence,
    squared_distance,
)

rng = np.random.default_rng(0)
PAIR = [3 * rng.normal(size=(4, 5)) for _ in "ab"]


def _call(term, room, params=None, own=None):
    return term(View(room.context(params, term_params=own), "term", 0))


def _mlp(params, x, head):
    """The bench's MLP by numpy, under a head."""
    x = np.asarray(x, np.float64)
    for dense in (params["layer1"]["dense"], head["dense"]):
        x = np.maximum(x, 0) if dense is head["dense"] else x
        x = x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"])
    return x


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_is_scipy_s_relative_entropy(temperature):
    p, q = (special.softmax(x / temperature, 1) for x in PAIR)
    with jax.enable_x64(True):
        got = kl_divergence(*map(jnp.asarray, PAIR), temperature)
    np.testing.assert_allclose(got, stats.entropy(p, q, axis=1), rtol=1e-10)


def test_bernoulli_kl_and_squares_by_loops():
    p, q = (special.expit(x / 1.5) for x in PAIR)
    expected = [
        sum(
            a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
            for a, b in zip(*rows)
        )
        for rows in zip(p, q)
    ]
    with jax.enable_x64(True):
        pair = [jnp.asarray(x) for x in PAIR]
        np.testing.assert_allclose(bernoulli_kl(*pair, 1.5), expected, rtol=1e-10)
        expected = ((PAIR[0] - PAIR[1]) ** 2).sum(1)
        np.testing.assert_allclose(squared_distance(*pair), expected, rtol=1e-12)


@given(seed=st.integers(0, 10**6), shift=st.floats(-5, 5))
@settings(max_examples=15, deadline=None)
def test_kl_is_not_negative_and_blind_to_a_shift(seed, shift):
    a, b = np.float32(np.random.default_rng(seed).normal(size=(2, 3, 4)))
    assert np.all(kl_divergence(a, b) > -1e-6)
    assert np.all(bernoulli_kl(a, b) > -1e-6)
    np.testing.assert_allclose(kl_divergence(a, a + shift), 0, atol=1e-5)
    assert np.all(bernoulli_kl(a, a) == 0)


@pytest.mark.parametrize("kind", [None, "sigmoid", "identity"])
@pytest.mark.parametrize("outputs", [None, 5])
def test_the_term_by_numpy(bench, kind, outputs):
    """With the model's own head where it is the source's, else the source's."""
    room = bench(source_outputs=outputs)
    term = FunctionDistance(temperature=2.0, kind=kind)
    term.check(room.setup)
    x, head = room.batches["target"]["x"], room.source.head
    theirs = _mlp(room.source.params, x, head)
    ours = _mlp(room.params, x, head if outputs else room.params["head"])
    if kind == "identity":
        expected = ((ours - theirs) ** 2).sum(1).mean()
    elif kind == "sigmoid":
        p, q = (special.expit(f / 2) for f in (theirs, ours))
        both = special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)
        expected = 4 * both.sum(1).mean()
    else:
        p, q = (special.softmax(f / 2, 1) for f in (theirs, ours))
        expected = 4 * stats.entropy(p, q, axis=1).mean()
    np.testing.assert_allclose(_call(term, room), expected, rtol=1e-3)
    said = "source's head on the model's" if outputs else "whose head is the source's"
    assert said in term.describe(room.setup)


@pytest.mark.parametrize("new_head", [False, True])
def test_it_is_0_at_the_source(bench, new_head):
    room = bench(moved=0.0, new_head=new_head)
    for kind in (None, "sigmoid", "identity"):
        term = FunctionDistance(kind=kind)
        value, grad = jax.value_and_grad(lambda p, t=term: _call(t, room, p))(
            room.params
        )
        np.testing.assert_allclose(value, 0, atol=1e-7)
        assert all(np.abs(g).max() < 1e-6 for g in jax.tree.leaves(grad))


def test_a_new_head_is_left_alone(bench):
    room = bench(source_outputs=5)
    grad = jax.grad(lambda p: _call(FunctionDistance(), room, p))(room.params)
    assert not any(np.any(g) for g in jax.tree.leaves(grad["head"]))
    assert np.any(grad["layer1"]["dense"]["kernel"])


@pytest.mark.parametrize("new_head", [False, True])
def test_texts_are_averaged_over_their_tokens(bench, new_head):
    room = bench("language", new_head=new_head)
    term = FunctionDistance()
    term.check(room.setup)
    batch, network = room.batches["target"], room.network
    head = room.source.head if new_head else room.params["head"]
    sides = [
        {**room.params, "head": head},
        {**room.source.params, "head": room.source.head},
    ]
    ours, theirs = (
        np.asarray(network.apply(p, {}, batch["x"]).logits, np.float64) for p in sides
    )
    p, q = (special.softmax(f, -1) for f in (theirs, ours))
    kl, mask = stats.entropy(p, q, axis=-1), np.asarray(batch["x"]["attention_mask"])
    assert not mask.all()
    np.testing.assert_allclose(_call(term, room), kl[mask].mean(), rtol=1e-3)


def test_lwf_is_the_authors_cross_entropy_less_the_entropy(bench):
    torch = pytest.importorskip("torch", reason="the reference is torch")
    room = bench(source_outputs=5)
    term = LwF()
    term.check(room.setup)
    own = jax.tree.map(lambda x: x + 0.1, term.init(jax.random.key(0), room.setup))
    x = room.batches["target"]["x"]
    old = torch.tensor(_mlp(room.source.params, x, room.source.head))
    new = torch.tensor(_mlp(room.params, x, own), requires_grad=True)
    kernel = torch.tensor(np.zeros((8, 5)), requires_grad=True)
    hidden = torch.tensor(_mlp(room.params, x, {"dense": _identity(8)}))
    soft = torch.softmax(old, 1) ** 0.5
    soft = soft / soft.sum(1, keepdim=True)
    guess = torch.softmax(new + hidden @ kernel, 1) ** 0.5
    guess = guess / guess.sum(1, keepdim=True)
    loss = -(soft * guess.log()).sum(1).mean()
    loss.backward()
    entropy = -(soft * soft.log()).sum(1).mean()
    value, (grads, body) = jax.value_and_grad(
        lambda o, p: _call(term, room, p, o), argnums=(0, 1)
    )(own, room.params)
    np.testing.assert_allclose(value, (loss - entropy).item(), rtol=1e-4)
    np.testing.assert_allclose(grads["dense"]["kernel"], kernel.grad, atol=1e-6)
    assert np.any(body["layer1"]["dense"]["kernel"])
    assert not np.any(body["head"]["dense"]["kernel"])


def _identity(width):
    return {"kernel": np.eye(width), "bias": np.zeros(width)}


def test_lwf_starts_from_the_source_s_head_at_0(bench):
    room = bench(source_outputs=5, moved=0.0)
    own = LwF().init(jax.random.key(0), room.setup)
    jax.tree.map(np.testing.assert_array_equal, own, room.source.head)
    np.testing.assert_allclose(_call(LwF(), room, own=own), 0, atol=1e-7)


def test_errors(bench):
    for cls in (FunctionDistance, LwF):
        with pytest.raises(UserError, match=r"from scratch"):
            cls().check(bench(scratch=True).setup)
        room = bench(new_head=True)
        room.source_network = None
        with pytest.raises(UserError, match=r"brings none; start from weights that ke"):
            cls().check(room.setup)
        with pytest.raises(UserError, match=r"temperature=0\.0.*above 0"):
            cls(temperature=0.0).check(bench().setup)
    with pytest.raises(UserError, match=r"did you mean 'softmax'"):
        FunctionDistance(kind="sofmax").check(bench().setup)
    with pytest.raises(UserError, match=r"LwF is a term for.*'language'"):
        LwF().check(bench("language").setup)
