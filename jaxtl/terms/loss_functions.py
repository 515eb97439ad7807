"""The pure functions of the task losses: cross-entropies, squared error, next token.

All are computed in float32 (or wider) whatever the model computes in. `losses` has the
terms that apply them to a stream.
"""

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float | jax.Array = 0.0,
) -> jax.Array:
    """Cross-entropy with label smoothing, −Σ_c q_c log p_c, mean over examples.

    q = (1 − smoothing) · q̂ + smoothing / K, where q̂ is 1 at the label and 0 elsewhere,
    or the distribution that `labels` holds.

    Args:
      logits: (..., K), before the softmax.
      labels: (...) class indices in [0, K), or (..., K) distributions.
      smoothing: a number in [0, 1], may be traced.

    Returns:
      A scalar in nats.

    References:
      Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    return jnp.mean(cross_entropies(logits, labels, smoothing))


def cross_entropies(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float | jax.Array = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """`cross_entropy` of each example, −Σ_c w_c·q_c·log p_c.

    Args:
      logits, labels, smoothing: as for `cross_entropy`.
      class_weights: w, (K,); None for 1.

    Returns:
      (...) in nats, float32 or wider.
    """
    log_p = jax.nn.log_softmax(as_float32(logits))
    if class_weights is not None:
        log_p = class_weights * log_p
    labels = jnp.asarray(labels)
    if labels.ndim == log_p.ndim:
        label_log_p = jnp.sum(labels * log_p, axis=-1)
    else:
        label_log_p = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    mean_log_p = jnp.mean(log_p, axis=-1)
    return -((1 - smoothing) * label_log_p + smoothing * mean_log_p)


def cross_entropy_of_pieces(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float | jax.Array = 0.0,
    class_weights: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the pieces of texts that have a label.

    Args:
      logits: (batch, pieces, K).
      labels: (batch, pieces), below 0 where a piece has none.
      smoothing, class_weights: as for `cross_entropies`.
      weights: s, (batch,) of the examples; None for 1.

    Returns:
      (Σ s·loss, Σ s·w_y) over the pieces with a label y, scalars.
    """
    counted = (labels >= 0).astype(jnp.float32)
    if weights is not None:
        counted = counted * weights[:, None]
    labels = jnp.maximum(labels, 0)
    values = cross_entropies(logits, labels, smoothing, class_weights)
    total = jnp.sum(counted * values)
    if class_weights is not None:
        counted = counted * class_weights[labels]
    return total, jnp.sum(counted)


def label_log_probabilities(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """log p_y of each example, p = softmax(logits), in nats.

    Args:
      logits: (batch, K), before the softmax.
      labels: y, (batch,) class indices in [0, K).

    Returns:
      (batch,), at most 0; its negative is the example's cross-entropy.
    """
    log_p = jax.nn.log_softmax(as_float32(logits))
    return jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def label_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of examples whose (possibly wrong) label is the predicted class.

    Args:
      logits: (batch, K).
      labels: (batch,) class indices.

    Returns:
      A float32 scalar.
    """
    hits = jnp.argmax(logits, axis=-1) == labels
    return jnp.mean(hits.astype(jnp.float32))


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of independent outputs, mean over examples and outputs.

    Args:
      logits: (batch, outputs), before the sigmoid.
      targets: the same shape, in [0, 1]; (batch,) fits a single output.

    Returns:
      A scalar in nats (per output).
    """
    return jnp.mean(binary_cross_entropies(logits, targets))


def binary_cross_entropies(
    logits: jax.Array, targets: jax.Array, positive_weights: jax.Array | None = None
) -> jax.Array:
    """−w·t·log σ(z) − (1 − t)·log σ(−z) of each output.

    Args:
      logits, targets: as for `binary_cross_entropy`.
      positive_weights: w, (outputs,); None for 1.

    Returns:
      (batch, outputs) in nats, float32 or wider.
    """
    logits = as_float32(logits)
    targets = targets_like(targets, logits)
    # log σ(z) = z + log σ(−z)
    if positive_weights is None:
        return jax.nn.softplus(logits) - targets * logits
    factor = 1 + (positive_weights - 1) * targets
    return factor * jax.nn.softplus(logits) - positive_weights * targets * logits


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """(output − target)², mean over examples and outputs, without ½.

    Args:
      outputs: (batch, outputs).
      targets: the same shape; (batch,) fits a single output.

    Returns:
      A scalar, in squared units of the targets.
    """
    return jnp.mean(squared_errors(outputs, targets))


def squared_errors(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """(output − target)² of each output, without ½.

    Args:
      outputs: (batch, outputs).
      targets: the same shape; (batch,) fits a single output.

    Returns:
      (batch, outputs) in squared units of the targets, float32 or wider.

    Raises:
      UserError: shapes that don't agree.
    """
    outputs = as_float32(outputs)
    return jnp.square(outputs - targets_like(targets, outputs))


def targets_like(targets: jax.Array, outputs: jax.Array) -> jax.Array:
    """Reshapes targets to the outputs: (batch,) − (batch, 1) would be a square.

    Raises:
      UserError: if the shapes do not agree.
    """
    targets = as_float32(targets)
    if targets.shape == outputs.shape:
        return targets
    if outputs.shape == (*targets.shape, 1):
        return targets[..., None]
    raise UserError(
        f"targets have the shape {targets.shape}, and the model's outputs "
        f"{outputs.shape}; they must agree."
    )


def next_token(
    logits: jax.Array, ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-likelihood and hits of predicting each token from those before it.

    Args:
      logits: (batch, length, vocab); position t predicts token t + 1.
      ids: (batch, length) token ids.
      mask: (batch, length), true for real tokens; padding is neither read nor counted.

    Returns:
      (−Σ log p in nats, number of hits, number of predicted tokens), summed per
      example, (batch,) each. The first real token is not predicted.
    """
    log_p = jax.nn.log_softmax(as_float32(logits[:, :-1]))
    targets = ids[:, 1:]
    counted = (mask[:, 1:] & mask[:, :-1]).astype(log_p.dtype)
    target_log_p = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    hits = (jnp.argmax(log_p, axis=-1) == targets).astype(log_p.dtype)
    return -(target_log_p * counted).sum(1), (hits * counted).sum(1), counted.sum(1)
