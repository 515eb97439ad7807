"""CIFAR-10 with 40 and 250 labels in all: what thousands of images without one add.

JPEG copies of CIFAR-10's test images, which ResNet-20's weights never saw, cut into
labelled, unlabelled (8,500 or more), validation and test images. The weights of its
body are CIFAR-10's own, its head is new; or everything starts from scratch. As many
validation images as labels choose between the checkpoints after 40 and 80 steps.

Needs:     cifar10/cifar10_jpeg_test10k.npz and pretrained/resnet20-12fca82f.safetensors
           below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/fixmatch_cifar.py
Expected:  test accuracy (1,000 images), mean ± 95 % interval over 3 seeds (a seed draws
           the labels, the head and the order; all methods see the same labels):

                          ResNet-20's weights         scratch
                          40 labels    250 labels     250 labels
           supervised     73.6 ± 6.3   80.8 ± 4.2     29.1 ± 4.0
           mean teacher   73.7 ± 4.6   80.9 ± 3.7     –
           FixMatch       74.9 ± 1.7   80.4 ± 4.4     28.7 ± 1.6
           FreeMatch      74.2 ± 8.0   80.4 ± 5.8     –

           9 seconds of training per supervised run and 25 with unlabelled images on one
           core, compiling and evaluating aside.

Nothing here separates from the supervised model. With 40 labels all three are ahead on
average, FixMatch by 1.3 points; with 250, and from scratch, FixMatch is 0.4 points
behind, FreeMatch as well with 250 (negative transfer, within the intervals). The
weights are worth fifty points, the unlabelled images about one.

That is no verdict on the methods: the budget is 80 steps of 20 + 32 images, where
FixMatch's paper takes 2²⁰ steps of 64 + 448, over a hundred thousand times as many
images, with a Wide ResNet-28-2. From scratch 80 steps don't begin to learn. Thresholds
of 0.8 and moving averages of 0.97 and 0.9 are below the papers' 0.95, 0.999 and 0.999,
which 80 steps would not reach; the rate of the head was chosen between two on another
seed's validation images, nothing else was tuned.
"""

import jaxtl as tl

SEEDS = range(3)
STEPS = 80
METHODS = {
    "supervised": None,
    "mean teacher": tl.semi.MeanTeacher(
        weight=tl.optim.GaussianRamp(final=10.0, end=0.3), decay=0.97
    ),
    "FixMatch": tl.semi.FixMatch(threshold=0.8),
    "FreeMatch": tl.semi.FreeMatch(momentum=0.9, fairness=0.01),
}


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
    groups = {"head": 100.0, ".*": 1.0} if transferred else {".*": 10.0}
    return tl.Experiment(
        model=tl.models.ResNet(depth=20),
        data=data,
        init=weights if transferred else None,
        terms={"task": tl.losses.CrossEntropy()} | ({"semi": term} if term else {}),
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-4), groups=groups),
        augment=(tl.data.Flip(), tl.data.Crop(pad=4)),
        batch={"target": 20, "unlabelled": 32},
        steps=STEPS,
        evaluate_every=STEPS // 2,
    )


def experiment():
    cells = [(True, labels, name) for labels in (40, 250) for name in METHODS]
    cells += [(False, 250, name) for name in ("supervised", "FixMatch")]
    return {
        f"{'ResNet-20' if transferred else 'scratch'}/{labels}/{name}": experiment_of(
            labels, transferred, METHODS[name]
        )
        for transferred, labels, name in cells
    }
