"""SKADA-Bench's simulated shifts: two dimensions, two classes, four kinds of shift."""

import functools
import importlib
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.svm import SVC

from jaxtl.analysis.alignment import (
    CORAL,
    KLIEP,
    KMM,
    TCA,
    OTMapping,
    SubspaceAlignment,
)
from jaxtl.analysis.alignment.optimal_transport import METRICS
from jaxtl.core.errors import UserError
from jaxtl.results.published import Published, PublishedRow, Study
from jaxtl.results.statistics import t_interval

SEEDS, SPLITS = 5, 2
TEST = 0.2
# Name in the benchmark: name in the generator, points per blob, noise.
SHIFTS = {
    "covariate": ("covariate_shift", 100, 0.6),
    "target": ("target_shift", 100, 0.8),
    "concept": ("conditional_shift", 100, 0.8),
    "subspace": ("subspace", 300, 0.4),
}
SOURCE = (
    "SKADA-Bench 1.0.0 (Lalou et al., arXiv:2407.11676), results page, shallow "
    "methods, supervised scorer, accuracy, printed to two decimals"
)


class Domain(NamedTuple):
    """Rows of one domain and their labels."""

    x: np.ndarray
    y: np.ndarray


class PublishedMethod(NamedTuple):
    """A method of the published table.

    Attributes:
      method: its name there.
      candidates: settings to choose from.
      figures: accuracies in [0, 1], in the order of SHIFTS.
      inner: number of splits of the training rows that the choice is made on.
    """

    method: str
    candidates: tuple[Callable, ...]
    figures: tuple[float, ...]
    inner: int = 1


def generate(shift: str, seed: int) -> tuple[Domain, Domain]:
    """Generates source and target as SKADA-Bench's `datasets/simulated.py` does.

    Raises:
      UserError: skada is not installed.
    """
    try:
        skada = importlib.import_module("skada.datasets")
    except ImportError:
        raise UserError(
            "reproduce skada_shifts: the data come from skada's generator, which is "
            "not installed; `pip install 'jaxtl[reproduce]'`."
        ) from None
    name, points, noise = SHIFTS[shift]
    x, y, domain = skada.make_shifted_datasets(
        n_samples_source=points,
        n_samples_target=points,
        shift=name,
        noise=noise,
        label="binary",
        center_cov_shift=(-0.4, 3),
        random_state=seed,
    )
    return Domain(x[domain > 0], y[domain > 0]), Domain(x[domain < 0], y[domain < 0])


def split(domain: Domain, seed: int) -> tuple[Domain, Domain]:
    """Splits a domain into 80 % and 20 %, classes in proportion."""
    cut = StratifiedShuffleSplit(1, test_size=TEST, random_state=seed)
    train, test = next(cut.split(domain.x, domain.y))
    return (
        Domain(domain.x[train], domain.y[train]),
        Domain(domain.x[test], domain.y[test]),
    )


# A candidate takes source and target (whose labels only the oracle reads), and returns
# a function that predicts labels of target rows.
Predict = Callable[[np.ndarray], np.ndarray]


def train_on_source(source: Domain, target: Domain) -> Predict:
    return SVC().fit(source.x, source.y).predict


def train_on_target(source: Domain, target: Domain) -> Predict:
    return SVC().fit(target.x, target.y).predict


def weighted(source: Domain, target: Domain, *, method: Callable) -> Predict:
    weights = method().fit(source.x, target.x).weights
    return SVC().fit(source.x, source.y, sample_weight=weights).predict


def mapped(
    source: Domain, target: Domain, *, method: Callable, centered: bool = False
) -> Predict:
    shifts = (source.x.mean(0), target.x.mean(0)) if centered else (0.0, 0.0)
    mapping = method()
    zs, _ = mapping.fit_transform(source.x - shifts[0], target.x - shifts[1], source.y)
    learner = SVC().fit(zs, source.y)
    return lambda x: learner.predict(mapping.transform(x - shifts[1], "target"))


def _kmm(gamma: float) -> Callable:
    # The benchmark's kernel is exp(−γ‖x − x'‖²); it takes 1,000 steps.
    width = 1 / np.sqrt(2 * gamma)
    return functools.partial(KMM, bandwidth=width, steps=1_000)


def _candidates(function: Callable, methods: Iterable[Callable]) -> tuple:
    return tuple(functools.partial(function, method=method) for method in methods)


def _with(kind: type, names: tuple[str, ...], values: Iterable[tuple]) -> list:
    return [functools.partial(kind, **dict(zip(names, v))) for v in values]


