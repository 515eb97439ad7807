"""MNIST with 5 labels per class: what unlabelled digits add before the labels.

A small CNN learns from 5,500 digits by a term of `tl.selfsup`, without any label; then
from 50 labelled ones, with its body frozen ("linear") or not ("fine-tuned"). Beside it,
the same network from scratch on the 50 labels, and FixMatch, which reads both at once.

Needs:     digits/mnist.npz below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/selfsup_digits.py
Expected:  test accuracy % (10,000 digits), mean ± 95 % interval over 3 seeds (a seed
           draws the labels, the head and the order; pre-training has one seed):

             scratch              77.6 ± 5.7
             FixMatch             84.0 ± 11.1
             SimCLR, fine-tuned   79.0 ± 6.2
             SimCLR, linear       73.3 ± 7.9
             BYOL, fine-tuned     77.4 ± 4.3
             BYOL, linear         63.6 ± 0.9
             VICReg, fine-tuned   76.8 ± 7.0
             VICReg, linear       59.5 ± 7.1

           about 3 minutes of processor time on one core.

Fine-tuned after SimCLR is 1.4 points above scratch, BYOL 0.2 and VICReg 0.8 below it,
all within the intervals; features that stay frozen are below scratch. FixMatch has the
best mean, 84.0, and the widest interval. Neighbors of the same features do better: the
k-NN accuracy of the 10,000 test digits, each classified by the other ones with their
labels, is 91.2 (SimCLR), 86.5 (BYOL) and 86.4 % (VICReg). RankMe, which reads no label,
is 11.6, 7.4 and 7.8 dimensions of 64, and puts SimCLR first as well.

That is no verdict on the methods: 800 steps of 128 digits at 16 pixels and a network of
38,330 parameters, where the papers train for hundreds of epochs; nothing was tuned.
"""

import jaxtl as tl

SEEDS = range(3)
VIEWS = (
    tl.data.RandomResizedCrop(scale=(0.3, 1.0)),
    tl.data.GaussianBlur(sigma=(0.1, 1.0), share=0.2),
)
HEADS = {"projector": (128, 64), "views": VIEWS}
METHODS = {
    "SimCLR": tl.selfsup.SimCLR(**HEADS),
    "BYOL": tl.selfsup.BYOL(**HEADS, predictor=(64, 64), momentum=0.98),
    "VICReg": tl.selfsup.VICReg(**HEADS),
}
MODEL = tl.models.CNN(widths=(16, 32), units=64, norm=True)


def digits(**labels) -> tl.data.Arrays:
    """The first 6,000 digits at 16 pixels; test rows are the same for all."""
    return tl.data.Arrays(
        "digits/mnist.npz",
        size=16,
        limit=6000,
        val=500,
        test=1000,
        split_seed=0,
        **labels,
    )


def pretraining(term: tl.Term) -> tl.Experiment:
    """800 steps of a term that reads no label; k-NN and RankMe are only reported."""
    return tl.Experiment(
        model=MODEL,
        data=digits(labels=0),
        terms={"ssl": term},
        metrics={"knn": tl.metrics.KNNAccuracy(), "rankme": tl.metrics.RankMe()},
        monitor=None,
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=2e-3)),
        batch=128,
        steps=800,
    )


def experiment():
    few = dict(
        model=MODEL,
        data=digits(labels_per_class=5),
        monitor=None,
        batch={"target": 50, "unlabelled": 64},
        steps=100,
    )
    frozen = tl.optim.AdamW(lr=1e-2, groups={"head": 1.0, ".*": tl.FROZEN})
    strong = (tl.data.Crop(pad=2), tl.data.RandAugment(), tl.data.Cutout())
    fixmatch = tl.semi.FixMatch(threshold=0.8, strong=strong)
    variants = {
        "scratch": tl.Experiment(**few),
        "FixMatch": tl.Experiment(
            **{**few, "steps": 300},
            terms={"task": tl.losses.CrossEntropy(), "semi": fixmatch},
        ),
    }
    for name, term in METHODS.items():
        start = tl.Variant(f"{name}/pre-training", reset="head")
        variants[f"{name}/pre-training"] = pretraining(term)
        variants[f"{name}/linear"] = tl.Experiment(**few, init=start, optim=frozen)
        variants[f"{name}/fine-tuned"] = tl.Experiment(**few, init=start)
    return variants
