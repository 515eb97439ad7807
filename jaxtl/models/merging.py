"""Model merging: averages, interpolations and task vectors of whole parameter trees.

Every function is pure and takes trees of one structure, statistics included if the
caller puts them in. Leaves are averaged in float32 at least, and a result has the dtype
of the first tree's leaf; where shapes differ, a UserError names the leaf. None counts
as a leaf: a result is None where any tree is, unless the function says otherwise.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree

Scalar = float | jax.Array


def interpolate(a: PyTree, b: PyTree, alpha: Scalar) -> PyTree:
    """(1 − α)·a + α·b; exactly a at α = 0 and exactly b at α = 1.

    Args:
      a, b: trees of one structure.
      alpha: α, may be traced; outside [0, 1] it extrapolates.

    Returns:
      A tree of the structure of `a`.

    References:
      Wortsman et al., Robust Fine-Tuning of Zero-Shot Models (WiSE-FT), CVPR 2022,
      eq. 1: a is the pretrained model, b the fine-tuned one.
    """

    def interpolated(x: jax.Array, y: jax.Array) -> jax.Array:
        # As a + α(b − a): where the two agree, so does everything between them.
        mixed = x + alpha * (y - x)
        return jnp.where(alpha == 0, x, jnp.where(alpha == 1, y, mixed))

    return _map_leaves(interpolated, a, b)


def uniform_soup(models: Sequence[PyTree]) -> PyTree:
    """The mean of one or more models: (1/n) Σᵢ θᵢ.

    Args:
      models: θᵢ, trees of one structure.

    Returns:
      A tree of their structure.

    References:
      Wortsman et al., Model Soups, ICML 2022, the uniform soup.
    """
    models = _nonempty(models, "a soup", "model")

    def mean(first: jax.Array, *remaining: jax.Array) -> jax.Array:
        # Models of one origin lie close together: their differences round little, and
        # those of equal models are exactly 0.
        return first + sum((x - first for x in remaining), 0.0) / len(models)

    return _map_leaves(mean, *models)


class GreedySoup(NamedTuple):
    """The result of `greedy_soup`.

    Attributes:
      tree: the mean of the selected models; the best model itself where it is alone.
      members: indices of the selected models, in the order they were added.
      score: the mean's score.
      scores: score of every single model, in the order of the arguments.
    """

    tree: PyTree
    members: tuple[int, ...]
    score: float
    scores: tuple[float, ...]


def greedy_soup(
    models: Sequence[PyTree], score: Callable[[PyTree], float]
) -> GreedySoup:
    """Adds models from best to worst, each if the mean's score gets no worse.

    Args:
      models: trees of one structure.
      score: tree -> a number on held-out data, larger is better; NaN is the worst.
        Called at most 2n − 1 times.

    Returns:
      The soup, the indices of its members, its score, and those of all models.

    References:
      Wortsman et al., Model Soups, ICML 2022, recipe 1.
    """
    models = _nonempty(models, "a soup", "model")
    scores = tuple(float(score(model)) for model in models)
    ranks = [-math.inf if math.isnan(s) else s for s in scores]
    best, *candidates = sorted(range(len(models)), key=lambda i: -ranks[i])
    members, soup, soup_score = [best], models[best], ranks[best]
    for index in candidates:
        larger = uniform_soup([models[i] for i in (*members, index)])
        larger_score = float(score(larger))
        if larger_score >= soup_score:
            members.append(index)
            soup, soup_score = larger, larger_score
    return GreedySoup(soup, tuple(members), soup_score, scores)


def ema(
    average: PyTree, params: PyTree, decay: Scalar, step: Scalar | None = None
) -> PyTree:
    """d·average + (1 − d)·θ, the exponential moving average.

    Args:
      average: the average so far.
      params: θ after this step.
      decay: d, may be traced; 1 / (1 − d) steps is about how far it looks back.
      step: None takes d as it is, so the first value has the weight dᵗ (start with
        `average = θ`). With the number of averages computed before, 0 at first, d is
        min(decay, step / (step + 1)): the plain mean of all θ so far, until that is
        the longer memory. The value of `average` before step 0 then has weight 0.

    Returns:
      The new average, a tree as `average`.

    References:
      Tarvainen & Valpola, Mean Teachers Are Better Role Models, NeurIPS 2017, §2; the
      warm-up is that of the authors' code.
    """
    d = decay if step is None else jnp.minimum(decay, step / (step + 1.0))

    def updated(mean: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(d == 0, new, mean + (1 - d) * (new - mean))

    return _map_leaves(updated, average, params)


def swa(average: PyTree, params: PyTree, count: Scalar) -> PyTree:
    """(n·average + θ) / (n + 1), the running mean.

    Args:
      average: the mean of n models; anything for n = 0.
      params: θ, the next one.
      count: n, may be traced.

    Returns:
      The mean of n + 1 models, a tree as `average`.

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better
      Generalization, UAI 2018, Algorithm 1. Statistics of BatchNorm have to be
      estimated again (`evaluation.batch_norm.refresh_statistics`).
    """

    def updated(mean: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(count == 0, new, mean + (new - mean) / (count + 1.0))

    return _map_leaves(updated, average, params)


def task_vector(theta: PyTree, theta0: PyTree) -> PyTree:
    """τ = θ − θ₀.

    Args:
      theta: θ, the fine-tuned model.
      theta0: θ₀, the pretrained one, a tree of the same structure.

    Returns:
      τ, a tree of their structure.

    References:
      Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, §2.
    """
    return _map_leaves(lambda x, x0: x - x0, theta, theta0)


def task_arithmetic(theta0: PyTree, vectors: Sequence[PyTree], scale: Scalar) -> PyTree:
    """θ₀ + λ Σᵢ τᵢ; a negative λ makes the model forget the tasks.

    Args:
      theta0: θ₀; the result is None where it is.
      vectors: τᵢ; where one is None, it counts as 0.
      scale: λ, to be tuned on validation data.

    Returns:
      The merged model, a tree as `theta0`.

    References:
      Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, §2 (the same λ
      for all tasks).
    """
    vectors = _nonempty(vectors, "task arithmetic", "task vector")
    return _add_merged(theta0, vectors, lambda *taus: scale * sum(taus))


def ties(
    theta0: PyTree,
    vectors: Sequence[PyTree],
    density: float = 0.2,
    scale: Scalar = 1.0,
) -> PyTree:
    """θ₀ + λ·τ with τ merged by trimming, electing a sign, and a disjoint mean.

    Of each τᵢ the share `density` of largest magnitude stays, counted over the whole
    tree (`trim`). A parameter's sign is that of Σᵢ τᵢ, and τ is the mean of those τᵢ
    that have this sign and are not 0. Where the sum is exactly 0, τ is 0 (the authors'
    code takes the sign that most parameters have).

    Args:
      theta0: θ₀; the result is None where it is.
      vectors: τᵢ, see `task_vector`; where one is None, it has no vote.
      density: share of each that stays, in (0, 1]; the paper's k = 20 %.
      scale: λ; the paper's 1 where there is no validation data.

    Returns:
      The merged model, a tree as `theta0`.

    References:
      Yadav et al., TIES-Merging: Resolving Interference When Merging Models, NeurIPS
      2023, Algorithm 1.
    """
    vectors = _nonempty(vectors, "TIES", "task vector")
    trimmed = [trim(vector, density) for vector in vectors]

    def merge(*taus: jax.Array) -> jax.Array:
        return scale * _disjoint_mean(jnp.stack(taus))

    return _add_merged(theta0, trimmed, merge)


def trim(vector: PyTree, density: float) -> PyTree:
    """Sets all but the share `density` of largest magnitudes to 0; all ties stay.

    Args:
      vector: a tree; its elements are counted together.
      density: in (0, 1]; at least one element stays.

    Returns:
      A tree as `vector`.

    Raises:
      UserError: for a density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise UserError(f"density={density!r}: expected a number in (0, 1].")
    leaves = [jnp.abs(trees.as_float32(x)).ravel() for x in jax.tree.leaves(vector)]
    if not leaves:
        return vector
    sizes = jnp.sort(jnp.concatenate(leaves))
    least = sizes[-max(1, round(density * sizes.size))]
    return _map_leaves(lambda x: jnp.where(jnp.abs(x) >= least, x, 0), vector)


