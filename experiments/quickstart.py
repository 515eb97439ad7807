"""Rendered digits → handwritten digits, with 2, 5 and 10 labels per class.

A small CNN is pre-trained on digits drawn with fonts, then transferred to scanned
handwriting. No image of a person's writing is seen in pre-training. Settings are the
same in every column and were fixed beforehand; there is no choosing on validation data,
so every label that a method sees is counted in its column.

Run:       jaxtl run experiments/quickstart.py
"""

import jaxtl as tl

SEEDS = range(5)
LABELS = (2, 5, 10)
BACKBONE = "block.*|hidden"


def experiment():
    model = tl.models.CNN(widths=(16, 32), units=64)
    fonts = tl.data.RenderedDigits()
    shared = {"model": model, "batch": 64, "monitor": None}
    variants = {
        "source": tl.Experiment(
            **{**shared, "monitor": "auto"},
            data=fonts,
            optim=tl.optim.AdamW(lr=tl.schedules.Cosine(peak=3e-3)),
            steps=1500,
        )
    }
    task = tl.losses.CrossEntropy()
    source = tl.Variant("source")
    for count in LABELS:
        digits = tl.data.Digits(labels_per_class=count, split_seed=0)
        target = dict(
            **shared,
            data=digits,
            steps=200,
            optim=tl.optim.AdamW(lr=1e-3),
            terms={"task": task},
        )
        methods = {
            "scratch": {},
            "zero-shot": {"init": source, "steps": 0},
            "feature extraction": {
                "init": source,
                "optim": tl.optim.AdamW(
                    lr=1e-3, groups={BACKBONE: tl.FROZEN, "head": 1.0}
                ),
            },
            "fine-tuning": {"init": source},
            "L2-SP": {
                "init": source,
                "terms": {"task": task, "l2sp": tl.regularizers.L2SP(weight=0.1)},
            },
            "Jacobian difference": {
                "init": source,
                "terms": {
                    "task": task,
                    "jacobian": tl.regularizers.JacobianDifference(weight=0.01),
                },
            },
            "DANN": {
                "init": source,
                "streams": {"source": fonts},
                "terms": {
                    "task": task,
                    "rendered": tl.losses.CrossEntropy(stream="source"),
                    "domain": tl.domain.DANN(weight=0.3),
                },
            },
        }
        for name, settings in methods.items():
            variants[f"{count} per class/{name}"] = tl.Experiment(
                **{**target, **settings}
            )
    return variants
