"""The contract's rows of noisy and weak labels."""

from rows import row

import jaxtl as tl

_T = ((0.8, 0.1, 0.1), (0.0, 0.9, 0.1), (0.2, 0.0, 0.8))
_DIVIDE = [
    dict(
        warmup=warmup,
        threshold=threshold,
        temperature=temperature,
        unlabelled=unlabelled,
        ramp=ramp,
        alpha=alpha,
        penalty=penalty,
    )
    for warmup, threshold, temperature, unlabelled, ramp, alpha, penalty in (
        (0.1, 0.5, 0.5, 25.0, 0.1, 4.0, 1.0),
        (0.3, 0.6, 0.7, 5.0, 0.2, 2.0, 0.5),
    )
]
_TEACH = [{"forget": 0.4, "ramp": 0.5}, {"forget": 0.2, "ramp": 0.1}]
ROWS = [
    row(tl.noisy.ForwardCorrection, transition=_T),
    row(tl.noisy.BackwardCorrection, transition=_T),
    row(tl.noisy.GCE, {"q": 0.7, "threshold": 0.1}, {"q": 0.3, "threshold": 0.0}),
    row(tl.noisy.SCE, {"alpha": 0.1, "beta": 1.0}, {"alpha": 6.0, "beta": 0.1}),
    row(tl.noisy.ELR, {"strength": 3.0, "beta": 0.7}, {"strength": 1.0, "beta": 0.9}),
    row(tl.noisy.CoTeaching, *_TEACH),
    row(tl.noisy.DivideMix, *_DIVIDE, every=2),
    row(tl.noisy.PRODEN, task="multilabel"),
    row(
        tl.noisy.NNPU,
        {"prior": 0.4, "beta": 0.1, "gamma": 1.0},
        {"prior": 0.6, "beta": 0.0, "gamma": 0.5},
    ),
    row(tl.noisy.LabelProportions),
]
