"""The data sets of an experiment, their preprocessing and batch sizes."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxtl.core import atomic, checkpoint, sharding
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data import preparation, preprocess, splits, task_outputs, word_pieces
from jaxtl.data.dataset import MULTITASK, TAG_TASKS, Data, Dataset
from jaxtl.data.episodic import Episodes
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.streams import has_labels
from jaxtl.data.tokenizer import TOKENIZER
from jaxtl.pretrained.match import Weights
from jaxtl.terms.base import Term, streams_of
from jaxtl.training import evaluation_only, source_defaults
from jaxtl.training.experiment import Experiment


def sources(exp: Experiment) -> dict[str, Data]:
    """The data of "target" and the streams, images in the size of pretrained weights.

    A size or a method of resampling that the data name themselves stays. The size of a
    model, and that of an earlier run of jaxtl, concern only images without a common
    one.
    """
    resizing = getattr(exp.init, "image_resizing", None)
    data_of = source_defaults.with_tokenizers({"target": exp.data, **exp.streams}, exp)
    tokens = getattr(exp.model, "context", None)
    data_of = {
        name: source_defaults.with_model_context(data, tokens)
        for name, data in data_of.items()
    }
    data_of = source_defaults.with_separate_pairs(data_of, exp.model)
    if resizing is not None:
        is_sized = all(data.size is not None for data in data_of.values())
        framing = resizing(exp.model, is_sized)
        return {name: with_framing(data, framing) for name, data in data_of.items()}
    unsized = [name for name, data in data_of.items() if data.sizes_differ()]
    if not unsized:
        return data_of
    framing = source_defaults.framing(exp)
    framed = {name: with_framing(data_of[name], framing) for name in unsized}
    return {**data_of, **framed}


def with_framing(data: Data, framing: Mapping[str, Any]) -> Data:
    """Data with the size, cut and resampling of pretrained weights.

    Args:
      data: its own size or method of resampling stays.
      framing: "size", "shortest" and "resample" of `data.Preprocess`.
    """
    fields = {}
    if framing.get("resample") and data.resample is None:
        fields["resample"] = framing["resample"]
    if framing.get("size") and data.size is None:
        shortest = framing.get("shortest")
        shortest = tuple(shortest) if isinstance(shortest, list) else shortest
        fields |= {"size": framing["size"], "shortest": shortest}
    return dataclasses.replace(data, **fields) if fields else data


def distinct_sources(
    variants: Mapping[str, Experiment],
) -> Iterator[tuple[str, Data, int]]:
    """Yields (variant and stream, source, seed) of each source, equal ones once."""
    texts = set()
    for name, exp in variants.items():
        for stream, source in sources(exp).items():
            if repr(source) not in texts:
                texts.add(repr(source))
                yield f"{name} {stream}".strip(), source, exp.seed


def load_datasets(
    exp: Experiment, directory: pathlib.Path | None = None
) -> dict[str, Dataset]:
    """Reads and splits the data of "target" and the streams; all of one shape.

    Args:
      exp: the experiment.
      directory: of a stored run whose data they are: they must be unchanged, and keep
        the splits that are stored there.

    Raises:
      UserError: data that can't be read, or do not fit together.
      DataChanged: data that are not those of the stored run.
    """
    for name in exp.streams:
        if name in ("target", "terms"):
            raise UserError(
                f"streams: the name {name!r} is taken (target comes from data=); "
                "choose another, such as 'source'."
            )
    datasets: dict[str, Dataset] = {}
    for name, data in sources(exp).items():
        stored = None if directory is None else _stored_splits(directory, name)
        if directory is not None:
            data = source_defaults.with_run_tokenizer(data, directory)
        if name != "target":  # one vocabulary for all
            tokenizer = datasets["target"].tokenizer
            data = source_defaults.with_tokenizer(data, tokenizer)
        datasets[name] = preparation.prepare(data, exp.seed, stored)
        _check_same_columns(name, datasets[name], datasets["target"])
        _check_same_shape(name, datasets[name], datasets["target"])
    unlabelled = datasets["target"].rows.get("unlabelled", ())
    if "unlabelled" in exp.streams and len(unlabelled):
        raise UserError(
            "streams['unlabelled']: data= leaves train rows without a label already; "
            "drop the stream, or give data all of its labels."
        )
    return datasets


def load_target(data: Data, seed: int, directory: pathlib.Path) -> Dataset:
    """The target data of a stored run alone, as `load_datasets` reads them."""
    data = source_defaults.with_run_tokenizer(data, directory)
    return preparation.prepare(data, seed, _stored_splits(directory, "target"))


def splits_file(directory: pathlib.Path, name: str) -> pathlib.Path:
    """The file of a run's directory that holds the splits of one of its data sets."""
    suffix = "" if name == "target" else f"-{name.replace('/', '_')}"
    return directory / f"splits{suffix}.npz"


