"""How deep to freeze: accuracy and cost against the cut.

ResNet-20 of CIFAR-10 on JPEG copies of images that it never saw, 25 labels per class;
frozen stages are run once and cached (`jaxtl show` says how much that saves).

Needs:     cifar10/cifar10_jpeg_test10k.npz and pretrained/resnet20-12fca82f.safetensors
           below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/freeze_depth.py
Expected:  TODO
"""

import jaxtl as tl

SEEDS = range(5)
CUTS = {
    "nothing": None,
    "stem": "stem",
    "up to stage1": "stem|stage1",
    "up to stage2": "stem|stage[12]",
    "up to stage3": "stem|stage.",
}


def experiment():
    data = tl.data.Arrays(
        "cifar10/cifar10_jpeg_test10k.npz",
        labels_per_class=25,
        val=1000,
        test=5000,
        split_seed=0,
    )

    def frozen(pattern):
        groups = {pattern: tl.FROZEN, ".*": 1.0} if pattern else {".*": 1.0}
        return tl.Experiment(
            model=tl.models.ResNet(depth=20),
            data=data,
            init=tl.pretrained.File("pretrained/resnet20-12fca82f.safetensors"),
            optim=tl.optim.AdamW(lr=tl.schedules.Cosine(peak=3e-4), groups=groups),
            batch=50,
            steps=100,
            evaluate_every=50,
        )

    return {name: frozen(pattern) for name, pattern in CUTS.items()}
