"""CDAN+E between digits by its authors' recipe: MNIST → USPS and USPS → MNIST.

All train images of both, the authors' LeNet with its dropout, SGD, ten passes over
MNIST of which the first is on the source alone (`tl.recipes.cdan_digits`). No label of
the target is used: every run keeps its last step.

Needs:     digits/mnist.npz and digits/usps.npz below the folder JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/cdan_digits.py
Expected:  target test accuracy, one seed on two cores: M → U 94.3 % in 6 minutes
           (published 95.6, Long et al., NeurIPS 2018). An earlier version, on images in
           [0, 1] in place of [−1, 1], had 92.5 %, and 96.9 % for U → M (published
           98.0), which is not measured on [−1, 1] yet.
"""

import jaxtl as tl

SEEDS = range(3)
LENET = tl.models.CNN(
    widths=(20, 50),
    kernel=5,
    padding="VALID",
    units=500,
    dropout=0.5,
    channel_dropout=0.5,
)
# Shares of the run at which the authors halve the rate.
PAIRS = {"M → U": ("mnist", "usps", (0.4, 0.9)), "U → M": ("usps", "mnist", (0.5,))}


def digits(name: str, **options) -> tl.data.Arrays:
    """All images at 28 × 28 in [−1, 1]."""
    scale = 2000 if name == "usps" else 255
    pre = tl.data.Preprocess(scale=scale, mean=0.5, std=0.5)
    path = f"digits/{name}.npz"
    return tl.data.Arrays(path, size=28, preprocess=pre, val=0, **options)


def experiment():
    return {
        pair: tl.Experiment(
            model=LENET,
            data=digits(target, labels=0),
            streams={"source": digits(source)},
            monitor=None,
            **tl.recipes.cdan_digits(halve_at=halve_at),
        )
        for pair, (source, target, halve_at) in PAIRS.items()
    }