METHODS = (
    PublishedMethod("Train Src", (train_on_source,), (0.88, 0.85, 0.66, 0.19)),
    PublishedMethod("Train Tgt", (train_on_target,), (0.92, 0.93, 0.82, 0.98)),
    PublishedMethod(
        "KLIEP",
        _candidates(weighted, [functools.partial(KLIEP, folds=3, steps=300)]),
        (0.89, 0.88, 0.66, 0.20),
    ),
    PublishedMethod(
        "KMM",
        _candidates(weighted, [_kmm(0.1), _kmm(1.0), _kmm(10.0)]),
        (0.89, 0.87, 0.67, 0.19),
    ),
    PublishedMethod(
        "CORAL",
        tuple(
            functools.partial(
                mapped, method=functools.partial(CORAL, 1e-6), centered=centered
            )
            for centered in (False, True)
        ),
        (0.74, 0.84, 0.82, 0.19),
        inner=5,
    ),
    PublishedMethod(
        "MapOT",
        _candidates(mapped, _with(OTMapping, ("metric",), zip(METRICS))),
        (0.87, 0.63, 0.82, 0.14),
    ),
    PublishedMethod(
        "EntOT",
        _candidates(
            mapped,
            _with(
                OTMapping,
                ("metric", "entropy", "scale"),
                itertools.product(METRICS, (0.1, 0.5, 1.0), ("median",)),
            ),
        ),
        (0.89, 0.61, 0.82, 0.47),
    ),
    PublishedMethod(
        "ClassRegOT",
        _candidates(
            mapped,
            _with(
                OTMapping,
                ("metric", "entropy", "classes", "steps"),
                [(m, 1.0, 1.0, 100) for m in METRICS],
            ),
        ),
        (0.91, 0.59, 0.82, 0.15),
    ),
    PublishedMethod(
        "SA",
        _candidates(mapped, _with(SubspaceAlignment, ("dimension",), [(1,), (2,)])),
        (0.74, 0.81, 0.80, 0.13),
        inner=5,
    ),
    PublishedMethod(
        "TCA",
        _candidates(
            mapped,
            _with(
                TCA,
                ("dimension", "ridge", "kernel", "bandwidth"),
                [(2, 0.1, "rbf", 1.0)],
            ),
        ),
        (0.40, 0.46, 0.50, 0.58),
    ),
)
FAST = ("Train Src", "Train Tgt")


def accuracy(
    method: PublishedMethod, source: Domain, target: Domain, seed: int
) -> float:
    """Accuracy on the target's test rows of a method's best candidate.

    Labels of target rows held out of training choose it: the published table's
    "supervised" scorer, an oracle that no user has.
    """
    source, _ = split(source, seed)
    target, test = split(target, seed)
    best = method.candidates[0]
    if len(method.candidates) > 1:
        scores = np.zeros(len(method.candidates))
        for cut in range(method.inner):
            (a, _), (b, val) = split(source, cut), split(target, cut)
            scores += [np.mean(c(a, b)(val.x) == val.y) for c in method.candidates]
        best = method.candidates[int(np.argmax(scores))]
    return float(np.mean(best(source, target)(test.x) == test.y))


def run(fast: bool) -> list[PublishedRow]:
    """A row for each method and shift; `fast` takes those without adaptation."""
    rows = []
    methods = [method for method in METHODS if not fast or method.method in FAST]
    for method, (index, shift) in itertools.product(methods, enumerate(SHIFTS)):
        values = []
        for seed in range(SEEDS):
            domains = generate(shift, seed)
            parts = [accuracy(method, *domains, i) for i in range(SPLITS)]
            values.append(100 * float(np.mean(parts)))
        mean, _, _, half, _ = t_interval(values)
        published = Published(
            value=100 * method.figures[index], source=SOURCE, tolerance=3.0
        )
        rows.append(
            PublishedRow(
                method=method.method,
                setting=shift,
                ours=mean,
                interval=half,
                published=published,
            )
        )
    return rows


PROTOCOL = """
Two dimensions, two classes, from skada's `make_shifted_datasets` with the benchmark's
own arguments: 800 rows a domain (1,200 in the subspace problem), Gaussian noise 0.6
(covariate), 0.4 (subspace) or 0.8, `center_cov_shift=(-0.4, 3)`, seeds 0 to 4. What the
benchmark calls concept drift is `conditional_shift` in skada 0.6.

Each seed's domains are cut 80/20 twice by class; methods see the source's training rows
and the target's training rows, scikit-learn's `SVC()` with its defaults learns, and
accuracy is counted on the target's test rows. Figures are means of five seeds ± half
the 95 % t-interval. Where a method has several candidates, the one that is best on
target rows held out of training is taken: that is the published table's "supervised"
scorer, an oracle no user has, used here only to compare with that table. Test rows
choose nothing. Candidates are the benchmark's: KMM γ ∈ {0.1, 1, 10}; CORAL with and
without each domain's mean removed; OT with squared Euclidean, city-block and cosine
cost; entropies 0.1, 0.5, 1 of the median cost; class penalty and entropy 1; SA with 1
and 2 directions; TCA with an RBF kernel (γ = ½), 2 components and λ = 0.1. KLIEP
chooses its bandwidth by its own likelihood.

Simpler than the benchmark: two outer cuts instead of five, one inner cut instead of
five (CORAL and SA: five), and part of its grids.
"""

FINDINGS = """
Without adaptation, with KLIEP, KMM, CORAL, exact and entropic transport, and with
subspace alignment every figure is within 3 points of the published one.

**TCA** is the published table's outlier (0.40 to 0.58 with two classes, chance), and
no longer what skada does: version 0.6's own TCA, with 2 components and the same λ on
one of these cuts (seed 0), is right on 87.5 % (covariate) and 77.5 % (target) of the
target's test rows, as ours is. The published row must come from an earlier version.
TCA can't help where labels turn with the domain: 21 % in the subspace problem is the
source's own accuracy.

**Class-regularized transport, subspace**: below by 4.8 points; ours has one of the
benchmark's three strengths to choose from. All of transport fails there as published:
mass goes to the wrong class, because the target is the source turned about the origin.
"""

STUDY = Study(
    name="skada_shifts",
    title="SKADA-Bench's simulated shifts, RBF support vector machine",
    protocol=PROTOCOL,
    findings=FINDINGS,
    run=run,
    digits=1,
)
