"""Weights of classes, from a mapping or from how often each occurs in training."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxtl.core.errors import UserError, nearest
from jaxtl.data.class_index import class_index
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View

BALANCED = "balanced"
_TOLD = 8  # classes whose weights are told


@dataclasses.dataclass(frozen=True, kw_only=True)
class EffectiveNumber:
    """Class weights by `effective_number_weights`.

    Attributes:
      beta: in [0, 1); the paper takes 0.9 to 0.9999.
    """

    beta: float = 0.999


def balanced_weights(counts: ArrayLike) -> np.ndarray:
    """n / (K·n_c) of each class, for K classes that occur and n examples in all.

    So every class has the same sum of weights; as scikit-learn's "balanced". 0 for a
    class that does not occur.

    Args:
      counts: n_c, (classes,).

    Returns:
      (classes,), float64.
    """
    counts = np.asarray(counts, np.float64)
    occurs = counts > 0
    total = counts.sum() / max(occurs.sum(), 1)
    return np.where(occurs, total / np.where(occurs, counts, 1), 0.0)


def effective_number_weights(counts: ArrayLike, beta: float) -> np.ndarray:
    """(1 − β) / (1 − β^n_c) of each class, scaled to a mean of 1.

    β = 0 weighs all classes the same, β → 1 inversely to their size. 0 for a class that
    does not occur.

    Args:
      counts: n_c, (classes,).
      beta: β in [0, 1).

    Returns:
      (classes,), float64.

    References:
      Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019,
      eq. 2 and section 4.
    """
    counts = np.asarray(counts, np.float64)
    occurs = counts > 0
    # 1 − β^n without the cancellation of β near 1.
    effective = -np.expm1(counts * np.log1p(beta - 1)) if beta else np.ones(len(counts))
    weights = np.where(occurs, (1 - beta) / np.where(occurs, effective, 1), 0.0)
    return weights * occurs.sum() / weights.sum()


def check_class_weights(setup: Setup, stream: str, value: Any) -> None:
    """Checks a term's field `class_weights`.

    Args:
      setup: what the term is checked against.
      stream: whose labels are weighted.
      value: None, "balanced", an `EffectiveNumber`, or a mapping from classes.

    Raises:
      UserError: something else, a class that does not exist, or a weight below 0.
    """
    where = checks.where(setup, "class_weights")
    if value is None or value == BALANCED:
        return
    if isinstance(value, EffectiveNumber):
        if not 0 <= value.beta < 1:
            raise UserError(
                f"{where}.beta={value.beta!r}: expected a number in [0, 1)."
            )
        return
    _check_mapping(setup, stream, where, value)


def check_positive_weights(setup: Setup, stream: str, value: Any) -> None:
    """Checks a field `positive_weights`: None, "balanced", or a mapping from labels.

    Args:
      setup: of the term.
      stream: whose labels are weighed.
      value: of the field.

    Raises:
      UserError: as `check_class_weights`, and for "balanced" where a label never
        occurs.
    """
    where = checks.where(setup, "positive_weights")
    if value is None:
        return
    if value == BALANCED:
        names = _names(setup, stream)
        for name, count in zip(names, label_counts(setup, stream)):
            if count == 0:
                raise UserError(f"{where}='balanced': no train example has {name!r}.")
        return
    _check_mapping(setup, stream, where, value)


def _check_mapping(setup: Setup, stream: str, where: str, value: Any) -> None:
    """Raises UserError unless a value is a mapping from classes to weights."""
    if not isinstance(value, Mapping):
        hint = nearest(value, [BALANCED]) if isinstance(value, str) else ""
        others = "tl.imbalance.EffectiveNumber(), " * where.endswith("class_weights")
        raise UserError(
            f"{where}={value!r}{hint}: expected 'balanced', a mapping from classes to "
            f"weights, {others}or None."
        )
    names = _names(setup, stream)
    labels = [class_index(name, names, where) for name in value]
    if len(set(labels)) < len(labels):
        raise UserError(f"{where}: a class is named twice: {list(value)}.")
    for name, weight in value.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (is_number and math.isfinite(weight) and weight >= 0):
            raise UserError(
                f"{where}[{name!r}]={weight!r}: expected a finite number of at least 0."
            )


def class_weights(setup: Setup, stream: str, value: Any) -> np.ndarray | None:
    """The weight of each class (outputs,) in float32; None for no weights.

    Classes that a mapping leaves out weigh 1.

    Args:
      setup: of the term.
      stream: whose train labels are counted.
      value: of the field `class_weights`: None, "balanced", an `EffectiveNumber`, or a
        mapping from class names or numbers.

    Returns:
      The weights in label order.
    """
    if value is None:
        return None
    counts = label_counts(setup, stream)
    if value == BALANCED:
        weights = balanced_weights(counts)
    elif isinstance(value, EffectiveNumber):
        weights = effective_number_weights(counts, value.beta)
    else:
        weights = _from_mapping(setup, stream, value)
    return weights.astype(np.float32)


def positive_weights(setup: Setup, stream: str, value: Any) -> np.ndarray | None:
    """The weight of a positive label (outputs,) in float32; None for no weights.

    Args:
      setup: of the term.
      stream: whose train labels are counted.
      value: of the field `positive_weights`: None, "balanced" for (n − count) / count,
        or a mapping from label names or numbers.

    Returns:
      The weights in label order.
    """
    if value is None:
        return None
    if value != BALANCED:
        return _from_mapping(setup, stream, value).astype(np.float32)
    counts = label_counts(setup, stream)
    weights = (setup.train_examples(stream) - counts) / np.maximum(counts, 1)
    return weights.astype(np.float32)


def _from_mapping(
    setup: Setup, stream: str, value: Mapping[str | int, float]
) -> np.ndarray:
    weights = np.ones(setup.program.outputs)
    names = _names(setup, stream)
    for name, weight in value.items():
        weights[class_index(name, names, "class_weights")] = weight
    return weights


def _names(setup: Setup, stream: str) -> tuple[str, ...]:
    """The names of a stream's classes."""
    return setup.classes.get(stream, setup.classes.get("", ()))


