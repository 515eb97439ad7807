"""Shift between the domains of a run, in features before and after training."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.analysis import linear_probe, shift_measures
from jaxtl.core import progress
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.data import streams
from jaxtl.terms.base import feature_stage
from jaxtl.training import run_paths
from jaxtl.training.run import Run
from jaxtl.training.setup import resume
from jaxtl.training.stored_network import check_trained

FOLDER = "diagnosis"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureShift:
    """Features of both domains at one state of the weights, and their shift.

    Attributes:
      distance: proxy A-distance.
      discrepancy: MMD² and its permutation test.
      classes: shift per class, where both domains have classes in common.
      source, target: the features, (examples, width).
    """

    distance: shift_measures.ProxyADistance
    discrepancy: shift_measures.MMDTest
    classes: list[shift_measures.ClassShift]
    source: np.ndarray = dataclasses.field(repr=False)
    target: np.ndarray = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Shift between two domains of a run, before and after training.

    Attributes:
      source, target: the streams that are compared.
      stage: whose output the features are.
      before: at the run's initial weights (θ₀ where it has a source).
      after: at its best weights.
      source_labels, target_labels: of the examples, in the order of the features; those
        of the target are used for the shift per class and the plots' classes only.
      class_names: of the classes in common, by label; () for none.
    """

    source: str
    target: str
    stage: str
    before: FeatureShift
    after: FeatureShift
    source_labels: np.ndarray = dataclasses.field(repr=False)
    target_labels: np.ndarray = dataclasses.field(repr=False)
    class_names: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """All measures as JSON values, without the features; None in place of NaN."""
        content = {name: getattr(self, name) for name in ("source", "target", "stage")}
        for name in ("before", "after"):
            shift: FeatureShift = getattr(self, name)
            content[name] = {
                "examples": {"source": len(shift.source), "target": len(shift.target)},
                "a_distance": dataclasses.asdict(shift.distance),
                "mmd": dataclasses.asdict(shift.discrepancy),
                "classes": [_without_nan(dataclasses.asdict(c)) for c in shift.classes],
            }
        return content

    def rising(
        self,
    ) -> list[tuple[shift_measures.ClassShift, shift_measures.ClassShift]]:
        """Pairs (before, after) of each class, the largest shift afterwards first."""
        pairs = zip(self.before.classes, self.after.classes)
        return sorted(pairs, key=lambda p: -np.nan_to_num(p[1].shift, nan=-1.0))

    def plot(self, folder: str | pathlib.Path, *, seed: int = 0) -> list[pathlib.Path]:
        """Draws features.png, and classes.png where the domains have classes in common.

        Args:
          folder: an existing one.
          seed: of t-SNE, and of the sample of examples that are drawn.

        Returns:
          The paths of the files.
        """
        from jaxtl.results.plots import domain_features  # matplotlib imports slowly

        return domain_features.draw(self, pathlib.Path(folder), seed=seed)


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if v != v else v for k, v in values.items()}


def diagnose(
    run: Run | str | pathlib.Path,
    *,
    source: str | None = None,
    target: str | None = None,
    stage: str | None = None,
    examples: int = 1000,
    permutations: int = 500,
    seed: int = 0,
) -> Diagnosis:
    """Measures the shift between two domains at a run's initial and best weights.

    Features are computed in evaluation mode, without augmentation, one vector per
    example (`forward.stage_vectors`). The target's labels, where its data have any, are
    used for the shift per class alone, which is for analysis: choose nothing by it.

    Args:
      run: a run, or the directory of one.
      source: stream of one domain; None takes "source", or the first of the
        experiment's streams.
      target: stream of the other domain; None takes "unlabelled" where the data have
        such rows, else "target".
      stage: name of the stage; None takes the last before the head.
      examples: maximum number of each domain, drawn at random; time grows with its
        square.
      permutations: number of permutations of the MMD test.
      seed: of examples, folds and permutations.

    Returns:
      The measures at both weights, and the features that a picture is drawn of.

    Raises:
      UserError: an unknown stream or stage, one domain alone, a run without training.
    """
    if examples < 10:
        raise UserError(f"examples={examples}: expected 10 or more.")
    run = run if isinstance(run, Run) else open_run(pathlib.Path(run))
    source, target = _streams(run, source, target)
    stage = _stage(run, stage)
    samples = [_sample(run, name, examples, seed) for name in (source, target)]
    class_names, labels = _common_classes(run, samples)
    shifts = []
    both = (_initial_weights(run), run.weights("best"))
    for weights in progress.track(both, "measuring before and after training"):
        features = [_features(run, stage, sample, weights) for sample in samples]
        shifts.append(_measure(features, labels, class_names, permutations, seed))
    return Diagnosis(
        source=source,
        target=target,
        stage=stage,
        before=shifts[0],
        after=shifts[1],
        source_labels=labels[0],
        target_labels=labels[1],
        class_names=class_names,
    )


