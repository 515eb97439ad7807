"""Losses against torch, and what the terms say about bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.terms import losses
from jaxtl.terms.context import View
from jaxtl.terms.losses import (
    TASKS,
    BinaryCrossEntropy,
    CrossEntropy,
    NextToken,
    SquaredError,
    binary_cross_entropy,
    cross_entropy,
    for_task,
    metric_inputs,
    predictions,
    squared_error,
)

torch = pytest.importorskip("torch", reason="the losses are held against torch's")
F = torch.nn.functional


def _data(seed=0, rows=7, outputs=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (rows, outputs)).astype(np.float32)
    return logits, rng.integers(0, outputs, rows), rng.random((rows, outputs))


@given(seed=st.integers(0, 10**6), smoothing=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_cross_entropy_is_torchs(seed, smoothing):
    logits, labels, soft = _data(seed)
    soft = (soft / soft.sum(1, keepdims=True)).astype(np.float32)
    for target in (labels, soft):
        ours = cross_entropy(logits, target, smoothing)
        args = torch.tensor(logits), torch.tensor(target)
        theirs = F.cross_entropy(*args, label_smoothing=smoothing)
        np.testing.assert_allclose(ours, theirs.item(), rtol=2e-5, atol=1e-6)


def test_binary_cross_entropy_and_squared_error_are_torchs():
    logits, _, targets = _data()
    a, b = torch.tensor(logits), torch.tensor(targets.astype(np.float32))
    pairs = (
        (binary_cross_entropy, F.binary_cross_entropy_with_logits),
        (squared_error, F.mse_loss),
    )
    for ours, theirs in pairs:
        value = ours(logits, targets.astype(np.float32))
        np.testing.assert_allclose(value, theirs(a, b).item(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("cross_entropy", 1e4), ("binary_cross_entropy", 5e3)]
)
def test_large_logits_stay_finite(name, expected):
    logits = jnp.asarray([[1e4, -1e4], [-1e4, 1e4]])
    labels = jnp.asarray([0, 0])
    labels = labels if name == "cross_entropy" else jax.nn.one_hot(labels, 2)
    value, grad = jax.value_and_grad(getattr(losses, name))(logits, labels)
    np.testing.assert_allclose(value, expected)
    assert np.isfinite(grad).all()


def test_half_precision_logits_are_widened():
    logits = jnp.asarray([[10.0, 0.0, 3.0]], jnp.bfloat16)
    value = cross_entropy(logits, jnp.asarray([1]))
    assert value.dtype == jnp.float32
    exact = np.log(np.exp([10.0, 0.0, 3.0]).sum())
    np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_a_single_output_takes_flat_targets():
    outputs, targets = jnp.asarray([[1.0], [2.0]]), jnp.asarray([3.0, 5.0])
    np.testing.assert_allclose(squared_error(outputs, targets), (4 + 9) / 2)
    with pytest.raises(UserError, match=r"\(3,\).*\(2, 1\)"):
        squared_error(outputs, jnp.zeros(3))


def test_smoothing_is_traced():
    logits, labels, _ = _data()
    fn = jax.jit(cross_entropy)
    assert fn(logits, labels, 0.1) != fn(logits, labels, 0.2)
    assert fn._cache_size() == 1


@pytest.mark.parametrize("task", TASKS[:4])
def test_each_task_has_its_term_and_its_activation(bench, task):
    room = bench(task)
    term = for_task(task)
    term.check(room.setup)
    context = room.context()
    value = term(View(context, "term", 0))
    value = value[0] if isinstance(value, tuple) else value
    logits = np.asarray(context.forward().logits, np.float64)
    y = np.asarray(room.batches["target"]["y"])
    p = np.asarray(predictions(logits.astype(np.float32), task))
    expected = {
        "classification": lambda: -np.log(p[np.arange(len(y)), y]).mean(),
        "multilabel": lambda: -np.log(np.where(y > 0, p, 1 - p)).mean(),
        "regression": lambda: np.mean((p - y) ** 2),
        "language": lambda: _next_token_by_hand(p, room.batches["target"]["x"]),
    }[task]()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def _next_token_by_hand(p, x):
    ids, mask = np.asarray(x["input_ids"]), np.asarray(x["attention_mask"])
    logs = [
        -np.log(p[row, t, ids[row, t + 1]])
        for row in range(len(ids))
        for t in range(ids.shape[1] - 1)
        if mask[row, t + 1]
    ]
    return np.mean(logs)


def test_cross_entropy_reports_accuracy(bench):
    room = bench()
    context = room.context()
    _, extra = CrossEntropy()(View(context, "term", 0))
    hits = np.argmax(context.forward().logits, 1) == np.asarray(
        room.batches["target"]["y"]
    )
    np.testing.assert_allclose(extra["accuracy"], hits.mean())


@pytest.mark.parametrize(
    ("term", "task", "message"),
    [
        (
            CrossEntropy(stream="targe"),
            "classification",
            "did you mean 'target'",
        ),
        (
            CrossEntropy(),
            "regression",
            "task of this experiment is 'regression'",
        ),
        (CrossEntropy(label_smoothing=1.5), "classification", r"in \[0, 1\]"),
        (BinaryCrossEntropy(), "classification", "multilabel"),
        (SquaredError(), "multilabel", "regression"),
    ],
)
def test_bad_settings_are_one_clear_sentence(bench, term, task, message):
    with pytest.raises(UserError, match=message) as error:
        term.check(bench(task).setup)
    assert str(error.value).startswith("terms.term")


def test_unknown_task_names_the_nearest():
    for fn in (for_task, lambda t: predictions(jnp.zeros((1, 2)), t)):
        with pytest.raises(UserError, match="did you mean 'classification'"):
            fn("clasification")


def test_next_token_is_torchs_cross_entropy_of_shifted_real_tokens():
    torch = pytest.importorskip("torch", reason="the reference is torch")
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4, 7, 11)).astype(np.float32)
    ids = rng.integers(0, 11, (4, 7))
    lengths = np.array([7, 5, 2, 1])
    mask = np.arange(7) < lengths[:, None]
    x = {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask)}
    sums = np.asarray(metric_inputs(jnp.asarray(logits), x, "language"), np.float64)
    targets = np.where(mask, ids, -100)[:, 1:]
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, :-1].reshape(-1, 11)),
        torch.tensor(targets.reshape(-1)),
        ignore_index=-100,
    )
    found = metrics.compute("language", sums, np.zeros(4))
    assert found["nll"] == pytest.approx(float(expected), rel=1e-5)
    assert found["perplexity"] == pytest.approx(float(expected.exp()), rel=1e-5)
    hits = (logits[:, :-1].argmax(-1) == targets)[targets >= 0]
    assert found["accuracy"] == pytest.approx(hits.mean())
    assert sums[:, 2].tolist() == [6, 4, 1, 0]


def test_next_token_needs_a_language_model(bench):
    with pytest.raises(UserError, match="predict='next'"):
        NextToken().check(bench("classification").setup)
