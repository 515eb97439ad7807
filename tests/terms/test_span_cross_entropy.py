"""The loss of answers: spans of a context."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.evaluation.answer_outputs import span_losses
from jaxtl.terms import losses, regularizers, weighted_mean
from jaxtl.terms.span_cross_entropy import span_cross_entropies


def _mean(logits, positions):
    """As the term computes it, of one batch without weights."""
    values, counted = span_cross_entropies(jnp.asarray(logits), jnp.asarray(positions))
    return float(((values * counted).sum(0) / counted.sum(0)).mean())


def test_the_loss_is_that_of_transformers():
    """Against BertForQuestionAnswering, with positions outside of the window."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=12,
    )
    model = transformers.BertForQuestionAnswering(config).eval()
    torch.nn.init.normal_(model.qa_outputs.weight, std=2.0)
    ids = torch.arange(48).reshape(4, 12) % 30
    mask = torch.ones(4, 12).tril(8)
    for positions in ([[1, 3], [0, 0], [11, 11], [5, 2]],
                      [[1, 3], [12, 4], [40, 60], [-3, 2]]):  # fmt: skip
        start, end = torch.tensor(positions).T
        with torch.no_grad():
            out = model(ids, mask, start_positions=start, end_positions=end)
        logits = torch.stack([out.start_logits, out.end_logits], dim=-1).numpy()
        np.testing.assert_allclose(_mean(logits, positions), out.loss, rtol=1e-6)
    inside = np.array([[1, 3], [0, 0], [11, 11], [5, 2]])
    np.testing.assert_allclose(
        span_losses(logits, inside).mean(), _mean(logits, inside), rtol=1e-6
    )


def test_weights_are_those_of_examples():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 7, 2)).astype(np.float32)
    y, weights = rng.integers(0, 7, (5, 2)), np.arange(1.0, 6)
    context = types.SimpleNamespace(
        forward=lambda stream: types.SimpleNamespace(logits=jnp.asarray(logits)),
        batches={"target": {"y": jnp.asarray(y), "weight": jnp.asarray(weights)}},
        ratio=weighted_mean.ratio,
    )
    value, _ = losses.SpanCrossEntropy()(context)
    expected = np.average(span_losses(logits, y), weights=weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_other_heads_and_terms_are_refused():
    def setup(shape):
        network = types.SimpleNamespace(stages=("head",))
        return types.SimpleNamespace(
            name="task",
            program=types.SimpleNamespace(
                task="question_answering",
                network=network,
                streams=("target",),
                episodes={},
            ),
            features={"head": jnp.zeros(shape)},
        )

    losses.SpanCrossEntropy().check(setup((6, 5, 2)))
    with pytest.raises(UserError, match=r"gives \(6, 3\); take predict='span'"):
        losses.SpanCrossEntropy().check(setup((6, 3)))
    with pytest.raises(UserError, match="are positions in a text"):
        regularizers.R3F().check(setup((6, 5, 2)))
