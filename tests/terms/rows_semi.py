"""The contract's rows of semi-supervised learning."""

from rows import row

import jaxtl as tl

semi = tl.semi
_NOISE = {"strong": (tl.data.Noise(scale=0.5),)}
_SURE = [{"threshold": 0.3}, {"threshold": 0.4}]
_MIXED = [
    {"temperature": 0.5, "alpha": 0.75, "unlabelled": 10.0},
    {"temperature": 0.7, "alpha": 0.5, "unlabelled": 20.0},
]
ROWS = [
    row(semi.PseudoLabel, *_SURE),
    row(semi.PiModel, view=(tl.data.Noise(scale=0.5),)),
    row(semi.MeanTeacher, {"decay": 0.5}, {"decay": 0.9}),
    row(semi.VAT, {"radius": 1.0, "size": 0.1}, {"radius": 2.0, "size": 0.2}),
    row(
        semi.VAT,
        {"radius": 1.0, "size": 0.1},
        {"radius": 2.0, "size": 0.2},
        stage="layer1",
        steps=2,
    ),
    row(semi.MixMatch, *_MIXED),
    row(
        semi.UDA,
        {"threshold": 0.3, "temperature": 0.4},
        {"threshold": 0.4, "temperature": 0.5},
        **_NOISE,
    ),
    row(semi.AnnealedCrossEntropy, rise="exp"),
    row(semi.FixMatch, *_SURE, **_NOISE),
    row(semi.FlexMatch, *_SURE, warmup=False, **_NOISE),
    row(
        semi.FreeMatch,
        {"momentum": 0.9, "fairness": 0.05},
        {"momentum": 0.5, "fairness": 0.1},
        **_NOISE,
    ),
]
