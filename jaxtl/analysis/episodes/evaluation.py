"""Accuracy of few-shot classifiers over many episodes, with its interval."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.analysis.episodes import methods as registry
from jaxtl.analysis.episodes.base import FewShotMethod
from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.data.episodes import (
    Episode,
    EpisodeSampler,
    FixedShape,
    VariableShape,
    check_disjoint,
)
from jaxtl.results import statistics

Score = Callable[[Any, Episode], np.ndarray]  # (method, episode) -> scores of queries
FIVE_WAYS = FixedShape()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FewShotResult:
    """The accuracies of one method.

    Attributes:
      name: of the method, as on the command line.
      method: the candidate that was tested.
      candidates: names of the settings that had several values to choose from.
      shape: of the episodes.
      accuracies: (episodes,) shares of queries in [0, 1].
      val_accuracy: mean over the episodes of validation classes, None where nothing was
        chosen on them.
      seconds: that the test episodes took.
    """

    name: str
    method: FewShotMethod
    candidates: tuple[str, ...]
    shape: FixedShape | VariableShape
    accuracies: np.ndarray
    val_accuracy: float | None
    seconds: float

    @property
    def accuracy(self) -> statistics.Estimate:
        """Mean over the episodes with its 95 % interval (Student's t)."""
        return statistics.t_interval(self.accuracies, bounds=(0.0, 1.0))

    @property
    def chosen(self) -> dict[str, Any]:
        """The chosen values of the settings that had several."""
        settings = self.method.settings()
        return {name: settings[name] for name in self.candidates}

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values; shots are None where they vary."""
        estimate = self.accuracy
        is_fixed = isinstance(self.shape, FixedShape)
        return {
            "method": self.name,
            "title": self.method.title,
            "transductive": self.method.transductive,
            "ways": self.shape.ways if is_fixed else None,
            "shots": self.shape.shots if is_fixed else None,
            "queries": self.shape.queries if is_fixed else None,
            "episodes": estimate.n,
            "accuracy": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            "val_accuracy": self.val_accuracy,
            "settings": self.method.settings(),
            "seconds": self.seconds,
        }


def evaluate(
    features: ArrayLike,
    labels: ArrayLike,
    methods: Iterable[str] | Mapping[str, FewShotMethod] = tuple(registry.ON_FEATURES),
    shape: FixedShape | VariableShape = FIVE_WAYS,
    *,
    episodes: int = 600,
    classes: Iterable[int] | None = None,
    val_classes: Iterable[int] = (),
    val_episodes: int = 100,
    seed: int = 0,
    class_names: Sequence[str] = (),
) -> list[FewShotResult]:
    """Evaluates classifiers on the same episodes of given features.

    Args:
      features: (n, d).
      labels: (n,) integers.
      methods: names, or name -> method; a field with several candidates is chosen on
        the validation classes.
      shape: of the episodes.
      episodes: of the test classes.
      classes: labels of the test classes; None takes all but the validation classes.
      val_classes: labels to choose on; their features also give the mean that methods
        with centered features subtract, with those of all classes that are not tested.
      val_episodes: of the validation classes.
      seed: of the episodes.
      class_names: in label order, for messages.

    Returns:
      One result for each method, in their order.

    Raises:
      UserError: classes of both kinds, too few classes or examples, an unknown method.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or len(features) != len(labels):
        raise UserError(
            f"features of shape {features.shape} for {len(labels)} labels: expected "
            "(examples, width)."
        )
    val_classes = list(val_classes)
    if classes is None:
        classes = np.setdiff1d(labels, val_classes)
    samplers = EpisodeSamplers(
        labels, shape, classes, val_classes, seed=seed, class_names=class_names
    )
    score = feature_scores(features, labels, samplers.test.classes)
    return evaluate_by(
        {name: (method, score) for name, method in named_methods(methods).items()},
        samplers,
        episodes,
        val_episodes,
    )


class EpisodeSamplers:
    """Episodes of test classes, and of validation classes where there are two.

    Args:
      labels: (n,) integers, of all rows.
      shape: of the episodes.
      classes, val_classes: labels.
      seed: of the episodes.
      class_names: in label order, for messages.

    Attributes:
      test, val: the samplers; val is None for fewer than two classes, and has as many
        ways as there are classes where the shape has more.

    Raises:
      UserError: as `EpisodeSampler`, and for a class of both kinds.
    """

    def __init__(
        self,
        labels: np.ndarray,
        shape: FixedShape | VariableShape,
        classes: Iterable[int],
        val_classes: Iterable[int] = (),
        *,
        seed: int = 0,
        class_names: Sequence[str] = (),
    ) -> None:
        classes, val_classes = list(classes), list(val_classes)
        check_disjoint({"val": val_classes, "test": classes}, class_names)
        settings = dict(seed=seed, class_names=class_names)
        self.test = EpisodeSampler(labels, shape, classes=classes, **settings)
        self.val: EpisodeSampler | None = None
        if len(val_classes) > 1:
            name = "ways" if isinstance(shape, FixedShape) else "min_ways"
            ways = min(getattr(shape, name), len(val_classes))
            shape = dataclasses.replace(shape, **{name: ways})
            self.val = EpisodeSampler(labels, shape, classes=val_classes, **settings)


def feature_scores(
    features: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> Score:
    """A function: computes a method's scores of an episode from features.

    Args:
      features: (n, d), of all rows.
      labels: (n,).
      classes: that are tested; methods with centered features read them less the mean
        of all others, or of none where there are no others.
    """
    is_other = ~np.isin(labels, classes)
    center = features[is_other].mean(axis=0, dtype=np.float64) if is_other.any() else 0

    def scores(method: FewShotMethod, episode: Episode) -> np.ndarray:
        origin = center if method.centered else 0
        support, query = features[episode.support], features[episode.query]
        return method(support - origin, episode.support_labels, query - origin)

    return scores


def evaluate_by(
    methods: Mapping[str, tuple[FewShotMethod, Score]],
    samplers: EpisodeSamplers,
    episodes: int,
    val_episodes: int,
) -> list[FewShotResult]:
    """Chooses each method's candidate on validation classes, and tests it.

    Args:
      methods: name -> (method, its scores of an episode).
      samplers: of the episodes.
      episodes, val_episodes: of test and of validation classes.

    Raises:
      UserError: fewer than two episodes.
    """
    for field, value in (("episodes", episodes), ("val_episodes", val_episodes)):
        if not isinstance(value, int) or value < 2:
            raise UserError(
                f"{field}={value!r}: expected a whole number of at least 2."
            )
    test = [samplers.test(number) for number in range(episodes)]
    val = [] if samplers.val is None else list(map(samplers.val, range(val_episodes)))
    results = []
    for name, (method, score) in methods.items():
        settings = method.settings()
        chosen, val_accuracy = _choose(method.candidates(), score, val)
        start = time.perf_counter()
        accuracies = episode_accuracies(
            chosen, score, test, f"{method.title}, test episodes"
        )
        results.append(
            FewShotResult(
                name=name,
                method=chosen,
                candidates=tuple(k for k, v in settings.items() if type(v) is tuple),
                shape=samplers.test.shape,
                accuracies=accuracies,
                val_accuracy=val_accuracy,
                seconds=time.perf_counter() - start,
            )
        )
    return results


def _choose(
    candidates: Sequence[FewShotMethod], score: Score, episodes: Sequence[Episode]
) -> tuple[FewShotMethod, float | None]:
    """The candidate with the best mean accuracy, and that; the first one of equal ones.

    A single candidate is not measured, nor is any without episodes.
    """
    if len(candidates) == 1 or not episodes:
        return candidates[0], None
    means = [
        float(episode_accuracies(c, score, episodes, f"{c.title}, candidates").mean())
        for c in candidates
    ]
    best = int(np.argmax(means))
    return candidates[best], means[best]


def episode_accuracies(
    method: FewShotMethod, score: Score, episodes: Sequence[Episode], what: str
) -> np.ndarray:
    """Shares of queries that are classified rightly, (episodes,)."""
    accuracy = functools.partial(_accuracy, method, score)
    return np.array([accuracy(episode) for episode in progress.track(episodes, what)])


def _accuracy(method: FewShotMethod, score: Score, episode: Episode) -> float:
    predicted = score(method, episode).argmax(axis=1)
    return float(np.mean(predicted == episode.query_labels))


def named_methods(
    methods: Iterable[str] | Mapping[str, FewShotMethod],
) -> dict[str, FewShotMethod]:
    """Methods by name; those that are named by a text are looked up."""
    if isinstance(methods, Mapping):
        return dict(methods)
    return registry.by_name(methods)
