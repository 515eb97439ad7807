"""The sections of a single run's report: its losses, classes, and worst examples."""

import base64
import dataclasses
import html
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from jaxtl.core.errors import UserError
from jaxtl.data import streams
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import class_report, evaluate
from jaxtl.results.html_report import html_list, html_table, text_table
from jaxtl.results.records import Collection
from jaxtl.results.tables import TextTable
from jaxtl.training import run_dir
from jaxtl.training.load_model import TrainedModel, load_model

SHOWN = 24  # examples at most
_WORDS = 600  # characters of a text that are shown
_SIDE = 160  # pixels of a thumbnail, at most
_SMALL = 64  # pixels of a picture below which its pixels are drawn larger
_CELLS = 12  # values of a vector without names that are shown


class Section(NamedTuple):
    """A part of the page: the id of its address, its title and its HTML."""

    name: str
    title: str
    content: str


class WrongExample(NamedTuple):
    """An example with a large loss.

    Attributes:
      origin: where it was read.
      true, predicted: its label and the model's, in words.
      loss: of it.
      probability: that the model gives the label; None for quantities.
      text: of a text or a row of a table, "" for an image.
      image: uint8 (height, width, 1 or 3); None for others.
    """

    origin: str
    true: str
    predicted: str
    loss: float
    probability: float | None
    text: str
    image: np.ndarray | None


def with_settings(collection: Collection, run: pathlib.Path) -> Collection:
    """The collection of a run with its title, its settings and its overrides."""
    stored = run_dir.read_mark(run)
    name = stored.get("variant") or str(run)
    meta = {
        "file": stored.get("file"),
        "overrides": stored.get("overrides") or (),
        "experiments": {name: stored["experiment"]},
        **collection.meta,
    }
    if run.is_absolute():
        run = pathlib.Path(*run.parts[-2:])
    seed = stored["experiment"].get("seed")
    named = f"{stored['variant']}, seed {seed}" if stored.get("variant") else ""
    title = collection.title or named or f"The run {run}"
    return dataclasses.replace(collection, title=title, meta=meta)


def sections(run: pathlib.Path, result: Mapping[str, Any]) -> list[Section]:
    """The sections of a finished run that reads its data once more.

    Args:
      run: its directory.
      result: the content of its result.json.
    """
    split = "test" if "test" in result else "val"
    parts, details = [], result.get("details") or {}
    try:
        model = load_model(run)
        logits, labels = evaluate.predict_split(model, split)
    except (UserError, OSError) as error:
        if details:
            names, counts = tuple(details["classes"]), details["confusion"]
            scores = class_report.class_scores(names, counts)
            parts.append(_classes(scores, details["split"]))
        note = f"The examples can't be shown: {error}"
        return [*parts, Section("examples", "Most wrong", html_list([note]))]
    scores = _scores(model, details, logits, labels)
    if scores:
        parts.append(_classes(scores, split))
    worst = most_wrong(model, split, logits, labels)
    if worst:
        parts.append(Section("examples", f"Most wrong on {split}", _examples(worst)))
    return parts


def _scores(
    model: TrainedModel,
    details: Mapping[str, Any],
    logits: np.ndarray,
    labels: np.ndarray,
) -> list[class_report.ClassScore]:
    """Scores by class or label; [] for other tasks."""
    if details:
        names = tuple(details["classes"])
        return class_report.class_scores(names, details["confusion"])
    if model.task != "multilabel":
        return []
    chosen = 0.5 if model.thresholds is None else model.thresholds
    return class_report.label_scores(
        model.class_names, special.expit(logits) > chosen, labels
    )


def _classes(scores: Sequence[class_report.ClassScore], split: str) -> Section:
    rows = tuple(
        (
            score.name,
            *map(_percent, (score.f1, score.precision, score.recall)),
            f"{score.examples:,}",
            f"{score.predicted:,}",
        )
        for score in scores
    )
    columns = ("class", "F1 %", "precision %", "recall %", "examples", "predicted")
    title = f"each class on {split}"
    table = TextTable(title=title, columns=columns, rows=rows, result=1)
    return Section("classes", "Classes", html_table("classes", table))


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def most_wrong(
    model: TrainedModel, split: str, logits: np.ndarray, labels: np.ndarray
) -> list[WrongExample]:
    """The examples with the largest losses, the worst first; [] for other tasks.

    Args:
      model: whose data set is read.
      split: that was predicted.
      logits, labels: as `evaluate.predict_split` returns them.
    """
    losses = class_report.example_losses(model.task, logits, labels)
    if losses is None:
        return []
    dataset = model.datasets["target"]
    rows = streams.split_rows(dataset, split)
    order = np.argsort(-losses, kind="stable")[:SHOWN]
    return [
        _wrong_example(model, int(rows[i]), logits[i], labels[i], float(losses[i]))
        for i in order
    ]


def _wrong_example(
    model: TrainedModel, row: int, logits: np.ndarray, label: np.ndarray, loss: float
) -> WrongExample:
    """A row of the data set with what the model makes of it."""
    dataset = model.datasets["target"]
    true, predicted, probability = _words(model, logits, label)
    text, image = _shown(dataset, row)
    return WrongExample(
        dataset.origins[row], true, predicted, loss, probability, text, image
    )


