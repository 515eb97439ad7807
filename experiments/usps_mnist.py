"""USPS → MNIST with 10 labels per class, a CIFAR-style ResNet at 16 × 16.

Both sets are scanned handwriting; sizes, pens and framing differ. The test sets are the
published ones, each evaluated once.

Needs:     digits/usps.npz and digits/mnist.npz below the folder JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/usps_mnist.py
Expected:  MNIST test accuracy in %, mean ± 95 % interval over 3 seeds; about 3.5
           minutes of CPU time on 2 cores (zero-shot has one source):

           scratch              69.5 ± 11.4
           zero-shot            81.9
           feature extraction   91.5 ± 3.1
           fine-tuning          94.9 ± 1.7
           L2-SP                94.9 ± 1.7
"""

import jaxtl as tl

SEEDS = range(3)


def experiment():
    model = tl.models.ResNet(depth=8, width=16)
    mnist = tl.data.Arrays(
        "digits/mnist.npz", size=16, labels_per_class=10, val=1000, split_seed=0
    )
    task = tl.losses.CrossEntropy()
    shared = dict(model=model, data=mnist, steps=300, batch=64, monitor=None)
    usps = tl.Experiment(
        model=model,
        data=tl.data.Arrays("digits/usps.npz", scale=2000, val=0.1),
        optim=tl.optim.AdamW(
            lr=tl.optim.Cosine(peak=3e-3, warmup=50), weight_decay=1e-3
        ),
        augment=(tl.data.Crop(pad=2),),
        steps=600,
        batch=64,
    )
    tuned = dict(init=tl.Variant("usps"), optim=tl.optim.AdamW(lr=1e-3))
    return {
        "usps": usps,
        "scratch": tl.Experiment(**shared, optim=tl.optim.AdamW(lr=3e-3)),
        "zero-shot": tl.Experiment(**{**shared, "steps": 0}, init=tl.Variant("usps")),
        "feature extraction": tl.Experiment(
            **shared,
            init=tl.Variant("usps"),
            optim=tl.optim.AdamW(lr=1e-2, groups={"head": 1.0, ".*": tl.FROZEN}),
        ),
        "fine-tuning": tl.Experiment(**shared, **tuned),
        "L2-SP": tl.Experiment(
            **shared,
            **tuned,
            terms={"task": task, "l2sp": tl.regularizers.L2SP(weight=1e-3)},
        ),
    }
