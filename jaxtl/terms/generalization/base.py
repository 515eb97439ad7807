"""What the terms of this package share: their domains, and each one's risk."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup


def check(setup: Setup, term: str, streams: Sequence[str]) -> None:
    """Raises UserError unless `streams` names two or more different labelled streams.

    Args:
      setup: what the term is checked against.
      term: the term's class, for the message.
      streams: its field of that name.
    """
    where = checks.where(setup, "streams")
    if isinstance(streams, str):
        raise UserError(
            f"{where}={streams!r}: expected a tuple of names, such as ({streams!r}, …)."
        )
    for name in streams:
        checks.stream(setup, "streams", name)
    if len(set(streams)) < 2 or len(set(streams)) < len(streams):
        there = [name for name in setup.program.streams if name != "unlabelled"]
        raise UserError(
            f"{where}={tuple(streams)!r}: {term} compares domains, so it needs "
            f"two or more different streams (streams: {', '.join(there)})."
        )
    if "unlabelled" in streams:
        raise UserError(
            f"{where}={tuple(streams)!r}: {term} needs labels in every domain, and the "
            "stream 'unlabelled' has none."
        )
    checks.task(setup, term, "classification")
    for name in streams:
        checks.classes(setup, "streams", name)


def risks(
    logits: Mapping[str, jax.Array], labels: Mapping[str, jax.Array], smoothing=0.0
) -> jax.Array:
    """Returns each domain's mean cross-entropy in nats, (domains,), float32 or wider.

    Args:
      logits: domain -> (batch, classes).
      labels: domain -> (batch,) class indices or (batch, classes) distributions.
      smoothing: of the labels, in [0, 1].
    """
    found = [
        losses.cross_entropy(logits[name], labels[name], smoothing) for name in logits
    ]
    return jnp.stack(found)


def logits(context, streams: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns each domain's logits, of one pass over the batches of all.

    BatchNorm thus sees the pooled batch, as at evaluation, where its statistics are
    those of all domains (Gulrajani & Lopez-Paz, In Search of Lost Domain
    Generalization, ICLR 2021, run their methods so).
    """
    return {name: out.logits for name, out in context.joint_forward(streams).items()}


def labels(context, streams: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns each domain's labels."""
    return {name: context.batches[name]["y"] for name in streams}


def accuracies(
    logits: Mapping[str, jax.Array], labels: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns {"accuracy": the domains' mean, "worst": that of the worst domain}."""
    hits = []
    for name, z in logits.items():
        y = labels[name]
        y = jnp.argmax(y, axis=-1) if y.ndim == z.ndim else y
        hits.append(jnp.mean((jnp.argmax(z, axis=-1) == y).astype(jnp.float32)))
    hits = jnp.stack(hits)
    return {"accuracy": hits.mean(), "worst": hits.min()}


def equal(
    context, streams: tuple[str, ...], *, inputs: bool = False
) -> tuple[jax.Array, jax.Array, str | None]:
    """Returns the domains' batches stacked, cut to the smallest one.

    Args:
      context: of the step.
      streams: the domains.
      inputs: whether the model's inputs are wanted even where features are cached.

    Returns:
      x: (domains, batch, …), a tree where inputs are one; y: (domains, batch, …); and
      the stage that reads x, None for the first.
    """
    y = [context.batches[name]["y"] for name in streams]
    size = min(map(len, y))
    if inputs:
        x, start = [context.batches[name]["x"] for name in streams], None
    else:
        x, [start, *_] = zip(*(context.entry(name) for name in streams))
    x = jax.tree.map(lambda *xs: jnp.stack([a[:size] for a in xs]), *x)
    return x, jnp.stack([a[:size] for a in y]), start
