"""LP-FT: the head first, then everything, from rendered to handwritten digits.

Fine-tuning from a random head distorts the features while the head is still wrong;
training the head alone first avoids it (Kumar et al., Fine-Tuning can Distort
Pretrained Features, ICLR 2022). The head is re-initialized here, as for new classes.

Run:       jaxtl run experiments/lpft.py
"""

import dataclasses

import jaxtl as tl

SEEDS = range(5)


def experiment():
    model = tl.models.CNN(widths=(16, 32), units=64)
    source = tl.Experiment(
        model=model,
        data=tl.data.RenderedDigits(),
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-3)),
        steps=300,
    )
    tuned = tl.Experiment(
        model=model,
        data=tl.data.Digits(labels_per_class=5, split_seed=0),
        init=tl.Variant("source", reset="head"),
        optim=tl.optim.AdamW(lr=1e-3),
        steps=200,
        monitor=None,
    )
    probe = dataclasses.replace(
        tuned,
        optim=tl.optim.AdamW(lr=1e-2, groups={"head": 1.0, ".*": tl.FROZEN}),
    )
    return {
        "source": source,
        "fine-tuning": tuned,
        "linear probe": probe,
        "LP-FT": dataclasses.replace(
            tuned, init=tl.Variant("linear probe", per_seed=True)
        ),
    }
