"""What adaptation did to a run's features: how far its domains lie apart, and after."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from jaxtl.analysis import linear_probe, shift_measures
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import dataset, streams
from jaxtl.terms.base import feature_stage
from jaxtl.training import run_dir
from jaxtl.training.run import Run
from jaxtl.training.setup import resume

FOLDER = "diagnosis"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One model's features of both domains, measured.

    Attributes:
      distance: proxy A-distance.
      discrepancy: MMD² and its permutation test.
      classes: shift per class, where both domains have classes in common.
      source, target: the features, (examples, width).
    """

    distance: shift_measures.Distance
    discrepancy: shift_measures.Discrepancy
    classes: list[shift_measures.ClassShift]
    source: np.ndarray = dataclasses.field(repr=False)
    target: np.ndarray = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
      source, target: the streams that were compared.
      stage: whose output.
      before: at the run's initial weights (θ₀ where it has a source).
      after: at its best weights.
      source_labels, target_labels: of the examples, in the order of the features;
        labels of the target serve the shift per class and the plots' classes only.
      class_names: of source and target in common, by label; () for none.
    """

    source: str
    target: str
    stage: str
    before: Side
    after: Side
    source_labels: np.ndarray = dataclasses.field(repr=False)
    target_labels: np.ndarray = dataclasses.field(repr=False)
    class_names: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """Returns all numbers, without the features; None for what has no value."""
        found = {name: getattr(self, name) for name in ("source", "target", "stage")}
        for name in ("before", "after"):
            side: Side = getattr(self, name)
            found[name] = {
                "examples": {"source": len(side.source), "target": len(side.target)},
                "a_distance": dataclasses.asdict(side.distance),
                "mmd": dataclasses.asdict(side.discrepancy),
                "classes": [_plain(dataclasses.asdict(c)) for c in side.classes],
            }
        return found

    def rising(
        self,
    ) -> list[tuple[shift_measures.ClassShift, shift_measures.ClassShift]]:
        """Returns (before, after) of each class, first those apart most afterwards."""
        pairs = zip(self.before.classes, self.after.classes)
        return sorted(pairs, key=lambda p: -np.nan_to_num(p[1].shift, nan=-1.0))

    def plot(self, folder: str | pathlib.Path, *, seed: int = 0) -> list[pathlib.Path]:
        """Draws features.png, and classes.png where there are classes; see there.

        Args:
          folder: an existing one.
          seed: of t-SNE, and of the examples that are drawn.

        Returns:
          The files.
        """
        from jaxtl.results.plots.domains import (
            draw,  # matplotlib takes a second to import
        )

        return draw(self, pathlib.Path(folder), seed=seed)


def _plain(values: dict) -> dict:
    return {k: None if v != v else v for k, v in values.items()}


def diagnose(
    target: Run | str | pathlib.Path,
    *,
    source: str | None = None,
    other: str | None = None,
    stage: str | None = None,
    examples: int = 1000,
    permutations: int = 500,
    seed: int = 0,
) -> Diagnosis:
    """Measures two domains' features at a run's initial and at its best weights.

    Features are in evaluation mode, without augmentation, one vector per example
    (`core.vectors`). The target's labels, where its data have any, are used for the
    shift per class alone, which is analysis: choose nothing by it.

    Args:
      target: a run, or the directory of one.
      source: stream of one domain; None takes "source", or the first of the
        experiment's streams.
      other: stream of the other domain; None takes "unlabelled" where the data have
        one, else "target".
      stage: by name; None takes the last before the head.
      examples: of each domain at most, drawn at random; time grows with their square.
      permutations: of the MMD's test.
      seed: of what is drawn.

    Raises:
      UserError: an unknown stream or stage, one domain alone, a run without training.
    """
    run = target if isinstance(target, Run) else opened(pathlib.Path(target))
    names = _streams(run, source, other)
    stage = _stage(run, stage)
    if examples < 10:
        raise UserError(f"examples={examples}: expected 10 or more.")
    picked = [_picked(run, name, examples, seed) for name in names]
    sets = [
        run.parts.datasets[streams.dataset_and_split_of(run.parts.datasets, n)[0]]
        for n in names
    ]
    common, labels = _classes(sets, picked)
    sides = []
    for weights in (_initial(run), run.weights("best")):
        x = [
            linear_probe.features(
                run, (stage,), {"it": rows}, data=name, weights=weights
            )
            for name, rows in picked
        ]
        pair = [found["it"][stage] for found in x]
        sides.append(_side(pair, labels, common, permutations, seed))
    return Diagnosis(
        source=names[0],
        target=names[1],
        stage=stage,
        before=sides[0],
        after=sides[1],
        source_labels=labels[0],
        target_labels=labels[1],
        class_names=common,
    )


def opened(path: pathlib.Path) -> Run:
    """Returns a stored run with its streams, its initial and its best weights.

    Raises:
      UserError: no run, several of them, or one without a checkpoint.
    """
    if not (path / run_dir.MARK).exists() and (path / run_dir.STUDY).exists():
        runs = sorted(str(p.parent.relative_to(path)) for p in path.rglob(run_dir.MARK))
        raise UserError(f"{path} holds several runs; name one of {', '.join(runs)}.")
    if not path.is_dir():
        raise UserError(f"{path} is no directory of a run.")
    run = resume(path)
    if run.steps_done == 0:
        raise UserError(f"{path} holds no checkpoint yet: train it first.")
    return run


def _initial(run: Run):
    """Returns the weights that training began from, as the network reads them."""
    [*_, setup] = run.parts.terms.setups.values()
    return setup.params, run.parts.model.stats


def _streams(run: Run, source: str | None, other: str | None) -> tuple[str, str]:
    datasets = run.parts.datasets
    there = [*datasets]
    if "unlabelled" not in datasets and len(
        datasets["target"].rows.get("unlabelled", ())
    ):
        there.append("unlabelled")
    if other is None:
        other = "unlabelled" if "unlabelled" in there else "target"
    if source is None:
        domains = [n for n in there if n not in ("target", "unlabelled")]
        if not domains:
            raise UserError(
                "this run has one domain alone: its experiment has no streams= to "
                "compare the target with."
            )
        source = "source" if "source" in domains else domains[0]
    for field, name in (("source", source), ("other", other)):
        if name not in there:
            raise UserError(
                f"{field}={name!r}: the run has no such stream{nearest(name, there)} "
                f"(streams: {', '.join(there)})."
            )
    if source == other:
        raise UserError(f"source and other are both {source!r}: name two domains.")
    return source, other


def _stage(run: Run, stage: str | None) -> str:
    names = run.network.stages
    stage = feature_stage(names, stage)
    if stage not in names:
        raise UserError(
            f"stage={stage!r}: the model has no such stage{nearest(stage, names)} "
            f"(stages: {', '.join(names)})."
        )
    return stage


def _picked(run: Run, stream: str, examples: int, seed: int):
    """Returns (data set, rows) of a stream, some of them where it has many."""
    name, split = streams.dataset_and_split_of(run.parts.datasets, stream)
    rows = run.parts.datasets[name].rows.get(split, np.zeros(0, np.int32))
    if len(rows) == 0:
        raise UserError(f"the stream {stream!r} has no train rows to look at.")
    if len(rows) > examples:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:examples])
    return name, rows


def _classes(sets: list[dataset.Dataset], picked) -> tuple[tuple[str, ...], list]:
    """Returns the common classes, and both domains' labels by them (−1: others)."""
    ours, theirs = (data.class_names for data in sets)
    both = [data.task == "classification" for data in sets]
    common = tuple(name for name in ours if name in theirs) if all(both) else ()
    labels = []
    for data, (_, rows) in zip(sets, picked):
        if not common:
            labels.append(np.full(len(rows), -1))
            continue
        place: Mapping[str, int] = {name: i for i, name in enumerate(common)}
        new = np.array([place.get(name, -1) for name in data.class_names])
        labels.append(new[data.y_clean[rows]])
    return common, labels


def _side(pair, labels, names, permutations: int, seed: int) -> Side:
    return Side(
        distance=shift_measures.proxy_a_distance(*pair, seed=seed),
        discrepancy=shift_measures.mmd_test(
            *pair, permutations=permutations, seed=seed
        ),
        classes=shift_measures.class_shifts(
            pair[0], labels[0], pair[1], labels[1], names
        )
        if names
        else [],
        source=pair[0],
        target=pair[1],
    )
