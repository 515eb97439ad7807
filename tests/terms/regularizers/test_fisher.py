"""Diagonal Fisher and MAS against closed forms in numpy, and torch's own gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.regularizers.fisher import diagonal_fisher, mas

N, D, K = 7, 4, 3


def linear(params, x):
    return x @ params["w"] + params["b"]


@pytest.fixture(scope="module")
def case():
    """Returns (params, x, float64 logits) of a linear model."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(D, K)), "b": rng.normal(size=K)}
    x = rng.normal(size=(N, D))
    logits = x @ params["w"] + params["b"]
    params = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
    return params, jnp.asarray(x, jnp.float32), logits


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _outer(x, per_logit):
    """Returns the mean over examples of x² ⊗ what each logit contributes."""
    x = np.asarray(x, np.float64)
    w = sum(np.outer(a**2, b) for a, b in zip(x, per_logit)) / len(x)
    return {"w": w, "b": np.mean(per_logit, axis=0)}


def _same(found, expected, rtol=1e-4):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_softmax_regression(case, chunk):
    params, x, logits = case
    p = _softmax(logits)
    y = np.array([0, 1, 2, 0, 1, 2, 2])
    found = jax.jit(lambda q: diagonal_fisher(linear, q, x, y, chunk=chunk))(params)
    _same(found, _outer(x, (np.eye(K)[y] - p) ** 2))
    found = jax.jit(lambda q: diagonal_fisher(linear, q, x, chunk=chunk))(params)
    _same(found, _outer(x, p * (1 - p)))


def test_independent_sigmoids(case):
    params, x, logits = case
    p = _sigmoid(logits)
    y = (np.random.default_rng(1).random((N, K)) < 0.5).astype(np.float32)
    found = diagonal_fisher(linear, params, x, y, task="multilabel")
    _same(found, _outer(x, (y - p) ** 2))
    # The expectation by enumeration: every label of every example, with its odds.
    labels = [np.array(np.unravel_index(i, (2,) * K)) for i in range(2**K)]
    odds = [np.prod(np.where(label, p, 1 - p), axis=1) for label in labels]
    each = sum(o[:, None] * (label - p) ** 2 for o, label in zip(odds, labels))
    _same(diagonal_fisher(linear, params, x, task="multilabel"), _outer(x, each))


def test_regression_with_variance_one(case):
    params, x, logits = case
    y = np.random.default_rng(2).normal(size=(N, K)).astype(np.float32)
    found = diagonal_fisher(linear, params, x, y, task="regression")
    _same(found, _outer(x, (y - logits) ** 2))
    found = diagonal_fisher(linear, params, x, task="regression")
    _same(found, _outer(x, np.ones((N, K))))
    single = {"w": params["w"][:, :1], "b": params["b"][:1]}
    found = diagonal_fisher(linear, single, x, y[:, 0], task="regression")
    _same(found, _outer(x, (y[:, :1] - logits[:, :1]) ** 2))


def test_drawn_labels_estimate_the_expectation(case):
    params, x, logits = case
    p = _softmax(logits)

    @jax.jit
    @jax.vmap
    def drawn(key):
        return diagonal_fisher(linear, params, x, key=key, exact=2)

    found = drawn(jax.random.split(jax.random.key(0), 4000))
    for name, value in _outer(x, p * (1 - p)).items():
        error = np.std(found[name], axis=0) / np.sqrt(4000)
        assert np.all(abs(np.mean(found[name], axis=0) - value) < 4.5 * error)
    with pytest.raises(UserError, match=r"3 classes are more than exact=2.*key="):
        diagonal_fisher(linear, params, x, exact=2)


def _bigrams():
    """Returns (table, x): log p(next | token) is the log softmax of the token's row."""
    rng = np.random.default_rng(3)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]])
    ids = rng.integers(0, K, mask.shape)
    x = {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask)}
    return rng.normal(size=(K, K)), x, ids, mask