def label_counts(setup: Setup, stream: str) -> np.ndarray:
    """How often each of the outputs is a train label of a stream, (outputs,).

    Args:
      setup: of the term.
      stream: whose train labels are counted.

    Returns:
      float64; 0 for outputs that the stream's labels don't have.
    """
    counts = np.zeros(setup.program.outputs)
    known = np.asarray(setup.label_counts.get(stream, ()))
    counts[: len(known)] = known
    return counts


def check_all_occur(setup: Setup, term: str, stream: str) -> None:
    """Raises UserError where a class of a stream has no train label.

    Args:
      setup: of the term.
      term: what the message calls it.
      stream: whose train labels are counted.
    """
    names = _names(setup, stream)
    counts = label_counts(setup, stream)
    for name, count in zip(names, counts):
        if count == 0:
            raise UserError(
                f"terms.{setup.name}: {term} needs a train label of every class, but "
                f"{stream!r} has none of {name!r}."
            )


def describe_class_weights(setup: Setup, stream: str, value: Any) -> str:
    """The weights of the classes as a sentence part, "" for none.

    Args:
      setup: of the term.
      stream: whose train labels are counted.
      value: of the field, as for `class_weights`.

    Returns:
      "class weights: cat 0.5, dog 2", the first few of many.
    """
    weights = class_weights(setup, stream, value)
    if weights is None:
        return ""
    names = _names(setup, stream)
    pairs = [f"{name} {weight:.3g}" for name, weight in zip(names, weights)]
    more = ", …" if len(pairs) > _TOLD else ""
    return f"class weights: {', '.join(pairs[:_TOLD])}{more}"


def constants(setup: Setup, stream: str, value: Any) -> dict[str, jax.Array]:
    """A term's constants: {"class_weights": (outputs,)}, {} without any.

    Args:
      setup: of the term.
      stream: whose train labels are counted.
      value: of the field, as for `class_weights`.

    Returns:
      What `weights_of_labels` reads.
    """
    weights = class_weights(setup, stream, value)
    return {} if weights is None else {"class_weights": jnp.asarray(weights)}


def mean_loss(
    context: View,
    stream: str,
    values: jax.Array,
    counts: jax.Array | None = None,
) -> jax.Array:
    """Σ s·v / Σ s·c over the step's batch, also where this is a part of it.

    Args:
      context: of the term.
      stream: whose batch it is; s are the weights of its examples, 1 without any.
      values: v, (batch,), or (batch, …) of which the mean over each example counts.
      counts: c, (batch,), what each example counts; None counts 1.

    Returns:
      A scalar in the unit of v.
    """
    weights = context.batches[stream].get("weight")
    if weights is None and counts is None:
        return jnp.mean(values)
    values = values.reshape(len(values), -1).mean(axis=1)
    counts = jnp.ones_like(values) if counts is None else counts
    weights = jnp.ones_like(values) if weights is None else weights
    return context.ratio(jnp.sum(weights * values), jnp.sum(weights * counts))


def weights_of_labels(context: View, labels: jax.Array) -> jax.Array | None:
    """The class weight of each example (batch,), None for a term without weights.

    Args:
      context: of the term; its constants hold the weights.
      labels: (batch,) class indices.

    Returns:
      float32, in the order of the batch.

    Raises:
      UserError: the labels are distributions.
    """
    if "class_weights" not in context.constants:
        return None
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(
            f"terms.{context.name}.class_weights: these labels are distributions over "
            "the classes, and only an example of one class has its weight."
        )
    return context.constants["class_weights"][labels]