def _disjoint_mean(taus: jax.Array) -> jax.Array:
    """Mean over axis 0 of the values that are on the sum's side of 0."""
    sign = jnp.sign(taus.sum(0))
    agrees = (jnp.sign(taus) == sign) & (sign != 0)
    return jnp.where(agrees, taus, 0).sum(0) / jnp.maximum(agrees.sum(0), 1)


def dare(key: jax.Array, vector: PyTree, drop: Scalar) -> PyTree:
    """(1 − m) ⊙ τ / (1 − p) with mᵢ ~ Bernoulli(p): unbiased, and mostly 0.

    Args:
      key: PRNG key; every leaf draws its own mask from it.
      vector: τ, see `task_vector`.
      drop: p in [0, 1), the share that is dropped; may be traced.

    Returns:
      A tree as `vector`.

    Raises:
      UserError: for a number outside [0, 1).

    References:
      Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous
      Models as a Free Lunch, ICML 2024: drop and rescale.
    """
    if isinstance(drop, int | float) and not 0 <= drop < 1:
        raise UserError(f"drop={drop!r}: expected a number in [0, 1).")
    index = iter(range(len(jax.tree.leaves(vector))))

    def dropped(x: jax.Array) -> jax.Array:
        leaf_key = jax.random.fold_in(key, next(index))
        stays = jax.random.bernoulli(leaf_key, 1.0 - drop, x.shape)
        return jnp.where(stays, x / (1.0 - drop), 0)

    return _map_leaves(dropped, vector)