def open_run(path: pathlib.Path) -> Run:
    """Reads a stored run with its streams, its initial weights and its best ones.

    Raises:
      UserError: no run, several of them, or one without a checkpoint.
    """
    path = run_paths.one_run(path)
    check_trained(path)
    return resume(path)


def _initial_weights(run: Run) -> tuple[PyTree, PyTree]:
    """Parameters and statistics that training started from, in the network's form."""
    [*_, setup] = run.parts.terms.setups.values()
    return setup.params, run.parts.model.stats


def _streams(run: Run, source: str | None, target: str | None) -> tuple[str, str]:
    """Names of the two streams to compare, defaults filled in.

    Raises:
      UserError: an unknown stream, one domain alone, or the same stream twice.
    """
    datasets = run.parts.datasets
    names = [*datasets]
    unlabelled = datasets["target"].rows.get("unlabelled", ())
    if "unlabelled" not in datasets and len(unlabelled):
        names.append("unlabelled")
    if target is None:
        target = "unlabelled" if "unlabelled" in names else "target"
    if source is None:
        domains = [n for n in names if n not in ("target", "unlabelled")]
        if not domains:
            raise UserError(
                "this run has one domain alone: its experiment has no streams= to "
                "compare the target with."
            )
        source = "source" if "source" in domains else domains[0]
    for field, name in (("source", source), ("target", target)):
        if name not in names:
            raise UserError(
                f"{field}={name!r}: the run has no such stream{nearest(name, names)} "
                f"(streams: {', '.join(names)})."
            )
    if source == target:
        raise UserError(f"source and target are both {source!r}: name two domains.")
    return source, target


def _stage(run: Run, stage: str | None) -> str:
    """Name of the stage whose features are compared; UserError for an unknown one."""
    names = run.network.stages
    stage = feature_stage(names, stage)
    if stage not in names:
        raise UserError(
            f"stage={stage!r}: the model has no such stage{nearest(stage, names)} "
            f"(stages: {', '.join(names)})."
        )
    return stage


class _Sample(NamedTuple):
    """Examples of one domain: the name of their data set, and their rows in it."""

    data: str
    rows: np.ndarray


def _sample(run: Run, stream: str, examples: int, seed: int) -> _Sample:
    """Draws train rows of a stream without replacement; all where they are few."""
    name, split = streams.dataset_and_split_of(run.parts.datasets, stream)
    rows = run.parts.datasets[name].rows.get(split, np.zeros(0, np.int32))
    if len(rows) == 0:
        raise UserError(f"the stream {stream!r} has no train rows to measure.")
    if len(rows) > examples:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:examples])
    return _Sample(name, rows)


def _common_classes(
    run: Run, samples: Sequence[_Sample]
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Names of the domains' common classes, and both domains' labels in their order.

    Labels of examples of other classes are −1.
    """
    datasets = [run.parts.datasets[sample.data] for sample in samples]
    common: tuple[str, ...] = ()
    if all(data.task == "classification" for data in datasets):
        source_names, target_names = (data.class_names for data in datasets)
        common = tuple(name for name in source_names if name in target_names)
    labels = []
    for data, sample in zip(datasets, samples):
        if not common:
            labels.append(np.full(len(sample.rows), -1))
            continue
        index = {name: i for i, name in enumerate(common)}
        new_labels = np.array([index.get(name, -1) for name in data.class_names])
        labels.append(new_labels[data.y_clean[sample.rows]])
    return common, labels


def _features(
    run: Run, stage: str, sample: _Sample, weights: tuple[PyTree, PyTree]
) -> np.ndarray:
    """Computes a stage's features of a sample, (examples, width)."""
    rows = {"sample": sample.rows}
    features = linear_probe.features(
        run, (stage,), rows, data=sample.data, weights=weights
    )
    return features["sample"][stage]


def _measure(
    features: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    class_names: Sequence[str],
    permutations: int,
    seed: int,
) -> FeatureShift:
    """Measures the shift between the features of source and target."""
    source, target = features
    return FeatureShift(
        distance=shift_measures.proxy_a_distance(source, target, seed=seed),
        discrepancy=shift_measures.mmd_test(
            source, target, permutations=permutations, seed=seed
        ),
        classes=shift_measures.class_shifts(
            source, labels[0], target, labels[1], class_names
        )
        if class_names
        else [],
        source=source,
        target=target,
    )
