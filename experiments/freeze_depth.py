"""How deep to freeze: accuracy and cost against the cut.

ResNet-20 of CIFAR-10 on JPEG copies of images that it never saw, 25 labels per class;
frozen stages are run once and cached (`jaxtl show` says how much that saves).

Needs:     cifar10/cifar10_jpeg_test10k.npz and pretrained/resnet20-12fca82f.safetensors
           below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/freeze_depth.py
Expected:  test accuracy, mean ± 95 % interval over 5 seeds; what a step costs by XLA's
           count (result.json: flops_per_step, optimizer_bytes, "cache"):

           frozen        accuracy     trained   MFLOP a step   optimizer
           nothing       79.5 ± 0.6   269,722   10,052         2,158 kB
           stem          79.9 ± 0.8   269,258    9,700         2,154 kB
           up to stage1  81.0 ± 0.6   255,242    6,796         2,042 kB
           up to stage2  82.9 ± 0.5   204,170    3,223         1,633 kB
           up to stage3  82.0 ± 0.1       650        0.15          5 kB

With the rate of 3e-4 for every cut, which was not chosen for each. With 25 labels per
class and a source of the same classes, less freedom is better down to the last stage:
training stage3 and the head beats training all by three points at a third of the
arithmetic. The head alone is a point below that and costs next to nothing.
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
            init=tl.pretrained.FromFile("pretrained/resnet20-12fca82f.safetensors"),
            optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=3e-4), groups=groups),
            batch=50,
            steps=100,
            evaluate_every=50,
        )

    return {name: frozen(pattern) for name, pattern in CUTS.items()}
