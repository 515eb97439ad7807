"""What chooses where the target has no labels: criteria of a run, its default monitor.

The criteria see the source's validation rows with their labels, some of its train rows
and the target's inputs ("unlabelled" and "val"), never a label of the target: at most
2,000 rows of each, the same at every evaluation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree, vectors
from jaxtl.evaluation import feature_cache, metrics, validators

MOST = 2000  # rows of each kind
# Musgrave et al. (arXiv:2208.07360) compared eight criteria on a million checkpoints; a
# simple baseline was the best in many cases. In experiments/office_caltech.py and
# cross_domain_sentiment.py source accuracy cost 1.8 to 3.3 points of a run's best
# checkpoint. BNM cost less, 0.8 to 2.9, but it is what some terms maximise by
# themselves, so it is left for targets whose source has no validation rows.
AUTO = ("source_accuracy", "source_mse", "bnm")


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows that a run's criteria look at.

    Attributes:
      val, train: source stream -> int32 rows of its data set.
      target: int32 rows of the target's data set.
    """

    val: Mapping[str, np.ndarray]
    train: Mapping[str, np.ndarray]
    target: np.ndarray


def label_free(parts) -> bool:
    """Returns whether a target is unlabelled: inputs to train on, and no label."""
    target = parts.datasets["target"]
    left = len(target.rows.get("unlabelled", ()))
    return len(target.rows["train"]) == 0 and left > 0 and target.task != "language"


