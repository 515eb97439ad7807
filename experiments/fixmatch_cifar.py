"""CIFAR-10 with 40 and 250 labels in all: what thousands of images without one add.

JPEG copies of CIFAR-10's test images, which ResNet-20's weights never saw, cut into
labelled, unlabelled (8,500 or more), validation and test images. 250 labels train from
scratch; 40 fine-tune the published ResNet-20, whose body is CIFAR-10's own and whose
head is new. As many validation images as labels choose between four checkpoints of the
moving average (0.999, as in FixMatch's program).

Needs:     cifar10/cifar10_jpeg_test10k.npz and pretrained/resnet20-12fca82f.safetensors
           below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl sweep experiments/fixmatch_cifar.py --mode alone
Expected:  not measured yet: 2,000 steps of 32 + 224 images take an hour a run on two
           cores. 80 steps of 20 + 32 told no method from the supervised model: with
           250 labels 29.1 ± 4.0 % from scratch and 80.8 ± 4.2 % from the weights.

Thresholds and moving averages are the papers' (FixMatch 0.95, FreeMatch 0.999); the
mean teacher averages over 100 steps (0.99). From scratch the optimizer is FixMatch's,
SGD with Nesterov momentum and rate 0.03; its paper takes 2²⁰ steps of 64 + 448 images
with a Wide ResNet-28-2.
"""

import jaxtl as tl

SEEDS = range(3)
SWEEP = {"seed": SEEDS}
STEPS = 2000
# The papers take 64 labelled images and 7 times as many without a label.
BATCH = {"target": 32, "unlabelled": 224}
METHODS = {
    "supervised": None,
    "mean teacher": tl.semi.MeanTeacher(
        weight=tl.optim.GaussianRamp(final=10.0, end=0.3), decay=0.99
    ),
    "FixMatch": tl.semi.FixMatch(threshold=0.95),
    "FreeMatch": tl.semi.FreeMatch(momentum=0.999, fairness=0.01),
}
# FixMatch's optimizer for training from scratch; a small rate and a fast head from
# weights.
SCRATCH = tl.optim.SGD(
    lr=tl.optim.Cosine(peak=0.03),
    weight_decay=5e-4,
    nesterov=True,
    coupled_decay=True,
)
FINE_TUNING = tl.optim.AdamW(
    lr=tl.optim.Cosine(peak=3e-4), groups={"head": 100.0, ".*": 1.0}
)


def experiment_of(labels: int, transferred: bool, term) -> tl.Experiment:
    """One cell of the table.

    Args:
      labels: number of labelled images.
      transferred: start from the published weights; otherwise from scratch.
      term: the method's term, or None.
    """
    data = tl.data.Arrays(
        "cifar10/cifar10_jpeg_test10k.npz",
        labels_per_class=labels // 10,
        val=labels,
        test=1000,
        split_seed=0,
    )
    weights = tl.pretrained.FromFile(
        "pretrained/resnet20-12fca82f.safetensors", reset="head"
    )
    return tl.Experiment(
        model=tl.models.ResNet(depth=20),
        data=data,
        init=weights if transferred else None,
        terms={"task": tl.losses.CrossEntropy()} | ({"semi": term} if term else {}),
        optim=FINE_TUNING if transferred else SCRATCH,
        average=tl.optim.EMA(decay=0.999),
        augment=(tl.data.Flip(), tl.data.Crop(pad=4)),
        batch=BATCH,
        steps=STEPS,
        evaluate_every=STEPS // 4,
    )


def experiment():
    starts = {"scratch/250": (False, 250), "ResNet-20/40": (True, 40)}
    return {
        f"{start}/{name}": experiment_of(labels, transferred, term)
        for start, (transferred, labels) in starts.items()
        for name, term in METHODS.items()
    }
