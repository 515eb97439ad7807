"""DAN: the distance of two domains' features under a mean of Gaussian kernels."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain.domain_pair import DomainPairAtStages

ESTIMATORS = ("biased", "unbiased", "linear")
MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)


def pair_weights(n: int, m: int, estimator: str) -> jax.Array:
    """Weights w of an estimate MMD² = Σ w · k over the pairs of `squared_distances`.

    Args:
      n, m: number of examples of the two domains.
      estimator: "biased" takes all pairs, Σ_ij over n², m² and n·m; "unbiased" leaves
        out the pair of each example with itself; "linear" takes each example once.

    Returns:
      (n + m, n + m), or (4, n // 2) for "linear".

    Raises:
      UserError: for an unknown estimator, too few examples, or n ≠ m with "linear".
    """
    if estimator not in ESTIMATORS:
        raise UserError(
            f"MMD: estimator={estimator!r} is unknown (known: {', '.join(ESTIMATORS)})."
        )
    minimum = 1 if estimator == "biased" else 2
    if min(n, m) < minimum:
        raise UserError(
            f"MMD: estimator={estimator!r} needs at least {minimum} examples of each "
            f"domain in a batch, got {n} and {m}."
        )
    if estimator == "linear":
        if n != m:
            raise UserError(
                f"MMD: estimator='linear' pairs the domains' examples, so their "
                f"batches must be of one size, got {n} and {m}."
            )
        return jnp.asarray([[1.0], [1.0], [-1.0], [-1.0]]) / (n // 2)
    signed = jnp.concatenate([jnp.full(n, 1.0 / n), jnp.full(m, -1.0 / m)])
    products = signed[:, None] * signed
    if estimator == "biased":
        return products
    # n² → n·(n − 1) within a domain, and 0 on the diagonal.
    scale = jnp.concatenate([jnp.full(n, n / (n - 1)), jnp.full(m, m / (m - 1))])
    within = products * scale * (1.0 - jnp.eye(n + m))
    return jnp.where(products > 0, within, products)


def squared_distances(
    source: jax.Array, target: jax.Array, estimator: str
) -> tuple[jax.Array, jax.Array]:
    """Squared distances of the pairs that an estimator sums over.

    Args:
      source: (n, d) features of one domain.
      target: (m, d) features of the other.
      estimator: as in `pair_weights`.

    Returns:
      (distances, their mean over pairs of two different examples, without gradient).
      Distances are (n + m, n + m) of the pooled batch; for "linear" (4, n // 2): of two
      neighbors within the source, within the target, and of each to the other's partner
      in the other domain.
    """
    if estimator == "linear":
        half = source.shape[0] // 2
        a, b = source[: 2 * half : 2], source[1 : 2 * half : 2]
        c, d = target[: 2 * half : 2], target[1 : 2 * half : 2]
        differences = jnp.stack([a - b, c - d, a - d, b - c])
        distances = jnp.sum(jnp.square(differences), axis=-1)
        return distances, _mean_distance(distances, distances.size, source)
    pooled = jnp.concatenate([source, target])
    # Distances are differences of large numbers where features lie far from 0.
    centered = pooled - jax.lax.stop_gradient(pooled.mean(0))
    squares = jnp.sum(jnp.square(centered), axis=1)
    gram = jnp.matmul(centered, centered.T, precision="highest")
    distances = jnp.maximum(squares[:, None] + squares - 2 * gram, 0.0)
    pairs = distances.size - len(distances)
    return distances, _mean_distance(distances, pairs, pooled)


def _mean_distance(distances: jax.Array, pairs: int, x: jax.Array) -> jax.Array:
    """Mean distance; larger than rounding errors where all examples are equal."""
    minimum = 1e-12 * jnp.mean(jnp.sum(jnp.square(x), axis=1)) + 1e-30
    return jax.lax.stop_gradient(jnp.maximum(jnp.sum(distances) / pairs, minimum))


def kernel(
    distances: jax.Array,
    mean_distance: jax.Array | float,
    multipliers: Sequence[float] = MULTIPLIERS,
    bandwidths: Sequence[float] | None = None,
) -> jax.Array:
    """Mean of several Gaussian kernels exp(−‖x − y‖² / γ).

    Args:
      distances, mean_distance: results of `squared_distances`.
      multipliers: the kernels' γ as multiples of the mean distance.
      bandwidths: γ themselves, in squared units of the features (2σ² of a Gaussian),
        in place of the multipliers.

    Returns:
      The shape of `distances`, in (0, 1].

    Raises:
      UserError: if there is no kernel, or a width is not above 0.
    """
    widths, name = multipliers, "multipliers"
    if bandwidths is not None:
        widths, name, mean_distance = bandwidths, "bandwidths", 1.0
    if len(widths) == 0:
        raise UserError(f"MMD: {name}=() leaves no kernel; give at least one width.")
    for width in widths:
        if isinstance(width, int | float) and not width > 0:
            raise UserError(f"MMD: {name}: expected widths above 0, got {width!r}.")
    kernels = (jnp.exp(-distances / (width * mean_distance)) for width in widths)
    return sum(kernels, jnp.float32(0.0)) / len(widths)


def mmd(
    source: jax.Array,
    target: jax.Array,
    *,
    multipliers: Sequence[float] = MULTIPLIERS,
    bandwidths: Sequence[float] | None = None,
    estimator: str = "biased",
) -> jax.Array:
    """Squared maximum mean discrepancy E k(s, s′) + E k(t, t′) − 2 E k(s, t).

    Args:
      source: (n, d) features of one domain.
      target: (m, d) features of the other.
      multipliers, bandwidths: widths of the kernels, as in `kernel`; k is their mean.
      estimator: "biased" (at least 0), "unbiased" (may fall below 0) or "linear"
        (unbiased as well, in time linear in n, of larger variance), as in
        `pair_weights`.

    Returns:
      A scalar, the square itself and not its root.

    Raises:
      UserError: as `pair_weights` and `kernel`.

    References:
      Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), eq. 5 (biased), eq. 3
      (unbiased) and lemma 14 (linear). Long et al., Learning Transferable Features
      with Deep Adaptation Networks, ICML 2015, section 3; the kernels' coefficients β
      are equal here, and not learned. The authors' program adds its five kernels: with
      five multipliers its weight 1 is 5 here.
    """
    weights = pair_weights(source.shape[0], target.shape[0], estimator)
    distances, mean_distance = squared_distances(source, target, estimator)
    return jnp.sum(weights * kernel(distances, mean_distance, multipliers, bandwidths))


def check_widths(setup: Setup, field: str, widths: tuple[float, ...]) -> None:
    """Raises if a term's kernel widths are empty or one of them is not above 0.

    Args:
      setup: names the term in the message.
      field: of the term that holds the widths.
      widths: the field's value.
    """
    if not widths:
        raise UserError(
            f"{checks.where(setup, field)}={widths!r}: the kernel needs at least one "
            "width."
        )
    for index, width in enumerate(widths):
        checks.positive(setup, f"{field}.{index}", width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DAN(DomainPairAtStages):
    """`mmd` between two streams' features, summed over stages.

    Features are one vector per example (`domain_pair.stage_vectors`). Time and memory
    grow with the square of the two batches together, except for "linear".

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: stages whose outputs to align; None is the last one before the head.
      multipliers: widths of the kernels as multiples of the batch's mean squared
        distance.
      bandwidths: the widths themselves; None uses the multipliers.
      estimator: "biased", "unbiased" or "linear".
    """

    compares: ClassVar[str] = "pairs of examples"

    multipliers: tuple[float, ...] = traced(MULTIPLIERS)
    bandwidths: tuple[float, ...] | None = traced(None)
    estimator: str = "biased"

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.one_of(setup, "estimator", self.estimator, ESTIMATORS)
        check_widths(setup, "multipliers", self.multipliers)
        if self.bandwidths is not None:
            check_widths(setup, "bandwidths", self.bandwidths)

    def __call__(self, context: View) -> jax.Array:
        values = [
            mmd(
                source,
                target,
                multipliers=self.multipliers,
                bandwidths=self.bandwidths,
                estimator=self.estimator,
            )
            for source, target in self.feature_pairs(context)
        ]
        return sum(values, jnp.float32(0.0))
