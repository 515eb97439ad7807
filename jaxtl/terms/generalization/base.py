"""Base class of terms over several labelled domains, and the domains' risks."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.context import View


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiDomainTerm(Term):
    """Base class of terms over several labelled domains, for classification.

    Attributes:
      streams: streams of the labelled domains, two or more.
    """

    streams: tuple[str, ...] = ()

    def check(self, setup: Setup) -> None:
        name, where = type(self).__name__, checks.where(setup, "streams")
        if isinstance(self.streams, str):
            raise UserError(
                f"{where}={self.streams!r}: expected a tuple of names, such as "
                f"({self.streams!r}, …)."
            )
        for stream in self.streams:
            checks.stream(setup, "streams", stream)
        distinct = len(set(self.streams))
        if distinct < 2 or distinct < len(self.streams):
            labelled = [s for s in setup.program.streams if s != "unlabelled"]
            raise UserError(
                f"{where}={tuple(self.streams)!r}: {name} compares domains, so it "
                "needs two or more different streams "
                f"(streams: {', '.join(labelled)})."
            )
        if "unlabelled" in self.streams:
            raise UserError(
                f"{where}={tuple(self.streams)!r}: {name} needs labels in every "
                "domain, and the stream 'unlabelled' has none."
            )
        checks.task(setup, name, "classification")
        for stream in self.streams:
            checks.classes(setup, "streams", stream)


def risks(
    logits: Mapping[str, jax.Array],
    labels: Mapping[str, jax.Array],
    smoothing: float | jax.Array = 0.0,
) -> jax.Array:
    """Mean cross-entropy of each domain in nats.

    Args:
      logits: domain -> (batch, classes).
      labels: domain -> (batch,) class indices or (batch, classes) distributions.
      smoothing: of the labels, in [0, 1].

    Returns:
      (domains,), float32 or wider.
    """
    return jnp.stack(
        [losses.cross_entropy(logits[name], labels[name], smoothing) for name in logits]
    )


def domain_logits(context: View, streams: tuple[str, ...]) -> dict[str, jax.Array]:
    """Logits of each domain, from one pass over the batches of all domains.

    BatchNorm thus sees the pooled batch, as at evaluation, where its statistics are
    those of all domains (Gulrajani & Lopez-Paz, In Search of Lost Domain
    Generalization, ICLR 2021, run their methods in this way).

    Returns:
      domain -> (batch, classes).
    """
    outputs = context.joint_forward(streams)
    return {name: output.logits for name, output in outputs.items()}


def domain_labels(context: View, streams: tuple[str, ...]) -> dict[str, jax.Array]:
    """Labels of each domain: domain -> (batch,) or (batch, classes)."""
    return {name: context.batches[name]["y"] for name in streams}


def accuracies(
    logits: Mapping[str, jax.Array], labels: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Mean and minimum of the domains' accuracies: {"accuracy": …, "worst": …}.

    Args:
      logits, labels: as in `risks`.
    """
    means = []
    for name, z in logits.items():
        y = labels[name]
        y = jnp.argmax(y, axis=-1) if y.ndim == z.ndim else y
        means.append(jnp.mean((jnp.argmax(z, axis=-1) == y).astype(jnp.float32)))
    values = jnp.stack(means)
    return {"accuracy": values.mean(), "worst": values.min()}


def stacked_batches(
    context: View, streams: tuple[str, ...], *, inputs: bool = False
) -> tuple[PyTree, jax.Array, str | None]:
    """Stacks the domains' batches, cut to the size of the smallest one.

    Args:
      context: of the step.
      streams: the domains.
      inputs: whether to read the model's inputs even where features are cached.

    Returns:
      x: (domains, batch, …), a tree where inputs are one; y: (domains, batch, …); and
      the stage that reads x, None for the first.
    """
    y = [context.batches[name]["y"] for name in streams]
    size = min(map(len, y))
    if inputs:
        entries = [(context.batches[name]["x"], None) for name in streams]
    else:
        entries = [context.entry(name) for name in streams]
    x = jax.tree.map(
        lambda *xs: jnp.stack([a[:size] for a in xs]), *(x for x, _ in entries)
    )
    return x, jnp.stack([a[:size] for a in y]), entries[0][1]