def dare_ties(
    key: jax.Array,
    theta0: PyTree,
    vectors: Sequence[PyTree],
    drop: Scalar,
    scale: Scalar = 1.0,
) -> PyTree:
    """TIES with DARE's random dropping in place of the trimming.

    Args:
      key: PRNG key; each task vector draws its own masks from it.
      theta0, vectors, scale: as in `ties`.
      drop: as in `dare`.

    Returns:
      The merged model, a tree as `theta0`.

    References:
      Yu et al., as in `dare`, which they apply before other merging methods.
    """
    vectors = _nonempty(vectors, "TIES", "task vector")
    keys = jax.random.split(key, len(vectors))
    dropped = [dare(k, vector, drop) for k, vector in zip(keys, vectors)]
    return ties(theta0, dropped, density=1.0, scale=scale)


def _add_merged(
    theta0: PyTree, vectors: Sequence[PyTree], merge: Callable[..., jax.Array]
) -> PyTree:
    """θ₀ + merge(those of the vectors that have the leaf), leaf by leaf."""

    def moved(x: jax.Array | None, *taus: jax.Array | None) -> jax.Array | None:
        taus = [tau for tau in taus if tau is not None]
        return x + merge(*taus) if taus and x is not None else x

    return _map_leaves(moved, theta0, *vectors, with_none=True)


def _map_leaves(
    fn: Callable[..., Any], first: PyTree, *other_trees: PyTree, with_none: bool = False
) -> PyTree:
    """Maps `fn(leaf, …)` over trees of one structure, in float32 or wider.

    None where any leaf is, without calling `fn`; with `with_none` it is called there
    too.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(first, is_leaf=_is_none)
    first_leaves = {trees.path_str(path): x for path, x in flat}
    other_leaves = [_leaves(tree) for tree in other_trees]
    for leaves in other_leaves:
        _check_same_structure(first_leaves, leaves)
    results = []
    for path, x in first_leaves.items():
        values = [x, *(leaves[path] for leaves in other_leaves)]
        if not with_none and any(value is None for value in values):
            results.append(None)
            continue
        result = fn(*(None if v is None else trees.as_float32(v) for v in values))
        results.append(None if result is None else result.astype(jnp.result_type(x)))
    return jax.tree.unflatten(treedef, results)


def _is_none(x: Any) -> bool:
    return x is None


def _leaves(tree: PyTree) -> dict[str, Any]:
    """{path: leaf} with None as a leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    return {trees.path_str(path): x for path, x in flat}


def _check_same_structure(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Raises UserError at a leaf that only one tree has, or that has another shape."""
    for path in {**first, **second}:
        if path not in first or path not in second:
            raise UserError(
                f"the trees are of different models: only one has {path!r}."
            )
        leaves = [x for x in (first[path], second[path]) if x is not None]
        shapes = [tuple(jnp.shape(x)) for x in leaves]
        if len(set(shapes)) > 1:
            raise UserError(
                f"the trees are of different models: {path!r} has the shape "
                f"{shapes[0]} in one and {shapes[1]} in the other."
            )


def _nonempty(items: Sequence[PyTree], method: str, item: str) -> list[PyTree]:
    """The items as a list; UserError where there are none."""
    items = list(items)
    if not items:
        raise UserError(f"{method} needs at least one {item}; got none.")
    return items
