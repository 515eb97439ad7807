"""How much a model's outputs depend on each parameter: diagonal Fisher, and MAS.

Both look at one example at a time, since neither is a function of a batch's mean
gradient: the square of a mean is not the mean of squares.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Batch, PyTree

Function = Callable[[PyTree, PyTree], jax.Array]

# Elements of the gradients that are held at once, over all examples of a chunk.
HELD = 2**25


def mean(
    equation, params: PyTree, stats: PyTree, batches: Iterable[Batch], key: jax.Array
) -> dict[str, np.ndarray]:
    """Returns {path: float32} of an equation's mean over all examples.

    Args:
      equation: (params, stats, x, y, key, chunk) -> a tree like params, the mean over
        the batch's examples, looking at `chunk` of them at once.
      params, stats, batches, key: as in `analysis.importance.KINDS`.
    """
    chunk = int(np.clip(HELD // max(1, trees.size(params)), 1, 32))
    compiled = jax.jit(equation, static_argnums=5)
    total, count = {}, 0
    for index, batch in enumerate(batches):
        size = len(jax.tree.leaves(batch["x"])[0])
        own = jax.random.fold_in(key, index)
        found = compiled(params, stats, batch["x"], batch["y"], own, chunk)
        count += size
        for path, leaf in trees.flatten(found).items():
            # Float64, so that a long sum of small numbers loses none of them.
            total[path] = total.get(path, 0.0) + size * np.asarray(leaf, np.float64)
    return {path: np.float32(sums / count) for path, sums in total.items()}


def diagonal_fisher(
    f: Function,
    params: PyTree,
    x: PyTree,
    labels: jax.Array | None = None,
    *,
    task: str = "classification",
    key: jax.Array | None = None,
    exact: int = 16,
    chunk: int = 8,
) -> PyTree:
    """Diagonal Fisher information, mean over examples of E_y (∂ log p(y | xᵢ; θ)/∂θ)².

    With labels, y is the label alone ("empirical Fisher"). Without, the expectation is
    over the model's own distribution: exact for regression, for multilabel, and for up
    to `exact` classes; one label drawn per example (and token) otherwise, which is an
    unbiased estimate.

    p is the softmax for classification; independent sigmoids for multilabel (the sum of
    their log p); a Gaussian of variance 1 per output for regression (the squared error
    with ½, summed over outputs); for language the sum of log p over an example's
    tokens, each given the real ones before it.

    Args:
      f: (params, x) -> logits (batch, K), or (batch, length, vocab) for language; an
        example's logits depend on it alone.
      params: θ.
      x: (batch, ...) array, or a dict of such; language reads "input_ids" and
        "attention_mask".
      labels: (batch,) classes, or (batch, K) for multilabel and regression; for
        language anything but None, since the tokens are the labels.
      task: "classification", "multilabel", "regression" or "language".
      key: for labels that are drawn.
      exact: largest number of classes whose expectation is taken exactly.
      chunk: examples looked at together; memory is about `chunk` times the parameters.

    Returns:
      A tree like params, none negative, in nats² per squared unit of the parameter.

    References:
      Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS
      114 (2017), eq. 3 with section 2.
      Kunstner, Balles, Hennig, Limitations of the Empirical Fisher Approximation for
      Natural Gradient Descent, NeurIPS 2019 (the two kinds).
    """
    rows = {"x": x} if labels is None else {"x": x, "y": labels}
    if labels is None and key is not None:
        rows["key"] = jax.random.split(key, len(jax.tree.leaves(x)[0]))

    def one(row):
        def covectors(logits):
            if labels is None:
                return scores(logits, task, row.get("key"), exact)
            y = row["x"]["input_ids"][1:] if task == "language" else row["y"]
            return _of_label(logits, y, task)[None], jnp.ones(1)

        return _pulled(f, params, row["x"], task, covectors, jnp.square)

    return _mean(one, rows, chunk)


def mas(
    f: Function,
    params: PyTree,
    x: PyTree,
    *,
    task: str = "classification",
    chunk: int = 8,
) -> PyTree:
    """Memory-aware synapses: mean over examples of |∂‖f(xᵢ; θ)‖²/∂θ|, needs no labels.

    The squared norm is that of the logits, summed over outputs (for language over the
    predicted tokens too), without ½. Arguments as in `diagonal_fisher`.

    References:
      Aljundi et al., Memory Aware Synapses: Learning what (not) to forget, ECCV 2018,
      eq. 3, with the gradient of the squared norm that they take for several outputs.
    """

    def one(row):
        return _pulled(
            f, params, row, task, lambda z: (2.0 * z[None], jnp.ones(1)), jnp.abs
        )

    return _mean(one, x, chunk)


def _of_label(logits, y, task: str) -> jax.Array:
    """Returns ∂ log p(y) / ∂ logits of one example, in the logits' shape."""
    if task == "regression":
        return jnp.reshape(y, logits.shape).astype(logits.dtype) - logits
    if task == "multilabel":
        return jnp.reshape(y, logits.shape) - jax.nn.sigmoid(logits)
    hit = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    return hit - jax.nn.softmax(logits)


