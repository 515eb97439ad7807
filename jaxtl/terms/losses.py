"""Task losses: the terms that apply `loss_functions` to a stream.

All losses are means over the examples and outputs (or tokens) of the batch, without a
factor ½, and are computed in float32 (or wider) whatever the model computes in.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import serialization
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.tree import as_float32
from jaxtl.core.types import PyTree
from jaxtl.data.dataset import (
    CONTRASTIVE,
    MULTITASK,
    QUESTION_ANSWERING,
    TAG_TASKS,
)
from jaxtl.data.task_outputs import tasks_of
from jaxtl.data.word_pieces import trained_labels
from jaxtl.terms import checks, image_text, loss_functions
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.image_text import ImageTextCrossEntropy as ImageTextCrossEntropy
from jaxtl.terms.image_text import ImageTextSigmoid as ImageTextSigmoid
from jaxtl.terms.image_text import pairwise_sigmoid as pairwise_sigmoid
from jaxtl.terms.image_text import symmetric_cross_entropy as symmetric_cross_entropy
from jaxtl.terms.imbalance import class_weights
from jaxtl.terms.loss_functions import binary_cross_entropies as binary_cross_entropies
from jaxtl.terms.loss_functions import binary_cross_entropy as binary_cross_entropy
from jaxtl.terms.loss_functions import cross_entropies as cross_entropies
from jaxtl.terms.loss_functions import cross_entropy as cross_entropy
from jaxtl.terms.loss_functions import (
    cross_entropy_of_pieces as cross_entropy_of_pieces,
)
from jaxtl.terms.loss_functions import label_accuracy as label_accuracy
from jaxtl.terms.loss_functions import (
    label_log_probabilities as label_log_probabilities,
)
from jaxtl.terms.loss_functions import next_token as next_token
from jaxtl.terms.loss_functions import squared_error as squared_error
from jaxtl.terms.loss_functions import squared_errors as squared_errors
from jaxtl.terms.ordinal import OrdinalCrossEntropy as OrdinalCrossEntropy
from jaxtl.terms.similarity import CoSENT as CoSENT
from jaxtl.terms.similarity import MultipleNegativesRanking as MultipleNegativesRanking
from jaxtl.terms.span_cross_entropy import SpanCrossEntropy as SpanCrossEntropy

TASKS = (
    "classification",
    "multilabel",
    "regression",
    "language",
    QUESTION_ANSWERING,
    *TAG_TASKS,
    CONTRASTIVE,
    MULTITASK,
)


def metric_inputs(logits: Any, x: Any, task: str) -> jax.Array:
    """Converts logits to the arrays per example that `metrics.compute` reads.

    Args:
      logits: of a batch.
      x: the batch's inputs, for "language" {"input_ids", "attention_mask"}.
      task: task of the experiment.

    Returns:
      The logits; for "language" the three sums of `next_token`, (batch, 3), in place of
      `vocab` numbers per token; for "contrastive" the embeddings of image and text side
      by side, (batch, 2·width).
    """
    if task == CONTRASTIVE:
        return image_text.joined_embeddings(logits)
    if task != "language":
        return logits
    return jnp.stack(_next_token_sums(logits, x), axis=-1)


def _next_token_sums(
    logits: jax.Array, x: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`next_token` of a batch {"input_ids", "attention_mask"}."""
    mask = x.get("attention_mask", jnp.ones_like(x["input_ids"])).astype(bool)
    return next_token(logits, x["input_ids"], mask)


def predictions(logits: jax.Array, task: str) -> jax.Array:
    """Output activation of the logits.

    Softmax for classification, language and tags, over the tokens for questions,
    sigmoid for multilabel, the outputs themselves for regression and pairs; float32 or
    wider.

    Args:
      logits: (..., outputs); for questions (batch, tokens, 2).
      task: of the data, one of `TASKS` but "multitask".

    Returns:
      The same shape: probabilities, or values in the unit of the targets.

    Raises:
      UserError: for an unknown task, or several tasks, each with an activation.
    """
    _check_task(task)
    if task == MULTITASK:
        raise UserError(
            "task='multitask': the logits are those of several tasks; take those of one"
            " task, and its kind."
        )
    logits = as_float32(logits)
    if task in ("classification", "language", *TAG_TASKS):
        return jax.nn.softmax(logits)
    if task == QUESTION_ANSWERING:
        return jax.nn.softmax(logits, axis=-2)
    return jax.nn.sigmoid(logits) if task == "multilabel" else logits


def predictions_of_tasks(logits: jax.Array, output_names: Sequence[str]) -> jax.Array:
    """`predictions` of each of several tasks, side by side.

    Args:
      logits: (..., outputs).
      output_names: of all outputs, which tell the tasks.

    Returns:
      The same shape, float32 or wider.
    """
    parts = [
        predictions(logits[..., task.outputs], task.kind)
        for task in tasks_of(output_names).values()
    ]
    return jnp.concatenate(parts, axis=-1)


