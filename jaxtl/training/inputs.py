"""The data sets of an experiment, their preprocessing and batch sizes."""

import dataclasses

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import dataset, preparation, preprocess
from jaxtl.data.streams import has_labels
from jaxtl.terms import context
from jaxtl.training.experiment import Experiment


def sources(exp: Experiment) -> dict[str, dataset.Data]:
    """Returns "target" and the streams, images in the size of pretrained weights.

    A size that the data name themselves stays.
    """
    framing = getattr(exp.init, "framing", None)
    wanted = framing(exp.model) if framing else {}
    found = {"target": exp.data, **exp.streams}
    if not wanted:
        return found
    return {
        name: dataclasses.replace(data, **wanted) if data.size is None else data
        for name, data in found.items()
    }


def datasets_of(exp: Experiment) -> dict[str, dataset.Dataset]:
    """Returns "target" and the streams, read and carved; all of one kind."""
    for name in exp.streams:
        if name in ("target", "terms"):
            raise UserError(
                f"streams: the name {name!r} is taken (target comes from data=); "
                "choose another, such as 'source'."
            )
    found = {}
    for name, data in sources(exp).items():
        found[name] = preparation.prepare(data, exp.seed)
        _same_kind(name, found[name], found["target"])
    if "unlabelled" in exp.streams and len(found["target"].rows.get("unlabelled", ())):
        raise UserError(
            "streams['unlabelled']: data= leaves train rows without a label already; "
            "drop the stream, or give data all of its labels."
        )
    return found


def _same_kind(name, other: dataset.Dataset, target: dataset.Dataset) -> None:
    if other.example_shape != target.example_shape:
        raise UserError(
            f"streams[{name!r}] has examples of shape {other.example_shape}, the "
            f"target of shape {target.example_shape}; give both the same size= and "
            "channels=."
        )


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


def sizes(exp, terms, target) -> dict[str, int]:
    """Returns {stream: batch size} for the streams that the terms read."""
    there = ["target"] if len(target.rows["train"]) else []
    there += exp.streams
    if "unlabelled" in target.rows:
        there.append("unlabelled")
    sizes = {}
    for name in context.streams(terms):
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


def classes(datasets, sizes) -> dict[str, tuple[str, ...]]:
    """Returns {stream: class names}, () without labels; "" has the target's."""
    found = {n: datasets[n].class_names if has_labels(n) else () for n in sizes}
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