def scores(logits, task: str, key, exact: int) -> tuple[jax.Array, jax.Array]:
    """Returns (covectors, weights): E_y (∂ log p)² = Σ weight · (covector · ∂ logits)².

    For independent outputs the mixed products of scores are 0 in expectation, so that
    one covector per output is enough.
    """
    count = logits.shape[-1]
    if task == "regression":
        return jnp.eye(count), jnp.ones(count)
    if task == "multilabel":
        p = jax.nn.sigmoid(logits)
        return jnp.eye(count), p * (1 - p)
    if task == "classification" and count <= exact:
        p = jax.nn.softmax(logits)
        return jnp.eye(count) - p, p
    if key is None:
        raise UserError(
            f"diagonal_fisher: {count} classes are more than exact={exact}, so labels "
            "are drawn, which needs a key=."
        )
    drawn = jax.random.categorical(key, logits)
    return _of_label(logits, drawn, task)[None], jnp.ones(1)


def _pulled(f, params, x, task: str, covectors, size) -> PyTree:
    """Returns Σ weight · size(covector pulled back to θ) for one example."""
    batch = jax.tree.map(lambda a: a[None], x)
    counted = predicted(x) if task == "language" else None

    def outputs(params):
        logits = f(params, batch)[0]
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return logits[:-1] if task == "language" else logits

    logits, back = jax.vjp(outputs, params)
    rows, weights = covectors(logits)
    if counted is not None:
        rows = jnp.where(counted[:, None], rows, 0.0)

    def add(total, part):
        row, weight = part
        found = back(row.astype(logits.dtype))[0]
        return jax.tree.map(lambda t, g: t + weight * size(g), total, found), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, (rows, weights))[0]


def predicted(x: Any) -> jax.Array:
    """Returns which places of one example predict a real token from a real one."""
    mask = x.get("attention_mask", jnp.ones_like(x["input_ids"])).astype(bool)
    return mask[1:] & mask[:-1]


def _mean(one, rows: PyTree, chunk: int) -> PyTree:
    """Returns the mean over examples of a function of one, `chunk` examples at once."""
    rows = jax.tree.map(jnp.asarray, rows)
    count = len(jax.tree.leaves(rows)[0])
    chunk = min(chunk, count)
    steps = -(-count // chunk)
    # The last chunk is filled up with examples that count nothing.
    places = jnp.arange(steps * chunk)
    weights = (places < count) / count

    def add(total, part):
        places, weights = part
        found = jax.vmap(one)(jax.tree.map(lambda a: a[places], rows))
        sums = jax.tree.map(lambda v: jnp.tensordot(weights, v, 1), found)
        return jax.tree.map(jnp.add, total, sums), None

    like = jax.eval_shape(one, jax.tree.map(lambda a: a[0], rows))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
    parts = (places % count).reshape(steps, chunk), weights.reshape(steps, chunk)
    return jax.lax.scan(add, zeros, parts)[0]
