"""DAN: the distance of two domains' features by many Gaussian kernels at once."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain import domain_pair

ESTIMATORS = ("biased", "unbiased", "linear")
POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)


def weights(n: int, m: int, estimator: str) -> jax.Array:
    """Returns w so that an estimate of MMD² is Σ w · k, k as `distances` orders pairs.

    Args:
      n, m: number of examples of the two domains.
      estimator: "biased" takes all pairs, Σ_ij over n², m² and n·m; "unbiased" leaves
        each example's pair with itself out; "linear" takes each example once.

    Returns:
      (n + m, n + m), or (4, n // 2) for "linear".

    Raises:
      UserError: for an unknown estimator, too few examples, or ("linear") n ≠ m.
    """
    if estimator not in ESTIMATORS:
        raise UserError(
            f"MMD: estimator={estimator!r} is unknown (known: {', '.join(ESTIMATORS)})."
        )
    least = 1 if estimator == "biased" else 2
    if min(n, m) < least:
        raise UserError(
            f"MMD: estimator={estimator!r} needs at least {least} examples of each "
            f"domain in a batch, got {n} and {m}."
        )
    if estimator == "linear":
        if n != m:
            raise UserError(
                f"MMD: estimator='linear' pairs the domains' examples, so their "
                f"batches must be of one size, got {n} and {m}."
            )
        return jnp.asarray([[1.0], [1.0], [-1.0], [-1.0]]) / (n // 2)
    sign = jnp.concatenate([jnp.full(n, 1.0 / n), jnp.full(m, -1.0 / m)])
    every = sign[:, None] * sign
    if estimator == "biased":
        return every
    more = jnp.concatenate([jnp.full(n, n / (n - 1)), jnp.full(m, m / (m - 1))])
    inner = every * more * (1.0 - jnp.eye(n + m))
    return jnp.where(every > 0, inner, every)


def distances(
    source: jax.Array, target: jax.Array, estimator: str
) -> tuple[jax.Array, jax.Array]:
    """Returns the squared distances of the pairs that an estimator looks at.

    Args:
      source: (n, d) features of one domain.
      target: (m, d) features of the other.
      estimator: as in `weights`.

    Returns:
      (distances, their mean over pairs of two different examples, which takes no
      gradient): (n + m, n + m) of the pooled batch, or for "linear" (4, n // 2) of
      neighbours within each domain and of each to the other domain's other.
    """
    if estimator == "linear":
        half = source.shape[0] // 2
        a, b = source[: 2 * half : 2], source[1 : 2 * half : 2]
        c, d = target[: 2 * half : 2], target[1 : 2 * half : 2]
        apart = jnp.stack([a - b, c - d, a - d, b - c])
        apart = jnp.sum(jnp.square(apart), axis=-1)
        return apart, _unit(apart, apart.size, source)
    pooled = jnp.concatenate([source, target])
    # Distances are differences of large numbers where features lie far from 0.
    centred = pooled - jax.lax.stop_gradient(pooled.mean(0))
    square = jnp.sum(jnp.square(centred), axis=1)
    gram = jnp.matmul(centred, centred.T, precision="highest")
    apart = jnp.maximum(square[:, None] + square - 2 * gram, 0.0)
    return apart, _unit(apart, apart.size - len(apart), pooled)


def _unit(apart: jax.Array, pairs: int, x: jax.Array) -> jax.Array:
    """The mean distance; more than rounding where all examples are one."""
    least = 1e-12 * jnp.mean(jnp.sum(jnp.square(x), axis=1)) + 1e-30
    return jax.lax.stop_gradient(jnp.maximum(jnp.sum(apart) / pairs, least))


def kernel(
    apart: jax.Array,
    unit: jax.Array,
    multipliers: Sequence[float] = POWERS,
    bandwidths: Sequence[float] | None = None,
) -> jax.Array:
    """Mean over the bank of exp(−‖x − y‖² / γ).

    Args:
      apart, unit: squared distances and their mean, from `distances`.
      multipliers: of γ = multiplier · mean.
      bandwidths: γ themselves, in squared units of the features (2σ² of a Gaussian),
        in place of the multipliers.

    Raises:
      UserError: for an empty bank, or a width that is not above 0.
    """
    bank, name = multipliers, "multipliers"
    if bandwidths is not None:
        bank, name, unit = bandwidths, "bandwidths", 1.0
    if len(bank) == 0:
        raise UserError(f"MMD: {name}=() is a bank without a kernel; give one width.")
    for number in bank:
        if isinstance(number, int | float) and not number > 0:
            raise UserError(f"MMD: {name}: expected widths above 0, got {number!r}.")
    return sum(jnp.exp(-apart / (number * unit)) for number in bank) / len(bank)


def mmd(
    source: jax.Array,
    target: jax.Array,
    *,
    multipliers: Sequence[float] = POWERS,
    bandwidths: Sequence[float] | None = None,
    estimator: str = "biased",
) -> jax.Array:
    """Squared maximum mean discrepancy E k(s, s′) + E k(t, t′) − 2 E k(s, t).

    Args:
      source: (n, d) features of one domain.
      target: (m, d) features of the other.
      multipliers, bandwidths: as in `kernel`, the mean of the bank's kernels.
      estimator: "biased" (at least 0), "unbiased" (may fall below 0) or "linear"
        (unbiased as well, in time linear in n, of larger variance), as in `weights`.

    Returns:
      A scalar, the square itself and not its root.

    Raises:
      UserError: as `weights` and `kernel`.

    References:
      Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), eq. 5 (biased), eq. 3
      (unbiased) and lemma 14 (linear). Long et al., Learning Transferable Features
      with Deep Adaptation Networks, ICML 2015, section 3; the kernels' coefficients β
      are equal here, and not learned.
    """
    factors = weights(source.shape[0], target.shape[0], estimator)
    apart, unit = distances(source, target, estimator)
    return jnp.sum(factors * kernel(apart, unit, multipliers, bandwidths))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DAN(Term):
    """`mmd` between two streams' features, summed over stages.

    Features are taken as one vector per example (`pairs.vector`). Time and memory grow
    with the square of the two batches together, except for "linear".

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: whose outputs to align; None is the last before the head.
      multipliers: widths of the bank's kernels, times the batch's mean squared
        distance.
      bandwidths: the widths themselves, in place of the multipliers; None uses those.
      estimator: "biased", "unbiased" or "linear".
    """

    source: str = "source"
    target: str = "unlabelled"
    stages: tuple[str, ...] | None = None
    multipliers: tuple[float, ...] = traced(POWERS)
    bandwidths: tuple[float, ...] | None = traced(None)
    estimator: str = "biased"

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        domain_pair.check(setup, self.source, self.target, self.stages)
        checks.one_of(setup, "estimator", self.estimator, ESTIMATORS)
        domain_pair.bank(setup, "multipliers", self.multipliers)
        domain_pair.bank(setup, "bandwidths", self.bandwidths)

    def __call__(self, context):
        return sum(
            mmd(
                *domain_pair.both(context, self, stage),
                multipliers=self.multipliers,
                bandwidths=self.bandwidths,
                estimator=self.estimator,
            )
            for stage in domain_pair.chosen(self.stages, context.program.network)
        )
