"""Experiments without rows to train on: the initial model is evaluated as it is.

Nothing is fitted on held-out rows: scales, fill values and categories are those that
came with the weights, and a model with a fresh part is refused, since its metrics would
say nothing.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.core.names import listing
from jaxtl.core.types import FROZEN
from jaxtl.data import alignment, preprocess, trained_names
from jaxtl.data.dataset import QUESTION_ANSWERING, Dataset
from jaxtl.data.preprocess import Preprocess
from jaxtl.evaluation import thresholds
from jaxtl.optim.optimizer import AdamW
from jaxtl.pretrained.from_run import stored_names
from jaxtl.pretrained.initial_weights import weights_name
from jaxtl.pretrained.match import LoadRow, Weights
from jaxtl.training.experiment import Experiment

# Fields that training alone reads -> what evaluation puts in their place.
_TRAINING = {
    "streams": {},
    "terms": {},
    "optim": AdamW(groups={".*": FROZEN}),
    "phases": (),
    "average": None,
    "wise_ft": (),
    "augment": (),
    "statistics": None,
    "patience": None,
    "steps": 0,
}


def applies(exp: Experiment, target: Dataset) -> bool:
    """Whether an experiment has nothing to train on, and does not name what to train.

    Terms may read the streams alone; then these are trained on.
    """
    return not target.has_training_rows and not (exp.terms and exp.steps)


def without_training(exp: Experiment, target: Dataset) -> Experiment:
    """The experiment that evaluates the initial model alone.

    Raises:
      UserError: the experiment measures nothing, or adds parameters that are new.
    """
    if not exp.test and not len(target.rows.get("val", ())):
        raise UserError(
            "test=False leaves nothing to do: data= has test rows alone, which are "
            "then not evaluated."
        )
    if exp.init is None and getattr(exp.model, "weights", None) is None:
        raise UserError(
            "init=None: the model's weights would be random, and data= has no train "
            "rows: name trained ones, such as "
            'init=tl.pretrained.FromRun("<directory>").'
        )
    if exp.peft is not None and exp.peft.start is None:
        raise UserError(
            f"peft={type(exp.peft).__name__}(…) adds parameters that are new, but "
            "data= has no train rows to train them on: leave it out, or read an "
            "adapter by its start=."
        )
    changes: dict[str, Any] = dict(_TRAINING)
    return dataclasses.replace(exp, **changes)


def describe_fresh(exp: Experiment, loading: Iterable[LoadRow]) -> str:
    """Says which stages are evaluated at random values where steps=0, "" for none."""
    fresh = _fresh_stages(loading)
    if exp.steps or not fresh:
        return ""
    return f"steps=0 evaluates {listing(fresh)} at random values"


def _fresh_stages(loading: Iterable[LoadRow]) -> list[str]:
    rows = (row for row in loading if row.status == "re-initialized")
    return list(dict.fromkeys(row.path.split("/")[0] for row in rows))


def describe(exp: Experiment) -> str:
    """What is not done for want of train rows, and the settings without use."""
    fields = config.fields(exp)
    unused = [
        name
        for name in _TRAINING
        if name in fields and not _is_default(fields[name], getattr(exp, name))
    ]
    note = "nothing is trained"
    return f"{note}; without use: {', '.join(unused)}" if unused else note


def _is_default(field: dataclasses.Field, value: object) -> bool:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return value == default or (field.name == "steps" and value == 0)


def check_weights(exp: Experiment, loading: Iterable[LoadRow]) -> None:
    """Raises UserError for a model that is not trained as a whole.

    Args:
      exp: the experiment.
      loading: the table of its loaded leaves.
    """
    if fresh := _fresh_stages(loading):
        raise UserError(
            f"the weights of {weights_name(exp.init)} leave {listing(fresh)} of the "
            "model at random values, and data= has no train rows to train them on: to "
            "evaluate only, name weights that hold all of the model, and no reset=."
        )


def aligned(dataset: Dataset, init: Any, weights: Weights) -> Dataset:
    """A data set without train rows in the terms of the weights; others as they are."""
    if dataset.has_training_rows:
        return dataset
    trained = trained_names.TrainedNames.from_meta(
        weights_name(init), weights.meta, weights.output_names
    )
    return alignment.align(dataset, trained)


def aligned_to_run(
    dataset: Dataset, directory: pathlib.Path, meta: Mapping[str, Any]
) -> Dataset:
    """Likewise, in the terms of the model of a stored run.

    Args:
      dataset: the data.
      directory: of the run.
      meta: of its checkpoint.
    """
    if dataset.has_training_rows:
        return dataset
    names = meta.get("class_names") or stored_names(meta)["output_names"]
    trained = trained_names.TrainedNames.from_meta(str(directory), meta, names)
    return alignment.align(dataset, trained)


def stored_thresholds(exp: Experiment, meta: Mapping[str, Any]) -> np.ndarray | None:
    """Thresholds that were stored with the best weights, None for ½.

    Args:
      exp: the experiment.
      meta: of the weights that it loads.
    """
    if getattr(exp.init, "which", "best") != "best":
        return None
    values = meta.get("thresholds")
    return None if values is None else np.asarray(values, np.float64)


def threshold_note(
    exp: Experiment, target: Dataset, values: np.ndarray | None
) -> dict[str, str]:
    """{"threshold": the stored thresholds, by which the evaluation decides}."""
    if values is None or exp.threshold is not None:
        return {}
    named = thresholds.by_name(target.task, values, target.class_names)
    of_questions = target.task == QUESTION_ANSWERING
    form = "{}: {:.3g}" if of_questions else "p({}) > {:.3g}"
    pairs = ", ".join(form.format(*pair) for pair in named.items())
    return {"threshold": f"{pairs}, as in {weights_name(exp.init)}"} if pairs else {}


def preprocessing(
    exp: Experiment, weights: Weights | None, datasets: Mapping[str, Dataset]
) -> dict[str, Preprocess]:
    """Data set -> its preprocessing; a target without train rows takes another's.

    That is the one of the weights, or of the first stream that has train rows.

    Raises:
      UserError: a table that neither of them nor the experiment says how to scale, or
        how to fill.
    """
    fitted = {name: data.preprocess for name, data in datasets.items()}
    target = datasets["target"]
    if target.has_training_rows or target.encoding is None:
        return fitted
    target_scale, setting = fitted["target"], exp.preprocess
    reference = _reference(weights, datasets)
    is_scaled = (
        target_scale.mean is not None or setting is not None or reference is not None
    )
    numbers = [c.name for c in target.encoding.columns if c.categories is None]
    if numbers and not is_scaled:
        raise UserError(
            f"data= has no train rows, and the weights do not say by which mean and "
            f"standard deviation to scale the columns {listing(numbers)}: give "
            "preprocess=tl.data.Preprocess(mean=…, std=…), mean=0 and std=1 to leave "
            "them as they are."
        )
    if reference is not None:
        scale = target_scale if target_scale.mean is not None else reference
        target_scale = dataclasses.replace(
            target_scale, mean=scale.mean, std=scale.std, unseen=reference.unseen
        )
        target_scale = preprocess.filled_like(target_scale, reference)
    if setting is None or setting.fill is None:
        _check_holes(target, target_scale)
    return {**fitted, "target": target_scale}


def _reference(
    weights: Weights | None, datasets: Mapping[str, Dataset]
) -> Preprocess | None:
    """A preprocessing that was fitted on train rows."""
    if weights is not None and "preprocess" in weights.meta:
        return preprocess.from_json(weights.meta["preprocess"] or {})
    trained = (d.preprocess for d in datasets.values() if d.has_training_rows)
    return next(trained, None)


def _check_holes(target: Dataset, pre: Preprocess) -> None:
    """Raises UserError for cells without a value where none is known to fill them."""
    is_hole = np.isnan(np.asarray(target.x)).any(0)
    if is_hole.any() and pre.fill is None:
        name = target.feature_names[int(np.flatnonzero(is_hole)[0])]
        raise UserError(
            f"column {name!r} has cells without a value, and the weights do not say "
            "what fills them; data= has no train rows to take a median of: fill them "
            "in, or give preprocess=tl.data.Preprocess(fill=…)."
        )
