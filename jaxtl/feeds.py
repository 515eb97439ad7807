"""Which data set each stream reads, how much of it, and how it is preprocessed."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxtl import config, objective
from jaxtl.core import UserError, nearest
from jaxtl.data import base, lazy, preprocess
from jaxtl.experiment import Experiment


def read_of(datasets: Mapping[str, base.Dataset], stream: str) -> tuple[str, str]:
    """Returns (data set, split) that a stream reads.

    "unlabelled" reads the target's train rows that have no label, unless the
    experiment brings a data set of that name; all others read train rows.
    """
    if stream == "unlabelled" and stream not in datasets:
        return "target", "unlabelled"
    return stream, "train"


def labelled(stream: str) -> bool:
    """Returns whether a stream's batches hold labels."""
    return stream != "unlabelled"


def sources(exp: Experiment) -> dict[str, base.Data]:
    """Returns "target" and the streams, images in the size of pretrained weights.

    A size that the data name themselves stays.
    """
    framing = getattr(exp.init, "framing", None)
    wanted = framing(exp.model) if framing else {}
    found = {"target": exp.data, **exp.streams}
    if not wanted:
        return found
    return {
        name: config.replace(data, **wanted) if data.size is None else data
        for name, data in found.items()
    }


def datasets_of(exp: Experiment) -> dict[str, base.Dataset]:
    """Returns "target" and the streams, read and carved; all of one kind."""
    for name in exp.streams:
        if name in ("target", "terms"):
            raise UserError(
                f"streams: the name {name!r} is taken (target comes from data=); "
                "choose another, such as 'source'."
            )
    found = {}
    for name, data in sources(exp).items():
        found[name] = base.prepare(data, exp.seed)
        _same_kind(name, found[name], found["target"])
    if "unlabelled" in exp.streams and len(found["target"].rows.get("unlabelled", ())):
        raise UserError(
            "streams['unlabelled']: data= leaves train rows without a label already; "
            "drop the stream, or give data all of its labels."
        )
    return found


def _same_kind(name, other: base.Dataset, target: base.Dataset) -> None:
    if other.example_shape != target.example_shape:
        raise UserError(
            f"streams[{name!r}] has examples of shape {other.example_shape}, the "
            f"target of shape {target.example_shape}; give both the same size= and "
            "channels=."
        )


def outputs(datasets: Mapping[str, base.Dataset]) -> int:
    """Returns the number of outputs that the target and its sources need.

    More than the target's own where it has only the first of a source's classes.
    """
    target = datasets["target"]
    names = target.class_names
    known = [d for d in datasets.values() if d.class_names[: len(names)] == names]
    return max([target.outputs, *(d.outputs for d in known)])


def preprocessing(exp, weights, datasets) -> dict[str, preprocess.Preprocess]:
    """The model's mean and std travel with its weights; the scale is the data's."""
    if exp.preprocess is not None:
        return dict.fromkeys(datasets, exp.preprocess)
    own = datasets["target"].preprocess
    if weights is not None and weights.meta.get("preprocess"):
        own = preprocess.from_json(weights.meta["preprocess"])
    return {
        name: dataclasses.replace(data.preprocess, mean=own.mean, std=own.std)
        for name, data in datasets.items()
    }


def example(dataset: base.Dataset, pre: preprocess.Preprocess, count: int = 1):
    """Returns the first train rows, preprocessed, as a batch."""
    rows = dataset.rows["train"]
    rows = np.resize(rows if len(rows) else dataset.rows["unlabelled"], count)
    return preprocess.apply(pre, lazy.gather(dataset.x, rows))


def sizes(exp, terms, target) -> dict[str, int]:
    """Returns {stream: batch size} for the streams that the terms read."""
    there = ["target"] if len(target.rows["train"]) else []
    there += exp.streams
    if "unlabelled" in target.rows:
        there.append("unlabelled")
    sizes = {}
    for name in objective.streams(terms):
        asking = [t for t, term in terms.items() if name in term.streams]
        if name == "unlabelled" and name not in there:
            raise UserError(
                f"terms[{asking[0]!r}] reads the stream 'unlabelled', but data= leaves "
                "no train rows without a label; set data.labels_per_class, or "
                "data.labels=0 for a target without labels."
            )
        if name == "target" and name not in there:
            raise UserError(
                f"terms[{asking[0]!r}] reads the labelled stream 'target', but data= "
                "keeps no label; read a labelled stream, such as "
                "tl.losses.CrossEntropy(stream='source'), or raise data.labels "
                f"(streams: {', '.join(there)})."
            )
        if name not in there:
            raise UserError(
                f"terms[{asking[0]!r}] reads the stream {name!r}, which does not exist"
                f"{nearest(name, there)} (streams: {', '.join(there)})."
            )
        sizes[name] = exp.batch_of(name)
        parts = exp.accumulate * exp.devices
        if sizes[name] < 1 or sizes[name] % parts:
            raise UserError(
                f"batch={sizes[name]} of the stream {name!r} must be a positive "
                f"multiple of accumulate × devices = {parts}."
            )
    return sizes


def batches(datasets, pre, size: int, stream: str):
    """Yields the train examples of a stream once, in order, preprocessed."""
    name, split = read_of(datasets, stream)
    dataset = datasets[name]
    rows = dataset.rows[split]
    for at in range(0, len(rows), size):
        chunk = rows[at : at + size]
        x = preprocess.apply(pre[name], lazy.gather(dataset.x, chunk))
        found = {"x": x, "row": jnp.asarray(chunk)}
        if labelled(stream):
            found["y"] = jnp.asarray(dataset.y[chunk])
        yield found


def classes(datasets, sizes) -> dict[str, tuple[str, ...]]:
    """Returns {stream: class names}, () without labels; "" has the target's."""
    found = {n: datasets[n].class_names if labelled(n) else () for n in sizes}
    return {**found, "": datasets["target"].class_names}


def statistics(exp: Experiment, sizes) -> tuple[str, ...] | None:
    """Returns `exp.statistics`, whose streams some term must read."""
    for name in exp.statistics or ():
        if name not in sizes:
            raise UserError(
                f"statistics={exp.statistics!r}: no term reads a stream {name!r}"
                f"{nearest(name, sizes)} (streams: {', '.join(sizes)})."
            )
    return exp.statistics