def test_language_sums_over_the_real_tokens_of_an_example():
    table, x, ids, mask = _bigrams()
    p = _softmax(table)
    expected, true = np.zeros((K, K)), np.zeros((K, K))
    for row, real in zip(ids, mask):
        score = np.zeros((K, K))
        for t in range(3):
            if real[t] and real[t + 1]:
                score[row[t]] += np.eye(K)[row[t + 1]] - p[row[t]]
                true[row[t]] += p[row[t]] * (1 - p[row[t]]) / len(ids)
        expected += score**2 / len(ids)

    def f(params, x):
        return params[x["input_ids"]]

    table = jnp.asarray(table, jnp.float32)
    found = diagonal_fisher(f, table, x, jnp.zeros(3), task="language", chunk=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)

    @jax.jit
    @jax.vmap
    def drawn(key):
        return diagonal_fisher(f, table, x, task="language", key=key)

    found = drawn(jax.random.split(jax.random.key(0), 4000))
    error = np.std(found, axis=0) / np.sqrt(4000)
    assert np.all(abs(np.mean(found, axis=0) - true) < 4.5 * error + 1e-9)


def test_mas_of_a_linear_model(case):
    params, x, logits = case
    found = mas(linear, params, x, chunk=3)
    each = [np.abs(2 * np.outer(a, f)) for a, f in zip(np.asarray(x), logits)]
    _same(found, {"w": np.mean(each, 0), "b": np.abs(2 * logits).mean(0)})


def test_mas_of_language_sums_over_the_real_tokens():
    table, x, ids, mask = _bigrams()
    expected = np.zeros((K, K))
    for row, real in zip(ids, mask):
        slope = np.zeros((K, K))
        for t in range(3):
            if real[t] and real[t + 1]:
                slope[row[t]] += 2 * table[row[t]]
        expected += np.abs(slope) / len(ids)
    table = jnp.asarray(table, jnp.float32)
    found = mas(lambda p, x: p[x["input_ids"]], table, x, task="language")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_network_of_two_layers_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    arrays = {"u": rng.normal(size=(D, 5)), "v": rng.normal(size=(5, K))}
    x, y = rng.normal(size=(N, D)), rng.integers(0, K, N)
    weights = {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}

    def gradients(of):
        """Returns per-example gradients of a scalar of the logits, by autograd."""
        rows = []
        for i in range(N):
            logits = torch.tanh(torch.tensor(x[i]) @ weights["u"]) @ weights["v"]
            rows.append(torch.autograd.grad(of(i, logits), list(weights.values())))
        return {k: np.stack([r[j].numpy() for r in rows]) for j, k in enumerate("uv")}

    def f(params, x):
        return jnp.tanh(x @ params["u"]) @ params["v"]

    params = {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}
    x32 = jnp.asarray(x, jnp.float32)
    scores = gradients(lambda i, z: torch.log_softmax(z, -1)[y[i]])
    expected = {k: np.mean(g**2, 0) for k, g in scores.items()}
    _same(diagonal_fisher(f, params, x32, y), expected)
    hidden = np.tanh(x @ arrays["u"])
    p = _softmax(hidden @ arrays["v"])
    expected = dict.fromkeys(arrays, 0.0)
    for c in range(K):
        each = gradients(lambda i, z, c=c: torch.log_softmax(z, -1)[c])
        for k, g in each.items():
            expected[k] = expected[k] + np.mean(p[:, c, None, None] * g**2, 0)
    _same(diagonal_fisher(f, params, x32), expected)
    norms = gradients(lambda i, z: (z**2).sum())
    _same(mas(f, params, x32), {k: np.mean(abs(g), 0) for k, g in norms.items()})


def test_memory_does_not_grow_with_the_number_of_examples():
    params = {"w": jnp.zeros((200, K)), "b": jnp.zeros(K)}

    def held(count):
        x = jax.ShapeDtypeStruct((count, 200), jnp.float32)
        lowered = jax.jit(lambda p, x: diagonal_fisher(linear, p, x)).lower(params, x)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    # Each example more costs at most a few numbers, where its gradient has 603.
    assert held(1024) - held(64) < 960 * 8 * 4
