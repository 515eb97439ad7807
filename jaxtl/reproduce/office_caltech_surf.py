"""Office-Caltech10, SURF features, 12 pairs of domains, one nearest neighbour."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import io

from jaxtl.alignment import CORAL, GFK, JDA, TCA, SubspaceAlignment, nearest_accuracy
from jaxtl.alignment.neighbour import unit
from jaxtl.data import files
from jaxtl.reproduce.base import Published, Row, Study

DOMAINS = {"C": "caltech10", "A": "amazon", "W": "webcam", "D": "dslr"}
PAIRS = ("CA", "CW", "CD", "AC", "AW", "AD", "WC", "WA", "WD", "DC", "DA", "DW")
FAST = ("WD", "DW")  # the smallest two

# GFK's dimension of each pair, as the authors' example program lists them.
GFK_DIMENSIONS = {"AC": 20, "AD": 20, "AW": 10, "CD": 10, "CW": 20, "DW": 10}

LONG = "Long et al., JDA, ICCV 2013, table of SURF features"
ZHANG = "Zhang, Li & Ogunbona, JGSA, CVPR 2017, table of SURF features"


class Line(NamedTuple):
    """A row of the published table.

    Attributes:
      method: what it is called here.
      run: `(xs, ys, xt, pair) -> (zs, zt)`, features to compare.
      source: where the figures are printed; "" where none were found.
      tolerance: in points.
      figures: of PAIRS, in order.
    """

    method: str
    run: Callable
    source: str = ""
    tolerance: float = 0.0
    figures: str = ""


def domain(letter: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a domain's features and labels, z-scored within the domain.

    Each image's 800 counts are divided by their sum; then each feature gets mean 0 and
    variance 1 (divided by n) over the domain's own images. Features that are constant
    stay 0.
    """
    path = files.find(
        f"office_caltech/surf_{DOMAINS[letter]}.mat", "reproduce office_caltech_surf"
    )
    held = io.loadmat(path)
    x = held["fts"].astype(np.float64)
    x /= x.sum(1, keepdims=True)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)
    return x, held["labels"].ravel()


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


def _tca(xs, ys, xt, pair):
    return TCA(100, ridge=1.0, kernel="linear").fit_transform(xs, xt)


def _tca_unit(xs, ys, xt, pair):
    return TCA(30, ridge=1.0, kernel="linear").fit_transform(unit(xs), unit(xt))


def _jda(xs, ys, xt, pair):
    method = JDA(100, ridge=1.0, kernel="linear", iterations=10, normalise=True)
    return method.fit_transform(unit(xs), unit(xt), ys)


LINES = (
    Line(
        "1-NN",
        _plain,
        LONG,
        0.005,
        "23.70 25.76 25.48 26.00 29.83 25.48 19.86 22.96 59.24 26.27 28.50 63.39",
    ),
    Line(
        "PCA",
        _pca,
        LONG,
        0.005,
        "36.95 32.54 38.22 34.73 35.59 27.39 26.36 31.00 77.07 29.65 32.05 75.93",
    ),
    Line(
        "GFK",
        _gfk,
        LONG,
        3.0,
        "41.02 40.68 38.85 40.25 38.98 36.31 30.72 29.75 80.89 30.28 32.05 75.59",
    ),
    Line(
        "TCA",
        _tca,
        LONG,
        3.0,
        "38.20 38.64 41.40 37.76 37.63 33.12 29.30 30.06 87.26 31.70 32.15 86.10",
    ),
    Line(
        "JDA",
        _jda,
        LONG,
        3.0,
        "44.78 41.69 45.22 39.36 37.97 39.49 31.17 32.78 89.17 31.52 33.09 89.49",
    ),
    Line(
        "SA",
        _subspace,
        ZHANG,
        3.0,
        "49.27 40.00 39.49 39.98 33.22 33.76 35.17 39.25 75.16 34.55 39.87 76.95",
    ),
    Line(
        "TCA, k=30",
        _tca_unit,
        ZHANG,
        3.0,
        "45.82 31.19 34.39 42.39 36.27 33.76 29.39 28.91 89.17 30.72 31.00 86.10",
    ),
    Line("CORAL", _coral),
)


def run(fast: bool) -> list[Row]:
    """Returns a row for each method and pair, and each method's mean over the pairs."""
    held = {letter: domain(letter) for letter in DOMAINS}
    pairs = FAST if fast else PAIRS
    made = []
    for line in LINES:
        figures = [float(text) for text in line.figures.split()]
        rows = [_row(line, pair, held, figures) for pair in pairs]
        made += rows
        if not fast:
            mean = float(np.mean([row.ours for row in rows]))
            total = float(np.mean(figures)) if figures else None
            made.append(_told(line, "mean", mean, total))
    return made


def _row(line: Line, pair: str, held, figures) -> Row:
    (xs, ys), (xt, yt) = held[pair[0]], held[pair[1]]
    zs, zt = line.run(xs, ys, xt, pair)
    ours = 100 * nearest_accuracy(zs, ys, zt, yt)
    value = figures[PAIRS.index(pair)] if figures else None
    return _told(line, f"{pair[0]}→{pair[1]}", ours, value)


def _told(line: Line, setting: str, ours: float, value: float | None) -> Row:
    known = None
    if value is not None:
        known = Published(value=value, source=line.source, tolerance=line.tolerance)
    return Row(method=line.method, setting=setting, ours=ours, published=known)


PROTOCOL = """
Four domains of ten classes: Caltech10 (C, 1,123 images), Amazon (A, 958), Webcam
(W, 295), DSLR (D, 157), as 800 SURF visual-word counts each (Gong et al., CVPR 2012).
All labelled source images train, all target images test; no target label is used for
anything else, and no setting is chosen by one.
"""


STUDY = Study(
    name="office_caltech_surf",
    title="Office-Caltech10 with SURF features, 12 pairs, 1-NN",
    protocol=PROTOCOL,
    run=run,
    needs=tuple(f"office_caltech/surf_{name}.mat" for name in DOMAINS.values()),
)
