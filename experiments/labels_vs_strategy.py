"""Feature extraction with few labels, fine-tuning with many: where do they cross?

USPS → MNIST and MNIST → USPS, a small convolutional network, 1 to 100 labels per class;
beside them training from scratch and classical methods on pixels, all on the same
labels. Learning rates are chosen on validation for each method and number of labels.

Needs:     digits/{usps,mnist}.npz below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl sweep experiments/labels_vs_strategy.py
           jaxtl report runs/sweep-labels_vs_strategy/TIME --baseline method=fine-tuning
Expected:  experiments/reports/labels_vs_strategy/report.md: 600 runs, 150 fits. Test
           accuracy, mean ± 95 % interval over 5 seeds, 1 / 10 / 100 labels per class:

           USPS → MNIST        scratch 47.3 ± 4.5 / 86.0 ± 1.7 / 94.5 ± 0.9
                    feature extraction 78.6 ± 2.7 / 89.6 ± 1.7 / 92.8 ± 0.4
                           fine-tuning 81.8 ± 3.8 / 92.9 ± 0.8 / 95.9 ± 0.5

They don't cross: with its rate chosen on validation, fine-tuning is level with feature
extraction at 1 label per class and ahead from 3 (USPS → MNIST) or 30 (MNIST → USPS)
on. What crosses is training from scratch: at 100 labels per class it beats feature
extraction on MNIST (negative transfer, 1.7 ± 0.7 points) and ties with fine-tuning. No
classical method comes near transfer below 30 labels per class. The rule of thumb may
still hold where rates can't be chosen: the 500 validation labels are more than most of
these targets have for training.
"""

import jaxtl as tl

MODEL = tl.models.CNN(widths=(16, 32), units=64)
SWEEP = {
    "method": {
        "scratch": {"init": None},
        "feature extraction": {"optim.groups": tl.optim.HeadOnly()},
        "fine-tuning": {},
    },
    "optim.lr": [3e-4, 1e-3, 3e-3, 1e-2],
    "data.labels_per_class": [1, 3, 10, 30, 100],
    "seed": range(5),
}
BASELINES = {
    "k-NN": tl.baselines.KNN(),
    "logistic regression": tl.baselines.LogisticRegression(),
    "SVM": tl.baselines.SVM(),
}


def source(data) -> tl.Experiment:
    """The experiment that trains a source model."""
    return tl.Experiment(
        model=MODEL,
        data=data,
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3), weight_decay=1e-3),
        augment=(tl.data.Crop(pad=2),),
        steps=600,
    )


def target(data, start: str) -> tl.Experiment:
    """The transfer to a target domain."""
    return tl.Experiment(
        model=MODEL,
        data=data,
        init=tl.Variant(start),
        steps=200,
        batch=32,
        evaluate_every=40,
        evaluate_batch=2000,
    )


def experiment():
    usps = dict(path="digits/usps.npz", scale=2000)
    mnist = dict(path="digits/mnist.npz", size=16)
    few = dict(val=500, split_seed=0)
    return {
        "usps": source(tl.data.Arrays(**usps)),
        "mnist": source(tl.data.Arrays(**mnist)),
        "usps → mnist": target(tl.data.Arrays(**mnist, **few), "usps"),
        "mnist → usps": target(tl.data.Arrays(**usps, **few), "mnist"),
    }
