"""Few-shot classification with the features of a model: one study, one table."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.analysis.episodes import class_choice, evaluation, fine_tuning, target
from jaxtl.analysis.episodes import methods as registry
from jaxtl.analysis.episodes.base import FewShotMethod
from jaxtl.analysis.episodes.fine_tuning import FineTuning
from jaxtl.analysis.episodes.pt_map import PTMAP
from jaxtl.core import sharding
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data.dataset import Dataset
from jaxtl.data.episodes import Episode, FixedShape, VariableShape
from jaxtl.pretrained.from_run import FromRun
from jaxtl.terms.base import feature_stage
from jaxtl.training.experiment import Experiment
from jaxtl.training.load_model import TrainedModel
from jaxtl.training.run import Run

ONE_AND_FIVE_SHOTS = (FixedShape(), FixedShape(shots=5))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FewShotStudy:
    """Methods by shape of episode, on one model's features.

    Attributes:
      data: name of the data set.
      stage: whose output the features are.
      width: of the features.
      examples: of all classes.
      test_classes, val_classes: names.
      classes_from: where they come from, in words.
      notes: what was decided, a sentence part each.
      results: of each shape, those of the methods in their order.
    """

    data: str
    stage: str
    width: int
    examples: int
    test_classes: tuple[str, ...]
    val_classes: tuple[str, ...]
    classes_from: str
    notes: tuple[str, ...]
    results: tuple[evaluation.FewShotResult, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**content, "results": [r.to_json() for r in self.results]}


def study(
    model: Run | TrainedModel | Experiment | str | pathlib.Path,
    methods: Iterable[str] | Mapping[str, FewShotMethod] = tuple(registry.ON_FEATURES),
    shapes: Sequence[FixedShape | VariableShape] = ONE_AND_FIVE_SHOTS,
    *,
    episodes: int = 600,
    val_episodes: int = 100,
    test_classes: Sequence[str] = (),
    val_classes: Sequence[str] = (),
    stage: str | None = None,
    seed: int = 0,
    **target_options: Any,
) -> FewShotStudy:
    """Evaluates few-shot classifiers on the classes of a model's data.

    Args:
      model: what `target.open_target` opens.
      methods: names, or name -> method.
      shapes: of the episodes.
      episodes, val_episodes: of test classes and of those that methods are chosen on.
      test_classes, val_classes: names; see `class_choice.choose`.
      stage: whose features are read; None takes the last before the head.
      seed: of the classes that are drawn and of the episodes.
      **target_options: of `target.open_target`.

    Returns:
      The results of every shape and method, with what was decided about the classes.

    Raises:
      UserError: data that are not of classes, or what the parts of a study refuse.
    """
    named = evaluation.named_methods(methods)
    run = target.open_target(model, **target_options)
    dataset = run.datasets["target"]
    stage = _stage(run.network.stages, stage)
    _check(dataset)
    choice = class_choice.choose(
        dataset, _least_ways(shapes), test=test_classes, val=val_classes, seed=seed
    )
    rows, notes = _rows(run, dataset, choice)
    labels = dataset.y_clean[rows]
    names = tuple(map(str, dataset.class_names))
    samplers = [
        evaluation.EpisodeSamplers(
            labels, shape, choice.test, choice.val, seed=seed, class_names=names
        )
        for shape in shapes
    ]
    features = target.features(run, stage, rows)
    scores = _scores(run, dataset, stage, rows, features, labels, choice.test)
    pairs = {n: (m, scores[isinstance(m, FineTuning)]) for n, m in named.items()}
    results = [
        result
        for sampler in samplers
        for result in evaluation.evaluate_by(pairs, sampler, episodes, val_episodes)
    ]
    notes = [*notes, *_choice_notes(choice, named, features, samplers[0])]
    return FewShotStudy(
        data=dataset.name,
        stage=stage,
        width=features.shape[1],
        examples=len(rows),
        test_classes=tuple(names[i] for i in choice.test),
        val_classes=tuple(names[i] for i in choice.val),
        classes_from=choice.note,
        notes=tuple(notes),
        results=tuple(results),
    )


def _least_ways(shapes: Sequence[FixedShape | VariableShape]) -> int:
    """The most ways that a shape needs; UserError without any shape."""
    if not shapes:
        raise UserError("shapes: name at least one shape of episodes.")
    return max(s.ways if isinstance(s, FixedShape) else s.min_ways for s in shapes)


def _stage(stages: tuple[str, ...], stage: str | None) -> str:
    if stage is not None and stage not in stages:
        raise UserError(
            f"stage={stage!r}: the model has no such stage{nearest(stage, stages)} "
            f"(stages: {', '.join(stages)})."
        )
    return feature_stage(stages, stage)


def _check(dataset: Dataset) -> None:
    if dataset.task != "classification":
        raise UserError(
            f"few-shot episodes are of classes, and {dataset.name} is data of the task "
            f"{dataset.task!r}."
        )
    dataset.check_unweighted("a few-shot study")


def _rows(
    run: Run | TrainedModel, dataset: Dataset, choice: class_choice.ClassChoice
) -> tuple[np.ndarray, list[str]]:
    """The rows that episodes are drawn from, and what is to be told of the network."""
    everything = np.unique(np.concatenate(list(dataset.rows.values())))
    if class_choice.splits_of_classes(dataset) is not None:
        return everything, []
    if isinstance(run, TrainedModel):
        held_out = dataset.rows.get("test", np.zeros(0, np.int32))
        if not len(held_out):
            raise UserError(
                f"{run.directory} was trained on all examples of its data; --data "
                "names others."
            )
        note = (
            "the network was trained on these classes, so episodes have test rows "
            "alone; --data names data of other classes"
        )
        return held_out, [note]
    tested = {str(dataset.class_names[i]) for i in choice.test}
    trained = tested & set(_trained_names(run))
    if trained:
        shown = listing(sorted(trained))
        return everything, [f"the network was trained on classes named {shown}"]
    if run.exp.init is None:
        return everything, [
            "the network has random weights: the experiment has no init="
        ]
    return everything, []


def _trained_names(run: Run) -> tuple[str, ...]:
    """Names of the outputs of an earlier run that a run starts from, () otherwise."""
    init = run.exp.init
    return init.read().output_names if isinstance(init, FromRun) else ()


def _scores(
    run: Run | TrainedModel,
    dataset: Dataset,
    stage: str,
    rows: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
) -> tuple[evaluation.Score, evaluation.Score]:
    """The scores of methods that read features, and of fine-tuning."""
    of_features = evaluation.feature_scores(features, labels, test)
    model = run.evaluation_model()
    weights = sharding.place(run.weights("best"), model.mesh)
    of_rows = fine_tuning.episode_scores(model, weights, dataset, stage)

    def of_inputs(method: FineTuning, episode: Episode) -> np.ndarray:
        places = {n: rows[getattr(episode, n)] for n in ("support", "query")}
        return of_rows(method, dataclasses.replace(episode, **places))

    return of_features, of_inputs


def _choice_notes(
    choice: class_choice.ClassChoice,
    methods: Mapping[str, FewShotMethod],
    features: np.ndarray,
    samplers: evaluation.EpisodeSamplers,
) -> list[str]:
    """What was decided about settings and features, a sentence part each."""
    notes, val = [], samplers.val
    several = [m.title for m in methods.values() if len(m.candidates()) > 1]
    if several and val is None:
        notes.append(
            "there are no two classes to choose settings on, so the first candidate of "
            f"each is tested ({listing(several)})"
        )
    elif several and val is not None and val.shape != samplers.test.shape:
        notes.append(
            f"settings are chosen on episodes of {len(choice.val)} ways, as there are "
            f"{len(choice.val)} classes to choose on"
        )
    if not len(choice.val) and any(m.centered for m in methods.values()):
        notes.append("all classes are tested, so features are not centered")
    negative = float((features < 0).mean())
    if negative and any(isinstance(m, PTMAP) for m in methods.values()):
        share = f"{100 * negative:.1f} %"
        notes.append(f"PT-MAP sets the {share} of the features that are negative to 0")
    return notes