def rows(parts) -> Rows:
    """Returns the rows that the criteria of an unlabelled target look at."""
    named = sources(parts)
    each = max(1, MOST // max(1, len(named)))
    kinds = {
        kind: {
            name: _some(parts.datasets[name].rows[kind], each)
            for name in named
            if len(parts.datasets[name].rows.get(kind, ()))
        }
        for kind in ("val", "train")
    }
    own = parts.datasets["target"].rows
    there = [own[kind] for kind in ("unlabelled", "val") if kind in own]
    return Rows(kinds["val"], kinds["train"], _some(np.concatenate(there), MOST))


def sources(parts) -> tuple[str, ...]:
    """Returns the labelled streams that a run brings beside its target."""
    return tuple(n for n in parts.datasets if n not in ("target", "unlabelled"))


def _some(found: np.ndarray, most: int) -> np.ndarray:
    found = np.sort(found).astype(np.int32)
    if len(found) <= most:
        return found
    return np.sort(np.random.default_rng(0).choice(found, most, replace=False))


def known(parts) -> tuple[str, ...]:
    """Returns the criteria that a run has, () where its target has labels."""
    if not label_free(parts):
        return ()
    named = sources(parts)
    there = {
        kind: any(len(parts.datasets[name].rows.get(kind, ())) for name in named)
        for kind in ("val", "train")
    }
    task = parts.datasets["target"].task
    return validators.names(task, source=there["val"], train=there["train"])


def monitor(parts, asked: str | None) -> str | None:
    """Returns the metric that chooses a run's best checkpoint.

    Args:
      parts: what the experiment was assembled to.
      asked: `Experiment.monitor`; "auto" is the task's main metric on val and, for an
        unlabelled target, the first of `AUTO` that it has.
    """
    if asked != "auto":
        return asked
    task = parts.datasets["target"].task
    found = [name for name in AUTO if name in known(parts)]
    return found[0] if found else metrics.main(task)


def check(parts, asked: str | None) -> None:
    """Raises UserError for a monitor that is unknown or has nothing to measure."""
    if asked is None:
        return
    target, mine = parts.datasets["target"], known(parts)
    own = metrics.METRICS[target.task]
    if asked in metrics.CRITERIA and asked not in mine:
        raise UserError(f"monitor={asked!r} {_why_not(parts, asked)}.")
    every = (*own, *mine)
    if asked != "auto" and asked not in every:
        raise UserError(
            f"monitor={asked!r} is no metric of this task{nearest(asked, every)} "
            f"(metrics: {', '.join(every)})."
        )
    if len(target.rows.get("val", ())) == 0:
        raise UserError(
            f"monitor={asked!r} needs a val split, but the data's is empty; raise "
            "data.val, or set monitor=None to keep the last checkpoint."
        )


def _why_not(parts, asked: str) -> str:
    if not label_free(parts):
        return (
            "chooses without labels, but this target has some; expected one of "
            f"{', '.join(metrics.METRICS[parts.datasets['target'].task])}"
        )
    task = parts.datasets["target"].task
    if asked not in validators.names(task, source=True, train=True):
        return f"is no criterion of a {task} task"
    if not sources(parts):
        own = ", ".join(known(parts)) or "none"
        return (
            "looks at a labelled source, but the experiment brings no stream of one; "
            f'give it streams={{"source": …}}, or choose another (there: {own})'
        )
    return (
        "needs validation rows of the source, but its val split is empty; raise the "
        "val of streams[" + ", ".join(map(repr, sources(parts))) + "]"
    )


def note(parts, asked: str | None) -> str:
    """Returns what has to be said of a monitor, "" for a labelled target."""
    name = monitor(parts, asked)
    if not label_free(parts) or name is None:
        return ""
    if name in metrics.CRITERIA:
        return f"{name} chooses, without labels of the target"
    return oracle(name)


def oracle(name: str) -> str:
    """Returns the warning of a monitor that an unlabelled target does not have."""
    return (
        f"ORACLE: {name} on val reads labels of the target, which has none to train "
        "on; its choice is an upper bound, no result without target labels"
    )


def logits_and_features(
    network: Network, weights: tuple[PyTree, PyTree], x: Any, task: str, **settings
) -> tuple[jax.Array, jax.Array]:
    """Logits, and the features (batch, width) that the head reads of them.

    Args:
      network: the model.
      weights: (parameters, statistics).
      x: its inputs; features of a cached stage, with `start=`.
      task: what its outputs mean.
      **settings: of `Network.apply`.
    """
    del task  # criteria look at the logits themselves
    out = network.apply(*weights, x, **settings)
    if len(network.stages) < 2:
        return out.logits, vectors(out.logits)
    before = network.stages[-2]
    if before not in out.features:  # the pass started after it, from its features
        return out.logits, vectors(x)
    feature = out.features[before]
    reduce = network.reduce or (lambda x: x)
    return out.logits, vectors(reduce(feature))


def evidence(parts, read: Mapping[str, tuple], there: Rows) -> validators.Evidence:
    """Returns what criteria see, from outputs of `wanted` rows.

    Args:
      parts: of the run.
      read: data set -> (logits, features) of its rows in `wanted(there)`.
      there: as `rows` gave them.
    """
    logits, labels, features, train = [], [], [], []
    for name in there.val:
        count = len(there.val[name])
        logits.append(read[name][0][:count])
        features.append(read[name][1][:count])
        labels.append(parts.datasets[name].y_clean[there.val[name]])
    for name in there.train:
        train.append(read[name][1][len(there.val.get(name, ())) :])

    def joined(values):
        return np.concatenate(values) if values else None

    return validators.Evidence(
        joined(logits),
        joined(labels),
        joined(features),
        joined(train) if logits else None,
        *read["target"],
    )


def wanted(there: Rows) -> dict[str, np.ndarray]:
    """Returns data set -> the rows to be run: a source's val rows, then its train's."""
    found = {
        name: np.concatenate(
            [kind[name] for kind in (there.val, there.train) if name in kind]
        )
        for name in dict.fromkeys((*there.val, *there.train))
    }
    return {**found, "target": there.target}


def measure(run, params, stats) -> dict[str, float]:
    """Returns the criteria of some weights of a run, {} where its target has labels."""
    if not label_free(run.parts):
        return {}
    there = rows(run.parts)
    read = {}
    for name, found in wanted(there).items():
        values = feature_cache.predict(
            run, (params, stats), name, found, logits_and_features, power_of_two=True
        )
        read[name] = jax.tree.map(lambda x: np.asarray(x, np.float32), values)
    return validators.measure(run.parts.program.task, evidence(run.parts, read, there))
