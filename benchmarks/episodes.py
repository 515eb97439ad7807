"""Episodes per second of few-shot classifiers on cached features.

Features of a network are computed once; what an episode costs is its draw and its
classifier. The prototype classifier is also written by hand, on the same episodes, with
numpy and with torch where it is installed. The other methods are given per episode.

    python benchmarks/episodes.py [--quick] [--json FILE]
"""

import importlib.util
import statistics
import time

import numpy as np
import timing

from jaxtl.analysis.episodes import evaluation, methods
from jaxtl.data.episodes import Episode, EpisodeSampler, FixedShape

CLASSES, PER_CLASS = 100, 40
SHAPE = FixedShape(ways=5, shots=5, queries=15)


def features(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Nonnegative float32 features (4000, width) of 100 classes, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    x = rng.random((CLASSES, width))[labels] + rng.normal(size=(len(labels), width))
    return np.maximum(x, 0).astype(np.float32), labels


def by_hand(x: np.ndarray, episodes: list[Episode]) -> list[float]:
    """Accuracies of the nearest mean, in numpy's float32."""
    accuracies = []
    for episode in episodes:
        means = x[episode.support].reshape(SHAPE.ways, SHAPE.shots, -1).mean(axis=1)
        query = x[episode.query]
        distances = np.square(means).sum(axis=1) - 2 * query @ means.T
        right = distances.argmin(axis=1) == episode.query_labels
        accuracies.append(float(right.mean()))
    return accuracies


def with_torch(x: np.ndarray, episodes: list[Episode]) -> list[float]:
    """The same with torch.cdist, one thread."""
    import torch

    torch.set_num_threads(1)
    values, accuracies = torch.from_numpy(x), []
    for episode in episodes:
        support, query = values[episode.support], values[episode.query]
        means = support.view(SHAPE.ways, SHAPE.shots, -1).mean(1)
        predicted = torch.cdist(query, means).argmin(1).numpy()
        accuracies.append(float((predicted == episode.query_labels).mean()))
    return accuracies


def prototype_rows(width: int, count: int, rounds: int) -> list[timing.Row]:
    """Draws and classifies episodes by hand and by jaxtl."""
    x, labels = features(width)
    sampler = EpisodeSampler(labels, SHAPE)
    drawn = [sampler(number) for number in range(count)]
    score = evaluation.feature_scores(x, labels, sampler.classes)
    method = methods.METHODS["protonet"]

    def ours() -> list[float]:
        return list(evaluation.episode_accuracies(method, score, drawn, "episodes"))

    works = {
        "draw": lambda: [sampler(number) for number in range(count)],
        "numpy, by hand": lambda: by_hand(x, drawn),
        "protonet": ours,
    }
    if importlib.util.find_spec("torch"):
        works["torch, by hand"] = lambda: with_torch(x, drawn)
    np.testing.assert_allclose(ours(), by_hand(x, drawn), atol=0.1)
    times = timing.alternate(works, rounds)
    return [
        {
            "5-way 5-shot, 15 queries": name,
            "width": width,
            "episodes/s": count / statistics.median(times.clock[name]),
            "time by numpy's": timing.ratio(times.clock, name, "numpy, by hand"),
            "quartiles": timing.spread(times.clock, name, "numpy, by hand"),
        }
        for name in works
    ]


def method_rows(width: int, count: int) -> list[timing.Row]:
    """Milliseconds of each method per episode, with its first candidate."""
    x, labels = features(width)
    sampler = EpisodeSampler(labels, SHAPE)
    drawn = [sampler(number) for number in range(count)]
    score = evaluation.feature_scores(x, labels, sampler.classes)
    rows = []
    for name, method in methods.ON_FEATURES.items():
        first = method.candidates()[0]
        score(first, drawn[0])  # imports scikit-learn
        start = time.perf_counter()
        evaluation.episode_accuracies(first, score, drawn, name)
        seconds = time.perf_counter() - start
        rows.append(
            {"method": name, "width": width, "ms/episode": 1e3 * seconds / count}
        )
    return rows


def main(argv: list[str] | None = None) -> list[list[timing.Row]]:
    """Prints episodes per second and milliseconds per method; returns the tables."""
    args = timing.options(__doc__, argv)
    widths = (64,) if args.quick else (64, 512, 1280)
    count, rounds = (5, 2) if args.quick else (300, 7)
    prototypes = [
        row for width in widths for row in prototype_rows(width, count, rounds)
    ]
    tables = [prototypes, method_rows(widths[-1], 2 if args.quick else 50)]
    timing.report(__doc__.partition("\n")[0], tables, args.json)
    return tables


if __name__ == "__main__":
    main()