def _words(
    model: TrainedModel, logits: np.ndarray, label: np.ndarray
) -> tuple[str, str, float | None]:
    """(label, prediction, probability of the label)."""
    names = model.class_names
    if model.task == "classification":
        shares = special.softmax(np.asarray(logits, np.float64))
        best = int(np.argmax(logits))
        if model.thresholds is not None:
            best = int(shares[1] > model.thresholds[0])
        return names[int(label)], names[best], float(shares[int(label)])
    if model.task == "multilabel":
        chosen = 0.5 if model.thresholds is None else model.thresholds
        is_predicted = special.expit(logits) > chosen
        lists = [
            ", ".join(n for n, is_on in zip(names, mask) if is_on) or "none"
            for mask in (label > 0, is_predicted)
        ]
        return lists[0], lists[1], None
    offset = model.preprocess.target_offset or (0.0,)
    values = [np.ravel(v) + np.asarray(offset) for v in (label, logits)]
    true, predicted = (", ".join(f"{x:.4g}" for x in v) for v in values)
    return true, predicted, None


def _shown(dataset: Dataset, row: int) -> tuple[str, np.ndarray | None]:
    """(text, image) of an example."""
    if isinstance(dataset.x, dict):
        ids = dataset.x.get("input_ids")
        if ids is None or dataset.tokenizer is None:
            return "", None
        # (length,), or (2, length) where each text of a pair is read by itself.
        tokens = np.atleast_2d(np.asarray(ids[[row]][0]))
        masks = np.atleast_2d(np.asarray(dataset.x["attention_mask"][[row]][0], bool))
        decode = dataset.tokenizer.decode
        text = " / ".join(decode(t[m].tolist()) for t, m in zip(tokens, masks))
        return text[:_WORDS] + "…" * (len(text) > _WORDS), None
    x = np.asarray(dataset.x[np.array([row])])[0]
    if x.ndim == 3 and x.shape[-1] in (1, 3):
        scale = dataset.preprocess.scale or 1.0
        image = np.clip(x.astype(np.float64) / scale, 0, 1) * 255
        return "", np.rint(image).astype(np.uint8)
    return _cells(dataset, np.ravel(x)), None


def _cells(dataset: Dataset, values: np.ndarray) -> str:
    """The values of a row by their columns; a category by its name."""
    names = dataset.feature_names
    if len(names) != len(values):
        shown = ", ".join(f"{x:.4g}" for x in values[:_CELLS])
        return shown + ", …" * (len(values) > _CELLS)
    if dataset.encoding is None:
        pairs = zip(names, values)
        return ", ".join(f"{name}: {x:.6g}" for name, x in pairs)
    parts = []
    for column, place in dataset.encoding.slices():
        part = values[place]
        if column.categories is None:
            known = f"{part[0]:.6g}" if not math.isnan(part[0]) else "missing"
            parts.append(f"{column.name}: {known}")
        elif np.any(part > 0):
            parts.append(f"{column.name}: {column.categories[int(part.argmax())]}")
        else:
            parts.append(f"{column.name}: other")
    return ", ".join(parts)


def _examples(worst: Sequence[WrongExample]) -> str:
    """Images as a grid, texts and rows as a table."""
    if worst[0].image is not None:
        figures = "".join(map(_figure, worst))
        return f'<div class="thumbs">{figures}</div>\n'
    columns = ("example", "true", "predicted", "p(true) %", "loss", "read from")
    rows = [
        (
            example.text,
            example.true,
            example.predicted,
            "–" if example.probability is None else _percent(example.probability),
            f"{example.loss:.3g}",
            example.origin,
        )
        for example in worst
    ]
    table = text_table("examples with the largest loss", columns, rows)
    return html_table("examples", table)


def _figure(example: WrongExample) -> str:
    """A thumbnail with what it is, and what the model says."""
    assert example.image is not None
    lines = [f"{example.true}, predicted {example.predicted}"]
    if example.probability is not None:
        lines.append(f"p({example.true}) = {_percent(example.probability)} %")
    caption = "; ".join(lines)
    return (
        f'<figure><img src="{_data_address(example.image)}" '
        f'alt="{html.escape(caption, quote=True)}" loading="lazy">'
        f"<figcaption>{'<br>'.join(map(html.escape, lines))}"
        f'<span class="soft">{html.escape(example.origin)}</span>'
        "</figcaption></figure>"
    )


def _data_address(image: np.ndarray) -> str:
    """A thumbnail within the page."""
    from PIL import Image

    is_gray = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if is_gray else image)
    longest = max(picture.size)
    if longest > _SIDE:
        picture.thumbnail((_SIDE, _SIDE))
    elif longest < _SMALL:
        factor = _SMALL // longest + 1
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    # A photograph is a tenth of the size as JPEG.
    kind = "PNG" if is_gray or longest < _SMALL else "JPEG"
    file = io.BytesIO()
    picture.save(file, kind, quality=85, optimize=True)
    code = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{code}"
