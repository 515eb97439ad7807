"""Weight space: averages, interpolations and merges of whole parameter trees.

Every function is pure and takes trees of one structure, statistics included if the
caller puts them in. Leaves are averaged in float32 at least and come back in the dtype
of the first tree's; a shape that differs is one error that names the leaf. None counts
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


def interpolate(a: PyTree, b: PyTree, alpha) -> PyTree:
    """(1 − α)·a + α·b; exactly a at α = 0 and exactly b at α = 1.

    Args:
      a, b: trees of one structure.
      alpha: α, may be traced; outside [0, 1] it extrapolates.

    References:
      Wortsman et al., Robust Fine-Tuning of Zero-Shot Models (WiSE-FT), CVPR 2022,
      eq. 1: a is the pretrained model, b the fine-tuned one.
    """

    def leaf(x, y):
        # As a + α(b − a): where the two agree, so does everything between them.
        mixed = x + alpha * (y - x)
        return jnp.where(alpha == 0, x, jnp.where(alpha == 1, y, mixed))

    return _combined(leaf, a, b)


def uniform_soup(models: Sequence[PyTree]) -> PyTree:
    """The mean of some models: (1/n) Σᵢ θᵢ.

    References:
      Wortsman et al., Model Soups, ICML 2022, the uniform soup.
    """
    models = _some(models, "a soup", "model")

    def leaf(first, *rest):
        # Models of one origin lie close together: their differences round little, and
        # those of equal models are exactly 0.
        return first + sum((x - first for x in rest), 0.0) / len(models)

    return _combined(leaf, *models)


class GreedySoup(NamedTuple):
    """What `greedy_soup` made.

    Attributes:
      tree: the mean of the chosen models; the best model itself where it is alone.
      members: indices of the chosen models, in the order they were taken.
      score: the mean's score.
      scores: score of every single model, in the order they were given.
    """

    tree: PyTree
    members: tuple[int, ...]
    score: float
    scores: tuple[float, ...]


def greedy_soup(
    models: Sequence[PyTree], score: Callable[[PyTree], float]
) -> GreedySoup:
    """Takes models from best to worst, each where the mean's score gets no worse.

    Args:
      models: trees of one structure.
      score: tree -> a number on held-out data, larger is better; NaN is the worst.
        Called at most 2n − 1 times.

    References:
      Wortsman et al., Model Soups, ICML 2022, recipe 1.
    """
    models = _some(models, "a soup", "model")
    scores = tuple(float(score(model)) for model in models)
    known = [-math.inf if math.isnan(s) else s for s in scores]
    first, *others = sorted(range(len(models)), key=lambda i: -known[i])
    members, made, best = [first], models[first], known[first]
    for index in others:
        tried = uniform_soup([models[i] for i in (*members, index)])
        found = float(score(tried))
        if found >= best:
            members, made, best = [*members, index], tried, found
    return GreedySoup(made, tuple(members), best, scores)


def ema(average: PyTree, params: PyTree, decay, step=None) -> PyTree:
    """d·average + (1 − d)·θ, the exponential moving average.

    Args:
      average: the average so far.
      params: θ after this step.
      decay: d, may be traced; 1 / (1 − d) steps is about how far it looks back.
      step: None takes d as it is, so the first value keeps the weight dᵗ (start with
        `average = θ`). With the number of averages taken before, 0 at first, d is
        min(decay, step / (step + 1)): the plain mean of all θ so far, until that is
        the longer memory. What `average` held before step 0 then counts for nothing.

    References:
      Tarvainen & Valpola, Mean Teachers Are Better Role Models, NeurIPS 2017, §2; the
      warm-up is that of the authors' code.
    """
    d = decay if step is None else jnp.minimum(decay, step / (step + 1.0))

    def leaf(mean, new):
        return jnp.where(d == 0, new, mean + (1 - d) * (new - mean))

    return _combined(leaf, average, params)


def swa(average: PyTree, params: PyTree, count) -> PyTree:
    """(n·average + θ) / (n + 1), the running mean.

    Args:
      average: the mean of n models; anything for n = 0.
      params: θ, the next one.
      count: n, may be traced.

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better
      Generalization, UAI 2018, Algorithm 1. Statistics of BatchNorm are to be
      estimated anew (`statistics.refresh_statistics`).
    """

    def leaf(mean, new):
        return jnp.where(count == 0, new, mean + (new - mean) / (count + 1.0))

    return _combined(leaf, average, params)


def task_vector(theta: PyTree, theta0: PyTree) -> PyTree:
    """τ = θ − θ₀.

    References:
      Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, §2.
    """
    return _combined(lambda x, x0: x - x0, theta, theta0)


def task_arithmetic(theta0: PyTree, vectors: Sequence[PyTree], scale) -> PyTree:
    """θ₀ + λ Σᵢ τᵢ; a negative λ makes the model forget the tasks.

    Args:
      theta0: θ₀; where it is None the result is.
      vectors: τᵢ; one that is None somewhere changes nothing there.
      scale: λ, to be chosen on validation data.

    References:
      Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, §2 (the same λ
      for all tasks).
    """
    vectors = _some(vectors, "task arithmetic", "task vector")
    return _moved(theta0, vectors, lambda *taus: scale * sum(taus))


def ties(
    theta0: PyTree, vectors: Sequence[PyTree], density: float = 0.2, scale=1.0
) -> PyTree:
    """θ₀ + λ·τ with τ merged by trimming, electing a sign, and a disjoint mean.

    Of each τᵢ the share `density` of largest magnitude stays, counted over the whole
    tree (`trim`). A parameter's sign is that of Σᵢ τᵢ, and τ is the mean of those τᵢ
    that have this sign and are not 0. Where the sum is exactly 0, τ is 0 (the authors'
    code takes the sign that most parameters have).

    Args:
      theta0: θ₀; where it is None the result is.
      vectors: τᵢ, see `task_vector`; one that is None somewhere doesn't vote there.
      density: share kept of each, in (0, 1]; the paper's k = 20 %.
      scale: λ; the paper's 1 where there is no validation data.

    References:
      Yadav et al., TIES-Merging: Resolving Interference When Merging Models, NeurIPS
      2023, Algorithm 1.
    """
    vectors = _some(vectors, "TIES", "task vector")
    kept = [trim(vector, density) for vector in vectors]
    return _moved(theta0, kept, lambda *taus: scale * _disjoint_mean(jnp.stack(taus)))


def trim(vector: PyTree, density: float) -> PyTree:
    """Sets all but the share `density` of largest magnitudes to 0; ties are kept.

    Args:
      vector: a tree; its elements are counted together.
      density: in (0, 1]; at least one element stays.
    """
    if not 0 < density <= 1:
        raise UserError(f"density={density!r}: expected a number in (0, 1].")
    leaves = [jnp.abs(trees.as_float32(x)).ravel() for x in jax.tree.leaves(vector)]
    if not leaves:
        return vector
    sizes = jnp.sort(jnp.concatenate(leaves))
    least = sizes[-max(1, round(density * sizes.size))]
    return _combined(lambda x: jnp.where(jnp.abs(x) >= least, x, 0), vector)


def _disjoint_mean(taus: jax.Array) -> jax.Array:
    """Mean over axis 0 of the values that are on the sum's side of 0."""
    sign = jnp.sign(taus.sum(0))
    agrees = (jnp.sign(taus) == sign) & (sign != 0)
    return jnp.where(agrees, taus, 0).sum(0) / jnp.maximum(agrees.sum(0), 1)


