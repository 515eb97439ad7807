"""Office-Caltech10, SURF features, 12 pairs of domains, one nearest neighbor."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import io
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from jaxtl.analysis.alignment import (
    CORAL,
    GFK,
    JDA,
    TCA,
    SubspaceAlignment,
    nearest_neighbor_accuracy,
)
from jaxtl.analysis.geometry import unit
from jaxtl.data import paths
from jaxtl.results.published import ABOVE, BELOW, Published, PublishedRow, Study

DOMAINS = {"C": "caltech10", "A": "amazon", "W": "webcam", "D": "dslr"}
PAIRS = ("CA", "CW", "CD", "AC", "AW", "AD", "WC", "WA", "WD", "DC", "DA", "DW")
FAST = ("WD", "DW")  # the smallest two

# GFK's dimension of each pair, as the authors' example program lists them.
GFK_DIMENSIONS = {"AC": 20, "AD": 20, "AW": 10, "CD": 10, "CW": 20, "DW": 10}

# Read in the collection of published rows that jindongwang/transferlearning keeps.
BY = "as collected in jindongwang/transferlearning, data/benchmark.md"
LONG = f"Long et al., JDA, ICCV 2013, SURF features, {BY}"
ZHANG = f"Zhang, Li & Ogunbona, JGSA, CVPR 2017, SURF features, {BY}"


class PublishedMethod(NamedTuple):
    """A method of the published table.

    Attributes:
      method: its name.
      run: `(xs, ys, xt, pair) -> (zs, zt)`, the adapted features.
      source: publication of the figures; "" without any.
      tolerance: in percentage points.
      figures: accuracies in %, in the order of PAIRS.
      decide: `(zs, ys, zt, yt) -> accuracy`.
      note: for rows that miss the published figure.
    """

    method: str
    run: Callable
    source: str = ""
    tolerance: float = 0.0
    figures: str = ""
    decide: Callable = nearest_neighbor_accuracy
    note: str = ""


def domain(letter: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a domain's features, z-scored within the domain, and its labels.

    Each image's 800 counts are divided by their sum; then each feature gets mean 0 and
    variance 1 (divided by n) over the domain's own images. Features that are constant
    stay 0.
    """
    path = paths.find(
        f"office_caltech/surf_{DOMAINS[letter]}.mat", "reproduce office_caltech_surf"
    )
    arrays = io.loadmat(path)
    x = arrays["fts"].astype(np.float64)
    x /= x.sum(1, keepdims=True)
    std = x.std(0)
    x = (x - x.mean(0)) / np.where(std > 0, std, 1.0)
    return x, arrays["labels"].ravel()


def _plain(xs, ys, xt, pair):
    return xs, xt


def _pca(xs, ys, xt, pair):
    both = np.concatenate([xs, xt])
    mean = both.mean(0)
    axes = np.linalg.svd(both - mean, full_matrices=False)[2][:100].T
    return (xs - mean) @ axes, (xt - mean) @ axes


def _coral(xs, ys, xt, pair):
    return CORAL(ridge=1.0).fit_transform(xs, xt)


def _gfk(xs, ys, xt, pair):
    return GFK(GFK_DIMENSIONS["".join(sorted(pair))]).fit_transform(xs, xt)


def _subspace(xs, ys, xt, pair):
    return SubspaceAlignment(30).fit_transform(unit(xs), unit(xt))


def _svm(zs, ys, zt, yt) -> float:
    """Accuracy of a linear SVM whose C two folds of the source choose."""
    grid = {"C": [0.01, 0.1, 1.0, 10.0, 100.0]}
    search = GridSearchCV(SVC(kernel="linear"), grid, cv=StratifiedKFold(2))
    return float(search.fit(zs, ys).score(zt, yt))


def _tca(xs, ys, xt, pair):
    return TCA(100, ridge=1.0, kernel="linear").fit_transform(xs, xt)


def _jda(xs, ys, xt, pair):
    method = JDA(100, ridge=1.0, kernel="linear", iterations=10, normalize=True)
    return method.fit_transform(unit(xs), unit(xt), ys)


SA_FIGURES = "49.27 40.00 39.49 39.98 33.22 33.76 35.17 39.25 75.16 34.55 39.87 76.95"
ROWS = (
    PublishedMethod(
        "1-NN",
        _plain,
        LONG,
        0.005,
        "23.70 25.76 25.48 26.00 29.83 25.48 19.86 22.96 59.24 26.27 28.50 63.39",
    ),
    PublishedMethod(
        "PCA",
        _pca,
        LONG,
        0.005,
        "36.95 32.54 38.22 34.73 35.59 27.39 26.36 31.00 77.07 29.65 32.05 75.93",
    ),
    PublishedMethod(
        "GFK",
        _gfk,
        LONG,
        3.0,
        "41.02 40.68 38.85 40.25 38.98 36.31 30.72 29.75 80.89 30.28 32.05 75.59",
    ),
    PublishedMethod(
        "TCA",
        _tca,
        LONG,
        3.0,
        "38.20 38.64 41.40 37.76 37.63 33.12 29.30 30.06 87.26 31.70 32.15 86.10",
    ),
    PublishedMethod(
        "JDA",
        _jda,
        LONG,
        3.0,
        "44.78 41.69 45.22 39.36 37.97 39.49 31.17 32.78 89.17 31.52 33.09 89.49",
    ),
    PublishedMethod(
        "SA",
        _subspace,
        ZHANG,
        3.0,
        SA_FIGURES,
        note="the published figures look like a linear SVM's, see above",
    ),
    PublishedMethod(
        "SA + linear SVM",
        _subspace,
        ZHANG,
        3.0,
        SA_FIGURES,
        decide=_svm,
        note="how they chose C is not printed, see above",
    ),
    PublishedMethod("CORAL", _coral),
)


