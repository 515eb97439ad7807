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
from jaxtl.data.dataset import MULTITASK, QUESTION_ANSWERING, TAG_TASKS

Function = Callable[[PyTree, PyTree], jax.Array]  # (params, x) -> logits

# logits of one example -> (covectors (number, outputs), weights (number,))
_Covectors = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

# Number of gradient elements in memory at once, over all examples of a chunk.
_MAX_GRADIENT_ELEMENTS = 2**25


def mean_over_batches(
    equation: Callable[..., PyTree],
    params: PyTree,
    stats: PyTree,
    batches: Iterable[Batch],
    key: jax.Array,
) -> dict[str, np.ndarray]:
    """An equation's mean over all examples of all batches.

    Args:
      equation: (params, stats, x, y, key, chunk) -> a tree, the mean over the batch's
        examples, with the gradients of `chunk` of them in memory at once.
      params, stats: of the model.
      batches: of {"x": preprocessed inputs, "y": labels}, each example once; the last
        one may be smaller.
      key: PRNG key, from which each batch gets its own.

    Returns:
      {path in the equation's tree: float32 array}.
    """
    chunk = int(np.clip(_MAX_GRADIENT_ELEMENTS // max(1, trees.size(params)), 1, 32))
    compiled = jax.jit(equation, static_argnums=5)
    totals: dict[str, Any] = {}
    count = 0
    for index, batch in enumerate(batches):
        size = len(jax.tree.leaves(batch["x"])[0])
        batch_key = jax.random.fold_in(key, index)
        means = compiled(params, stats, batch["x"], batch["y"], batch_key, chunk)
        count += size
        for path, leaf in trees.flatten(means).items():
            # Float64, since a long sum of small float32 numbers loses digits.
            sums = totals.get(path, 0.0)
            totals[path] = sums + size * np.asarray(leaf, np.float64)
    return {path: np.asarray(sums / count, np.float32) for path, sums in totals.items()}


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
    to `exact` classes; otherwise one label is drawn per example (and token), which is
    an unbiased estimate.

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
        language any value but None, since the tokens are the labels.
      task: "classification", "multilabel", "regression" or "language".
      key: PRNG key of labels that are drawn.
      exact: largest number of classes whose expectation is taken exactly.
      chunk: examples per step; memory is about `chunk` times the parameters.

    Returns:
      A tree like params, of values ≥ 0 in nats² per squared unit of the parameter.

    Raises:
      UserError: if labels must be drawn and there is no key.

    References:
      Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS
      114 (2017), eq. 3 with section 2.
      Kunstner, Balles, Hennig, Limitations of the Empirical Fisher Approximation for
      Natural Gradient Descent, NeurIPS 2019 (the two kinds).
    """
    check_task(task)
    rows = {"x": x} if labels is None else {"x": x, "y": labels}
    if labels is None and key is not None:
        rows["key"] = jax.random.split(key, len(jax.tree.leaves(x)[0]))

    def of_example(row: PyTree) -> PyTree:
        def covectors(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
            if labels is None:
                return score_covectors(logits, task, row.get("key"), exact)
            y = row["x"]["input_ids"][1:] if task == "language" else row["y"]
            return _label_score(logits, y, task)[None], jnp.ones(1)

        return _pull_back(f, params, row["x"], task, covectors, jnp.square)

    return _mean_over_examples(of_example, rows, chunk)


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
    predicted tokens too), without ½.

    Args:
      f, params, x, task, chunk: as in `diagonal_fisher`.

    Returns:
      A tree like params, of values ≥ 0.

    References:
      Aljundi et al., Memory Aware Synapses: Learning what (not) to forget, ECCV 2018,
      eq. 3, with the gradient of the squared norm that they take for several outputs.
    """

    check_task(task)

    def covectors(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 2.0 * logits[None], jnp.ones(1)

    def of_example(row: PyTree) -> PyTree:
        return _pull_back(f, params, row, task, covectors, jnp.abs)

    return _mean_over_examples(of_example, x, chunk)


def check_task(task: str) -> None:
    """Raises UserError for tasks whose importance is not defined here."""
    if task in (*TAG_TASKS, QUESTION_ANSWERING, MULTITASK):
        raise UserError(
            "the importance of parameters is that of one output per example (or of a "
            f"language model), and this task is {task!r}; take a regularizer without "
            "importance, such as tl.regularizers.L2SP."
        )


def _label_score(logits: jax.Array, y: jax.Array, task: str) -> jax.Array:
    """∂ log p(y) / ∂ logits of one example, in the logits' shape."""
    if task == "regression":
        return jnp.reshape(y, logits.shape).astype(logits.dtype) - logits
    if task == "multilabel":
        return jnp.reshape(y, logits.shape) - jax.nn.sigmoid(logits)
    one_hot = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    return one_hot - jax.nn.softmax(logits)


def score_covectors(
    logits: jax.Array, task: str, key: jax.Array | None, exact: int
) -> tuple[jax.Array, jax.Array]:
    """Covectors whose weighted squares give the expected square of the score.

    E_y (∂ log p)² = Σ weight · (covector · ∂ logits)². With independent outputs the
    products of different outputs' scores are 0 in expectation, so one covector per
    output is enough.

    Args:
      logits: (K,) of one example, or (positions, K) for language.
      task, key, exact: as in `diagonal_fisher`.

    Returns:
      covectors: (number, K), or (1, positions, K) for language.
      weights: (number,).
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
    labels = jax.random.categorical(key, logits)
    return _label_score(logits, labels, task)[None], jnp.ones(1)


def predicted_positions(x: PyTree) -> jax.Array:
    """The positions of one text that predict a real token from a real one.

    Args:
      x: {"input_ids", "attention_mask"}, (length,) each.

    Returns:
      (length − 1,) bools.
    """
    mask = x.get("attention_mask", jnp.ones_like(x["input_ids"])).astype(bool)
    return mask[1:] & mask[:-1]


def _pull_back(
    f: Function,
    params: PyTree,
    x: PyTree,
    task: str,
    covectors: _Covectors,
    magnitude: Callable[[jax.Array], jax.Array],
) -> PyTree:
    """Σ weight · magnitude(covector pulled back to θ) for one example."""
    batch = jax.tree.map(lambda a: a[None], x)

    def outputs(params: PyTree) -> jax.Array:
        logits = trees.as_float32(f(params, batch)[0])
        return logits[:-1] if task == "language" else logits

    logits, vjp = jax.vjp(outputs, params)
    rows, weights = covectors(logits)
    if task == "language":
        rows = jnp.where(predicted_positions(x)[:, None], rows, 0.0)

    def add(total: PyTree, part: tuple) -> tuple[PyTree, None]:
        row, weight = part
        gradient = vjp(row.astype(logits.dtype))[0]
        return (
            jax.tree.map(lambda t, g: t + weight * magnitude(g), total, gradient),
            None,
        )

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, (rows, weights))[0]


def _mean_over_examples(
    of_example: Callable[[PyTree], PyTree], rows: PyTree, chunk: int
) -> PyTree:
    """The mean of a function of one example, computed for `chunk` examples at once."""
    rows = jax.tree.map(jnp.asarray, rows)
    count = len(jax.tree.leaves(rows)[0])
    chunk = min(chunk, count)
    steps = -(-count // chunk)
    # The last chunk is filled up with examples of weight 0.
    indices = jnp.arange(steps * chunk)
    weights = (indices < count) / count

    def add(total: PyTree, part: tuple) -> tuple[PyTree, None]:
        indices, weights = part
        values = jax.vmap(of_example)(jax.tree.map(lambda a: a[indices], rows))
        sums = jax.tree.map(lambda v: jnp.tensordot(weights, v, 1), values)
        return jax.tree.map(jnp.add, total, sums), None

    shapes = jax.eval_shape(of_example, jax.tree.map(lambda a: a[0], rows))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    parts = (indices % count).reshape(steps, chunk), weights.reshape(steps, chunk)
    return jax.lax.scan(add, zeros, parts)[0]
