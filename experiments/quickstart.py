"""Drawn digits → handwritten digits, with 2, 5 and 10 labels per class.

A small CNN is pre-trained on digits that a program draws with a pen, then transferred
to scanned handwriting; pre-training sees no image of a person's writing. Test images
are the same for all seeds; a seed decides which images are labelled, the initial
weights and the order. Nothing is chosen on validation data during a run, so every label
that a method sees is counted in its column. Learning rates and weights of all methods,
scratch too, and the ranges of the drawings were chosen beforehand on the validation
split, with other seeds:

    jaxtl run experiments/quickstart.py test=False SEEDS=100,101,102,103,104,105

Run:       jaxtl run experiments/quickstart.py
Expected:  test accuracy in %, mean ± 95 % interval over 5 seeds, in some 90 s on 2
           cores:

           labels per class            2 each       5 each       10 each
           scratch                     79.3 ± 6.1   85.0 ± 2.1   89.5 ± 4.7
           zero-shot                   86.4         86.4         86.4
           feature extraction          86.8 ± 1.8   89.0 ± 2.5   91.7 ± 1.0
           fine-tuning                 88.4 ± 1.3   90.9 ± 2.2   93.8 ± 0.8
           L2-SP                       88.1 ± 1.6   90.5 ± 1.7   93.3 ± 0.8
           Jacobian difference         89.2 ± 1.8   91.3 ± 1.6   93.4 ± 0.9
           MCC, on unlabelled images   92.0 ± 0.6   92.0 ± 1.1   94.2 ± 0.7
"""

import jaxtl as tl

SEEDS = range(5)
LABELS = (2, 5, 10)
BACKBONE = "block.*|hidden"


def experiment():
    model = tl.models.CNN(widths=(16, 32), units=64)
    drawn = tl.data.PenDigits()
    variants = {
        "source": tl.Experiment(
            model=model,
            data=drawn,
            optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3)),
            steps=300,
        )
    }
    for count in LABELS:
        data = tl.data.Digits(labels_per_class=count, val=0.3, split_seed=0)
        for name, settings in methods().items():
            variants[f"{count} per class/{name}"] = tl.Experiment(
                model=model,
                data=data,
                steps=0 if name == "zero-shot" else 200,
                monitor=None,
                **settings,
            )
    return variants


def methods():
    """The settings that differ between methods: start, trainable part, extra terms."""
    task = tl.losses.CrossEntropy()
    tuned = dict(init=tl.Variant("source"), optim=tl.optim.AdamW(lr=1e-3))
    head = tl.optim.AdamW(lr=3e-3, groups={BACKBONE: tl.FROZEN, "head": 1.0})
    l2sp = tl.regularizers.L2SP(weight=1e-2)
    jacobian = tl.regularizers.JacobianDifference(weight=1e-4)
    unlabelled = tl.domain.MCC(weight=1.0)
    return {
        "scratch": dict(optim=tl.optim.AdamW(lr=1e-3)),
        "zero-shot": tuned,
        "feature extraction": dict(tuned, optim=head),
        "fine-tuning": tuned,
        "L2-SP": dict(tuned, terms={"task": task, "l2sp": l2sp}),
        "Jacobian difference": dict(tuned, terms={"task": task, "jacobian": jacobian}),
        "MCC": dict(tuned, terms={"task": task, "unlabelled": unlabelled}),
    }
