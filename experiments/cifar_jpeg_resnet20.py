"""CIFAR-10 weights to JPEG-degraded CIFAR-10: two epochs on 10,000 images.

The published ResNet-20 (91.7 % on the original images) loses ten points on JPEG copies
of quality 75. Two epochs of fine-tuning win back half of them; scratch stands beside.

Needs:     cifar10/cifar10_jpeg_{train10k,test10k}.npz and pretrained/resnet20-
           12fca82f.safetensors below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/cifar_jpeg_resnet20.py
"""

import jaxtl as tl

SEEDS = range(3)
EPOCH = 10_000 // 128


def experiment():
    shared = dict(
        model=tl.models.ResNet(depth=20),
        data=tl.data.Arrays(
            "cifar10/cifar10_jpeg_train10k.npz",
            test_path="cifar10/cifar10_jpeg_test10k.npz",
            val=0,
        ),
        augment=(tl.data.Flip(), tl.data.Crop(pad=4)),
        batch=128,
        monitor=None,
    )
    published = tl.pretrained.File("pretrained/resnet20-12fca82f.safetensors")

    def sgd(lr):
        return tl.optim.SGD(lr=tl.schedules.Cosine(peak=lr), weight_decay=1e-4)

    return {
        "as published": tl.Experiment(**shared, init=published, steps=0),
        "fine-tuning": tl.Experiment(
            **shared, init=published, steps=2 * EPOCH, optim=sgd(0.01)
        ),
        "scratch": tl.Experiment(**shared, steps=2 * EPOCH, optim=sgd(0.1)),
    }