def save_splits(directory: pathlib.Path, datasets: Mapping[str, Dataset]) -> None:
    """Writes the splits of a run's data sets, for `load_datasets` of the same run.

    Of texts the tokenizer is written as well.
    """
    tokenizer = datasets["target"].tokenizer
    if tokenizer is not None:
        atomic.write_text(directory / TOKENIZER, tokenizer.to_json())
    for name, dataset in datasets.items():
        splits.save_splits(splits_file(directory, name), dataset)


def _stored_splits(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    """The splits file of a data set, None where a run was interrupted before it.

    Raises:
      UserError: a run that has been trained does not hold the splits of its target.
    """
    path = splits_file(directory, name)
    if path.exists():
        return path
    if name == "target" and checkpoint.latest(directory / "checkpoints") is not None:
        raise UserError(
            f"there is no splits file {str(path)!r}, so which rows the run was trained "
            "on is not known."
        )
    return None


def _check_same_shape(name: str, other: Dataset, target: Dataset) -> None:
    if other.example_shape == target.example_shape:
        return
    shapes = (other.example_shape, target.example_shape)
    advice = "give both the same size= and channels="
    if all(isinstance(shape, dict) and "input_ids" in shape for shape in shapes):
        longest = max(shape["input_ids"][0] for shape in shapes)
        advice = (
            f"pad both to one length, tokenizer=tl.data.Tokenizer(PATH, "
            f"buckets=({longest},))"
        )
    raise UserError(
        f"streams[{name!r}] has examples of shape {shapes[0]}, the target of shape "
        f"{shapes[1]}; {advice}."
    )


def _check_same_columns(name: str, other: Dataset, target: Dataset) -> None:
    """Raises UserError where both have names of columns, and not the same in order."""
    ours, theirs = target.feature_names, other.feature_names
    if ours and theirs and ours != theirs:
        advice = (
            f"streams[{name!r}].features=" if set(ours) == set(theirs) else "features="
        )
        raise UserError(
            f"streams[{name!r}] has the columns {listing(theirs)}, the target "
            f"{listing(ours)}; bring them into the same order with {advice}."
        )


def preprocessing(
    exp: Experiment, weights: Weights | None, datasets: Mapping[str, Dataset]
) -> dict[str, Preprocess]:
    """Data set -> its preprocessing.

    The mean and standard deviation come with the weights, unless `exp.preprocess` or
    the target's `preprocess` has them; the scale is the data's own.
    """
    fitted = evaluation_only.preprocessing(exp, weights, datasets)
    if (whole := exp.preprocess) is not None:
        _note_difference("preprocess", whole, weights)
        if whole.fill is None:
            whole = preprocess.filled_like(whole, fitted["target"])
        whole = dataclasses.replace(whole, unseen=_unseen_by_all(fitted.values()))
        return {
            name: preprocess.stored_like(whole, pre) for name, pre in fitted.items()
        }
    shared, chosen = fitted["target"], exp.data.preprocess
    if chosen is not None and (chosen.mean is not None or chosen.std is not None):
        _note_difference("data.preprocess", chosen, weights)
    elif weights is not None and weights.meta.get("preprocess"):
        shared = preprocess.from_json(weights.meta["preprocess"])
        if weights.meta.get("task") == datasets["target"].task == "regression":
            preprocess.check_targets(shared, datasets["target"].preprocess)
    unseen = _unseen_by_all([shared, *fitted.values()])
    pre = {}
    for name, own in fitted.items():
        common = dataclasses.replace(
            own, mean=shared.mean, std=shared.std, unseen=unseen
        )
        common = preprocess.filled_like(common, shared)
        pre[name] = preprocess.stored_like(common, own)
    return pre


def _unseen_by_all(fitted: Iterable[Preprocess]) -> tuple[int, ...]:
    """One-hot columns that no data set and no source of weights was trained on."""
    columns = [set(pre.unseen) for pre in fitted]
    return tuple(sorted(set.intersection(*columns)))


def _note_difference(name: str, chosen: Preprocess, weights: Weights | None) -> None:
    """Prints a line where weights were trained with other normalization than chosen."""
    stored = weights.meta.get("preprocess") if weights is not None else None
    if not stored:
        return
    trained = preprocess.from_json(stored)
    if (trained.mean, trained.std) != (chosen.mean, chosen.std):
        print(
            f"{name} normalizes with mean {chosen.mean} and std {chosen.std}; the "
            f"weights were trained with mean {trained.mean} and std {trained.std}.",
            file=sys.stderr,
        )


def batch_sizes(
    exp: Experiment, terms: Mapping[str, Term], datasets: Mapping[str, Dataset]
) -> dict[str, int]:
    """Stream name -> batch size, for the streams that the terms read.

    Raises:
      UserError: a term reads a stream that does not exist, or a batch can't be divided.
    """
    target = datasets["target"]
    available = ["target"] if len(target.rows["train"]) else []
    available += [name for name in exp.streams if datasets[name].has_training_rows]
    if "unlabelled" in target.rows:
        available.append("unlabelled")
    sizes = {}
    mesh = sharding.mesh(exp.devices, exp.param_shards, exp.tensor_shards)
    parts = exp.accumulate * sharding.batch_parts(mesh)
    factors = "accumulate × devices"
    factors += " / tensor_shards" if exp.tensor_shards > 1 else ""
    for stream in streams_of(terms):
        reader = next(name for name, term in terms.items() if stream in term.streams)
        if stream not in available:
            raise UserError(_no_stream(reader, stream, available, datasets))
        if (drawn := episodes(datasets, [stream]).get(stream)) is not None:
            sizes[stream] = drawn.batch
            if drawn.tasks % parts:
                raise UserError(
                    f"tasks={drawn.tasks} episodes of a batch of the stream "
                    f"{stream!r} must be a multiple of {factors} = {parts}."
                )
            continue
        sizes[stream] = exp.batch_of(stream)
        if sizes[stream] < 1 or sizes[stream] % parts:
            raise UserError(
                f"batch={sizes[stream]} of the stream {stream!r} must be a positive "
                f"multiple of {factors} = {parts}."
            )
    return sizes


def episodes(
    datasets: Mapping[str, Dataset], names: Iterable[str]
) -> dict[str, Episodes]:
    """Stream -> the episodes of its batches, for streams that have any."""
    drawn = {name: datasets[name].episodes for name in names if name in datasets}
    return {name: value for name, value in drawn.items() if value is not None}


def describe_episodes(datasets: Mapping[str, Dataset], names: Iterable[str]) -> str:
    """What a batch of each episodic stream consists of; "" without any."""
    parts = []
    for name, drawn in episodes(datasets, names).items():
        counts = (
            f"{len(np.unique(datasets[name].y[rows]))} to {split}"
            for split, rows in datasets[name].rows.items()
        )
        parts.append(f"{name}: {drawn.describe()}; classes: {', '.join(counts)}")
    return "; ".join(parts)


MOST_TIMES = 100  # that one step may take the same row


def check_batch(stream: str, size: int, rows: int) -> str:
    """Compares a batch with the rows that it is drawn from.

    Args:
      stream: its name.
      size: examples of a batch.
      rows: rows of the stream.

    Returns:
      A note if a step takes rows more than once, else "".

    Raises:
      UserError: each row would be taken more than `MOST_TIMES` times in a step.
    """
    if size <= rows:
        return ""
    times = f"{size / rows:,.1f} times"
    if size > MOST_TIMES * rows:
        raise UserError(
            f"batch={size:,} of the stream {stream!r} takes each of its {rows:,} rows "
            f"{times} in every step; expected at most {MOST_TIMES} times, such as "
            f"batch={min(rows, 64)}."
        )
    return (
        f"a batch of {size:,} takes each of the {rows:,} rows of the stream {stream!r} "
        f"{times}"
    )


def _no_stream(
    term: str, stream: str, available: list[str], datasets: Mapping[str, Dataset]
) -> str:
    """The message for a term that reads a stream that does not exist."""
    if stream in datasets and not datasets[stream].has_training_rows:
        owner = "data=" if stream == "target" else f"streams[{stream!r}]"
        advice = "; without terms the initial model is evaluated" * (stream == "target")
        return (
            f"terms[{term!r}] reads the stream {stream!r}, but {owner} has no train "
            f"rows, only held-out ones{advice}."
        )
    if stream == "unlabelled":
        return (
            f"terms[{term!r}] reads the stream 'unlabelled', but data= leaves "
            "no train rows without a label; set data.labels_per_class, or "
            "data.labels=0 for a target without labels."
        )
    if stream == "target":
        return (
            f"terms[{term!r}] reads the labelled stream 'target', but data= "
            "keeps no label; read a labelled stream, such as "
            "tl.losses.CrossEntropy(stream='source'), or raise data.labels "
            f"(streams: {', '.join(available)})."
        )
    return (
        f"terms[{term!r}] reads the stream {stream!r}, which does not exist"
        f"{nearest(stream, available)} (streams: {', '.join(available)})."
    )


def classes(
    datasets: Mapping[str, Dataset], streams: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Stream -> names of its classes or targets, () without; "" has the target's."""
    names = {s: datasets[s].output_names if has_labels(s) else () for s in streams}
    return {**names, "": datasets["target"].output_names}


def label_counts(
    datasets: Mapping[str, Dataset], streams: Iterable[str]
) -> dict[str, np.ndarray]:
    """Stream -> how often each class or label is a train label, (classes,)."""
    counts = {}
    for stream in filter(has_labels, streams):
        dataset = datasets[stream]
        y = dataset.y[dataset.rows["train"]]
        if dataset.task == "classification":
            counts[stream] = np.bincount(y, minlength=len(dataset.class_names))
        elif dataset.task == "multilabel":
            counts[stream] = y.sum(axis=0)
        elif dataset.task == MULTITASK:
            counts[stream] = task_outputs.label_counts(y, dataset.class_names)
        elif dataset.task in TAG_TASKS:
            labels = word_pieces.trained_labels(y)
            is_trained = labels != word_pieces.IGNORED
            counts[stream] = np.bincount(
                labels[is_trained], minlength=len(dataset.class_names)
            )
    return counts


def check_read(field: str, names: Iterable[str] | None, streams: Iterable[str]) -> None:
    """Refuses names of streams, in a field of the experiment, that no term reads."""
    for name in names or ():
        if name not in streams:
            raise UserError(
                f"{field}={names!r}: no term reads a stream {name!r}"
                f"{nearest(name, streams)} (streams: {', '.join(streams)})."
            )