def run(fast: bool) -> list[PublishedRow]:
    """A row for each method and pair, and each method's mean over the pairs."""
    domains = {letter: domain(letter) for letter in DOMAINS}
    pairs = FAST if fast else PAIRS
    rows = []
    for method in ROWS:
        figures = [float(text) for text in method.figures.split()]
        of_method = [_row(method, pair, domains, figures) for pair in pairs]
        rows += of_method
        if not fast:
            mean = float(np.mean([row.ours for row in of_method]))
            published = float(np.mean(figures)) if figures else None
            rows.append(_compare(method, "mean", mean, published))
    return rows


def _row(
    method: PublishedMethod,
    pair: str,
    domains: Mapping[str, tuple[np.ndarray, np.ndarray]],
    figures: Sequence[float],
) -> PublishedRow:
    (xs, ys), (xt, yt) = domains[pair[0]], domains[pair[1]]
    zs, zt = method.run(xs, ys, xt, pair)
    ours = 100 * method.decide(zs, ys, zt, yt)
    value = figures[PAIRS.index(pair)] if figures else None
    return _compare(method, f"{pair[0]}→{pair[1]}", ours, value)


def _compare(
    method: PublishedMethod, setting: str, ours: float, value: float | None
) -> PublishedRow:
    published = None
    if value is not None:
        published = Published(
            value=value, source=method.source, tolerance=method.tolerance
        )
    row = PublishedRow(
        method=method.method, setting=setting, ours=ours, published=published
    )
    has_missed = row.verdict in (ABOVE, BELOW)
    return dataclasses.replace(row, note=method.note) if has_missed else row


PROTOCOL = """
Four domains of ten classes: Caltech10 (C, 1,123 images), Amazon (A, 958), Webcam
(W, 295), DSLR (D, 157), as 800 SURF visual-word counts each (Gong et al., CVPR 2012).
All labelled source images train, all target images test; no target label is used for
anything else when it runs. The label of the nearest source row (Euclidean, after the
map) decides.

Counts are divided by their sum, then z-scored within each domain (division by n). This
is what the no-adaptation row, equal to two decimals in all pairs, confirms. Settings are
those of the papers, and where they are silent those of the authors' own programs:

| method | features | settings |
| --- | --- | --- |
| PCA | z-scored | of both domains together, 100 directions |
| GFK | z-scored | 10 directions (W–D, W–A, C–D) or 20 (D–A, C–W, C–A), as listed in the authors' example program |
| TCA | z-scored | linear kernel, λ = 1, 100 components of coefficients of length 1 |
| JDA | z-scored, rows then of length 1 | linear kernel, λ = 1, 100 components, 10 iterations; M₀ weighs as much as all classes and M is divided by its norm (the program, not the paper); rows of Z of length 1 |
| SA | z-scored, rows then of length 1 | 30 directions, as the JGSA paper's own preparation |
| SA + linear SVM | the same | C ∈ {0.01 … 100} by two folds of the source |
| CORAL | z-scored | identity added to both covariances (algorithm 1) |

What neither says (components of length 1; raw rows for TCA, rows of length 1 for JDA) is
the variant that gave the published figures: those are accuracies on target labels, so
this one choice was made with their help.

The figures held against are one table for 1-NN, PCA, GFK, TCA and JDA, and one for SA.
They are rounded to two decimals; tolerance is half of the last digit for the first two
and 3 points for methods with settings.
"""  # noqa: E501

FINDINGS = """
Every figure of the JDA paper's table that was tried (1-NN, PCA, GFK, TCA, JDA; 12 pairs
each) comes out to the two decimals printed.

**SA misses, and what is published is hardly 1-NN's.** Its figures are not in the JDA
paper; they are passed on from the JGSA paper, beside 1-NN rows. With 1-NN on the
aligned features ours lie 6.1 points off on average, in both directions, up to 11.5
(A→W), though the means over the 12 pairs agree. The pattern of the published row
(better than 1-NN from Webcam and DSLR to the large domains, worse between Webcam and
DSLR) is that of a linear SVM on the same aligned features: with one, C chosen on the
source alone, 7 of 12 pairs are within 3 points (A→D equal, D→W within 0.4) and the
average distance is 3.0. What remains is how they chose C, which from and to Caltech
matters most, and which two folds of the source settle poorly. Counts divided by their
length instead of their sum, SA's similarity instead of coordinates, 20, 30 or 80
directions and uncentered bases were tried on W→D, D→W, A→W, W→A and C→W: with 1-NN none
gives the published row.

**CORAL**: no figures with 1-NN on this protocol were found (its authors' program ends
in an SVM), so its row stands alone. The identity in its covariances weighs as much as
the features' own variance of 1, and with it CORAL helps where the domains are near
(W–D) and hardly elsewhere.
"""

STUDY = Study(
    name="office_caltech_surf",
    title="Office-Caltech10 with SURF features, 12 pairs, 1-NN",
    protocol=PROTOCOL,
    findings=FINDINGS,
    run=run,
    needs=tuple(f"office_caltech/surf_{name}.mat" for name in DOMAINS.values()),
)
