"""The contract's rows of domain adaptation."""

from rows import row

import jaxtl as tl

_RAMPS = [
    {"reversal": tl.optim.Ramp(final=0.5, gamma=5.0)},
    {"reversal": tl.optim.Ramp(final=1.0, gamma=10.0)},
]
_BANKS = [{"multipliers": (0.5, 1.0)}, {"multipliers": (0.25, 2.0)}]
_WIDTHS = [
    {"multipliers": (0.5, 1.0), "bandwidths": (1.0,)},
    {"multipliers": (0.25, 2.0), "bandwidths": (3.0,)},
]
_JOINT = [
    {"multipliers": (0.5, 1.0), "bandwidth": 1.68},
    {"multipliers": (0.25, 2.0), "bandwidth": 1.0},
]
_RADII = [{"step": 1.0, "radius": 25.0}, {"step": 0.5, "radius": 5.0}]
_CARRIED = [
    {"feature": 0.001, "label": 1.0, "epsilon": 0.05},
    {"feature": 0.1, "label": 0.5, "epsilon": 0.1},
]
_PORTIONS = [
    {"portion": tl.optim.Linear(peak=0.2, warmup=1.0, final=0.5)},
    {"portion": tl.optim.Linear(peak=0.9, warmup=2.0, final=0.8)},
]
_HALVES = [{"diversity": 1.0, "labels": 0.3}, {"diversity": 0.5, "labels": 0.1}]
_MOMENTA = [
    {"momentum": 0.9, "label_smoothing": 0.1},
    {"momentum": 0.5, "label_smoothing": 0.2},
]
_PARTIAL = [{**_RAMPS[0], "momentum": 0.9}, {**_RAMPS[1], "momentum": 0.5}]
ROWS = [
    row(tl.domain.DeepCORAL),
    row(tl.domain.DANN, {"reversal": 0.5}, {"reversal": 1.0}),
    row(tl.domain.DANN, *_RAMPS),
    row(tl.domain.DAN, *_BANKS),
    row(tl.domain.DAN, *_WIDTHS, estimator="unbiased", stages=("layer1", "head")),
    row(tl.domain.JAN, *_JOINT),
    row(tl.domain.CMD, {"span": 1.0}, {"span": 2.0}),
    row(tl.domain.CDAN, {"reversal": 0.5}, {"reversal": 1.0}),
    row(tl.domain.CDAN, *_RAMPS, entropy=False, limit=8, size=5),
    row(tl.domain.ADDA),
    row(tl.domain.MCD, *_RAMPS),
    row(tl.domain.MDD, {**_RAMPS[0], "margin": 2.0}, {**_RAMPS[1], "margin": 4.0}),
    row(tl.domain.BSP),
    row(tl.domain.MCC, {"temperature": 2.5}, {"temperature": 1.0}),
    row(tl.domain.EntropyMinimization),
    row(tl.domain.BNM),
    row(tl.domain.AFN, {"step": 1.0}, {"step": 0.3}),
    row(tl.domain.AFN, *_RADII),
    row(tl.domain.DeepJDOT, *_CARRIED, needs="ott"),
    row(tl.domain.AdaBN),
    row(tl.domain.CBST, {"portion": 0.3}, {"portion": 0.8}),
    row(tl.domain.CBST, *_PORTIONS, balanced=False),
    row(tl.domain.SHOT, *_HALVES, every=2),
    row(tl.domain.ClassWeightedCrossEntropy, *_MOMENTA),
    row(tl.domain.PartialDANN, *_PARTIAL),
]
