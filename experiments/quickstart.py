"""Rendered digits → handwritten digits, with 2, 5 and 10 labels per class.

A small CNN is pre-trained on digits drawn with fonts, then transferred to scanned
handwriting; pre-training sees no image of a person's writing. Test images are the same
for all seeds; a seed decides which images are labelled, the initial weights and the
order. Nothing is chosen on validation data during a run, so every label that a method
sees is counted in its column. Learning rates and weights of all methods, scratch too,
were chosen beforehand on the validation split, with other seeds:

    jaxtl run experiments/quickstart.py test=False SEEDS=100,101,102,103,104,105

Run:       jaxtl run experiments/quickstart.py
Expected:  test accuracy, mean ± 95 % interval over 5 seeds, with 2 / 5 / 10 labels per
           class: scratch 79.3 ± 6.1 / 84.9 ± 2.1 / 89.5 ± 4.7, fine-tuning 80.9 ± 3.3 /
           87.3 ± 4.4 / 91.4 ± 0.9 %; zero-shot 57.7 %. Some 75 s on 2 cores.
"""

import jaxtl as tl

SEEDS = range(5)
LABELS = (2, 5, 10)
BACKBONE = "block.*|hidden"


def experiment():
    model = tl.models.CNN(widths=(16, 32), units=64)
    fonts = tl.data.RenderedDigits()
    variants = {
        "source": tl.Experiment(
            model=model,
            data=fonts,
            optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3)),
            steps=300,
        )
    }
    for count in LABELS:
        data = tl.data.Digits(labels_per_class=count, val=0.3, split_seed=0)
        for name, settings in methods(fonts).items():
            variants[f"{count} per class/{name}"] = tl.Experiment(
                model=model,
                data=data,
                steps=0 if name == "zero-shot" else 200,
                monitor=None,
                **settings,
            )
    return variants


def methods(fonts):
    """The settings that differ between methods: start, trainable part, extra terms."""
    task = tl.losses.CrossEntropy()
    tuned = dict(init=tl.Variant("source"), optim=tl.optim.AdamW(lr=3e-3))
    head = tl.optim.AdamW(lr=1e-2, groups={BACKBONE: tl.FROZEN, "head": 1.0})
    l2sp = tl.regularizers.L2SP(weight=1e-3)
    jacobian = tl.regularizers.JacobianDifference(weight=1e-6)
    domain = tl.domain.DANN(weight=0.1)
    return {
        "scratch": dict(optim=tl.optim.AdamW(lr=1e-3)),
        "zero-shot": tuned,
        "feature extraction": dict(tuned, optim=head),
        "fine-tuning": tuned,
        "L2-SP": dict(tuned, terms={"task": task, "l2sp": l2sp}),
        "Jacobian difference": dict(tuned, terms={"task": task, "jacobian": jacobian}),
        "DANN": dict(
            tuned,
            streams={"source": fonts},
            terms={
                "task": task,
                "rendered": tl.losses.CrossEntropy(stream="source"),
                "domain": domain,
            },
        ),
    }
