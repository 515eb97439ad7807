"""The contract's rows of imbalanced classes."""

from rows import row

import jaxtl as tl

_WEIGHTS = {"0": 2.0, "2": 0.5}
ROWS = [
    row(
        tl.losses.CrossEntropy,
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.2},
        class_weights=_WEIGHTS,
    ),
    row(
        tl.losses.BinaryCrossEntropy,
        positive_weights={"0": 3.0},
        task="multilabel",
    ),
    row(
        tl.imbalance.FocalLoss,
        {"gamma": 2.0},
        {"gamma": 0.5},
        class_weights=tl.imbalance.EffectiveNumber(beta=0.9),
    ),
    row(
        tl.imbalance.FocalLoss,
        {"gamma": 2.0},
        {"gamma": 0.0},
        alpha=0.25,
        task="multilabel",
    ),
    row(
        tl.imbalance.LogitAdjustment,
        {"tau": 1.0},
        {"tau": 0.5},
        class_weights="balanced",
    ),
    row(
        tl.imbalance.LDAM,
        {"margin": 0.5, "scale": 30.0},
        {"margin": 0.2, "scale": 1.0},
    ),
]
