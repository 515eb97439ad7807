"""Feature extraction with few labels, fine-tuning with many: where do they cross?

USPS → MNIST and MNIST → USPS, a small convolutional network, 1 to 100 labels per class;
beside them training from scratch and classical methods on pixels, all on the same
labels. Learning rates are chosen on validation for each method and number of labels.

Needs:     digits/{usps,mnist}.npz below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl sweep experiments/labels_vs_strategy.py
Expected:  TODO
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
    """Returns what is trained on the source domain."""
    return tl.Experiment(
        model=MODEL,
        data=data,
        optim=tl.optim.AdamW(lr=tl.schedules.Cosine(peak=3e-3), weight_decay=1e-3),
        augment=(tl.data.Crop(pad=2),),
        steps=600,
    )


def target(data, start: str) -> tl.Experiment:
    """Returns the transfer."""
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
