"""The contract's rows of self-supervised pre-training."""

from rows import row

import jaxtl as tl

selfsup = tl.selfsup
_VIEWS = {"views": (tl.data.Noise(scale=0.5),)}
_HEADS = {**_VIEWS, "projector": (6, 4)}
_PREDICTED = {**_HEADS, "predictor": (3, 4)}
_MOMENTUM = [{"momentum": 0.9}, {"momentum": 0.5}]
_WARM = [{"temperature": 0.3}, {"temperature": 0.6}]
_DINO = (
    "student_temperature",
    "teacher_temperature",
    "warmup_temperature",
    "warmup",
    "center_momentum",
    "momentum",
)
_PARTS = ("invariance", "variance", "covariance")
ROWS = [
    row(selfsup.SimCLR, *_WARM, **_HEADS),
    row(selfsup.SimCLR, *_WARM, **_VIEWS, projector=(), norm=False),
    row(selfsup.BYOL, *_MOMENTUM, **_PREDICTED),
    row(
        selfsup.BYOL,
        *_MOMENTUM,
        **_HEADS,
        predictor=(4,),
        norm=False,
        rises=False,
    ),
    row(selfsup.SimSiam, **_PREDICTED),
    row(selfsup.BarlowTwins, {"redundancy": 0.1}, {"redundancy": 0.2}, **_HEADS),
    row(
        selfsup.VICReg,
        dict.fromkeys(_PARTS, 2.0),
        dict.fromkeys(_PARTS, 3.0),
        **_HEADS,
    ),
    row(
        selfsup.MoCo,
        {"momentum": 0.9, "temperature": 0.3},
        {"momentum": 0.5, "temperature": 0.6},
        **_HEADS,
        queue=16,
    ),
    row(
        selfsup.DINO,
        dict.fromkeys(_DINO, 0.5),
        dict.fromkeys(_DINO, 0.3),
        **_VIEWS,
        layers=(6, 4),
        prototypes=5,
    ),
    row(selfsup.RotationPrediction, task="images"),
    row(
        selfsup.MAE,
        task="images",
        masked=0.5,
        width=8,
        layers=1,
        heads=2,
    ),
    row(
        selfsup.MaskedLanguageModel,
        {"share": 0.5},
        {"share": 0.7},
        task="masked_language",
        mask_id=3,
    ),
]