def for_task(task: str, model: Any = None) -> Term:
    """Default loss term of a task, which a model of pairs may name (`pair_loss`).

    Args:
      task: of the data, one of `TASKS`.
      model: the field `pair_loss` of a model of image-text pairs is read; None takes
        its default, "softmax".

    Returns:
      A term with its default settings, weight 1.

    Raises:
      UserError: for an unknown task.
    """
    _check_task(task)
    if task in ("classification", *TAG_TASKS):
        return CrossEntropy()
    if task == CONTRASTIVE:
        is_sigmoid = getattr(model, "pair_loss", "softmax") == "sigmoid"
        return ImageTextSigmoid() if is_sigmoid else ImageTextCrossEntropy()
    if task == MULTITASK:
        from jaxtl.terms.multitask import MultiTask  # which imports this module

        return MultiTask()
    others = (BinaryCrossEntropy, SquaredError, NextToken, SpanCrossEntropy)
    return dict(zip(TASKS[1:], others))[task]()


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise UserError(
            f"task={task!r} is unknown{nearest(task, TASKS)} "
            f"(known: {', '.join(TASKS)})."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy(Term):
    """`cross_entropy` of a stream's batch; reports its accuracy.

    With weights it is Σ w·loss / Σ w over the batch, w the weights of class and
    example; smoothed labels weigh as in torch. Of tagged words it is the mean over all
    pieces of the batch that are trained on.

    Attributes:
      label_smoothing: in [0, 1].
      class_weights: "balanced" (n / (K·n_c), as scikit-learn), a mapping from names of
        classes (or their indices) to weights (1 where left out), or
        `imbalance.EffectiveNumber()`; None for none.
      stream: name of the stream.
    """

    reads_weights: ClassVar[bool] = True

    label_smoothing: float = traced(0.0)
    class_weights: Any = serialization.later_field(None)
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.class_labels(setup, "CrossEntropy", "stream", self.stream, *TAG_TASKS)
        checks.output_places(setup)
        checks.number(setup, "label_smoothing", self.label_smoothing, 0.0, 1.0)
        class_weights.check_class_weights(setup, self.stream, self.class_weights)

    def describe(self, setup: Setup) -> str:
        return class_weights.describe_class_weights(
            setup, self.stream, self.class_weights
        )

    def constants(self, setup: Setup) -> PyTree:
        return class_weights.constants(setup, self.stream, self.class_weights)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        if context.program.task in TAG_TASKS:
            return self._of_pieces(context, logits, trained_labels(labels))
        counts = class_weights.weights_of_labels(context, labels)
        values = cross_entropies(
            logits,
            labels,
            self.label_smoothing,
            context.constants.get("class_weights"),
        )
        value = class_weights.mean_loss(context, self.stream, values, counts)
        is_index = labels.ndim < logits.ndim
        classes = labels if is_index else jnp.argmax(labels, axis=-1)
        return value, {"accuracy": label_accuracy(logits, classes)}

    def _of_pieces(
        self, context: View, logits: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The loss of labels (batch, pieces), below 0 where a piece has none."""
        total, count = cross_entropy_of_pieces(
            logits,
            labels,
            self.label_smoothing,
            context.constants.get("class_weights"),
            context.batches[self.stream].get("weight"),
        )
        hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        labelled = (labels >= 0).astype(jnp.float32)
        accuracy = context.ratio(jnp.sum(hits), jnp.sum(labelled))
        return context.ratio(total, count), {"accuracy": accuracy}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(Term):
    """`binary_cross_entropy` of a stream's batch; reports the share of correct outputs.

    Attributes:
      positive_weights: of the positive labels: "balanced" (negatives / positives of
        each label), or a mapping from names of labels (1 where left out); None for 1.
      stream: name of the stream.
    """

    reads_weights: ClassVar[bool] = True

    positive_weights: Any = serialization.later_field(None)
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.task(setup, "BinaryCrossEntropy", "multilabel")
        checks.classes(setup, "stream", self.stream)
        class_weights.check_positive_weights(setup, self.stream, self.positive_weights)

    def constants(self, setup: Setup) -> PyTree:
        weights = class_weights.positive_weights(
            setup, self.stream, self.positive_weights
        )
        return {} if weights is None else {"positive_weights": jnp.asarray(weights)}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        targets = loss_functions.targets_like(context.batches[self.stream]["y"], logits)
        hits = (logits > 0) == (targets > 0.5)
        weights = context.constants.get("positive_weights")
        values = binary_cross_entropies(logits, targets, weights)
        value = class_weights.mean_loss(context, self.stream, values)
        return value, {"accuracy": jnp.mean(hits.astype(jnp.float32))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquaredError(Term):
    """`squared_error` of a stream's batch.

    Attributes:
      stream: name of the stream.
    """

    reads_weights: ClassVar[bool] = True

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.task(setup, "SquaredError", "regression")
        if len(setup.classes.get("", ())) > 1:  # a single target has no order
            checks.classes(setup, "stream", self.stream)

    def __call__(self, context: View) -> jax.Array:
        outputs = context.forward(self.stream).logits
        values = squared_errors(outputs, context.batches[self.stream]["y"])
        return class_weights.mean_loss(context, self.stream, values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken(Term):
    """Cross-entropy of a language model in nats per predicted token of the batch.

    Reports the share of tokens whose most likely prediction is correct.

    Attributes:
      stream: name of the stream; its inputs are {"input_ids", "attention_mask"}.
    """

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        last = setup.features[setup.program.network.stages[-1]]
        if len(getattr(last, "shape", ())) != 3:
            raise UserError(
                f"{checks.where(setup, 'stream')}: NextToken needs a model that gives "
                "(batch, length, vocab), a decoder with predict='next'; this one gives "
                f"{getattr(last, 'shape', type(last).__name__)}."
            )

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        x = context.batches[self.stream]["x"]
        # One by one: counting tokens must not wait for the logits.
        loss, hits, tokens = (part.sum() for part in _next_token_sums(logits, x))
        return context.ratio(loss, tokens), {"accuracy": context.ratio(hits, tokens)}