def dare(key: jax.Array, vector: PyTree, drop) -> PyTree:
    """(1 − m) ⊙ τ / (1 − p) with mᵢ ~ Bernoulli(p): unbiased, and mostly 0.

    Args:
      key: every leaf draws its own mask from it.
      vector: τ, see `task_vector`.
      drop: p in [0, 1), the share that is dropped; may be traced.

    References:
      Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous
      Models as a Free Lunch, ICML 2024: drop and rescale.
    """
    if isinstance(drop, int | float) and not 0 <= drop < 1:
        raise UserError(f"drop={drop!r}: expected a number in [0, 1).")
    index = iter(range(len(jax.tree.leaves(vector))))

    def leaf(x):
        own = jax.random.fold_in(key, next(index))
        keep = jax.random.bernoulli(own, 1.0 - drop, x.shape)
        return jnp.where(keep, x / (1.0 - drop), 0)

    return _combined(leaf, vector)


def dare_ties(
    key: jax.Array, theta0: PyTree, vectors: Sequence[PyTree], drop, scale=1.0
) -> PyTree:
    """TIES with DARE's random dropping in place of the trimming.

    Args:
      key: each task vector draws its own masks from it.
      theta0, vectors, scale: as in `ties`.
      drop: as in `dare`.

    References:
      Yu et al., as in `dare`, which they put before other merging methods.
    """
    vectors = _some(vectors, "TIES", "task vector")
    keys = jax.random.split(key, len(vectors))
    dropped = [dare(k, vector, drop) for k, vector in zip(keys, vectors)]
    return ties(theta0, dropped, density=1.0, scale=scale)


def _moved(theta0: PyTree, vectors, merge: Callable[..., jax.Array]) -> PyTree:
    """Returns θ₀ + merge(the vectors that are there), leaf by leaf."""

    def leaf(x, *taus):
        taus = [tau for tau in taus if tau is not None]
        return x + merge(*taus) if taus and x is not None else x

    return _combined(leaf, theta0, *vectors, partial=True)


def _combined(
    fn: Callable[..., Any], first: PyTree, *rest: PyTree, partial: bool = False
) -> PyTree:
    """Maps `fn(leaf, …)` over trees of one structure, in float32 or wider.

    None where any leaf is, without calling `fn`; with `partial` it is called there too.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(first, is_leaf=_is_none)
    ours = {trees.path_str(path): x for path, x in flat}
    theirs = [_leaves(tree) for tree in rest]
    for other in theirs:
        _same(ours, other)
    made = []
    for path, x in ours.items():
        leaves = [x, *(other[path] for other in theirs)]
        if not partial and any(leaf is None for leaf in leaves):
            made.append(None)
            continue
        out = fn(*(None if leaf is None else trees.as_float32(leaf) for leaf in leaves))
        made.append(None if out is None else out.astype(jnp.result_type(x)))
    return jax.tree.unflatten(treedef, made)


def _is_none(x) -> bool:
    return x is None


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Returns {path: leaf} with None as a leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    return {trees.path_str(path): x for path, x in flat}


def _same(ours: dict, theirs: dict) -> None:
    """Raises UserError at a leaf that only one tree has, or that has another shape."""
    for path in {**ours, **theirs}:
        if path not in ours or path not in theirs:
            raise UserError(
                f"the trees are of different models: only one has {path!r}."
            )
        pair = [x for x in (ours[path], theirs[path]) if x is not None]
        shapes = [tuple(jnp.shape(x)) for x in pair]
        if len(set(shapes)) > 1:
            raise UserError(
                f"the trees are of different models: {path!r} has the shape "
                f"{shapes[0]} in one and {shapes[1]} in the other."
            )


def _some(found: Sequence[PyTree], what: str, one: str) -> list[PyTree]:
    found = list(found)
    if not found:
        raise UserError(f"{what} needs at least one {one}; got none.")
    return found
