"""CIFAR-10 weights to JPEG-degraded CIFAR-10: two epochs on 10,000 or 50,000 images.

The published ResNet-20 (91.7 % on the original images) loses ten points on JPEG copies
of quality 75. Two epochs of fine-tuning win back half of them; scratch stands beside.

Needs:     cifar10/cifar10_jpeg_{train10k,train40k_rest,test10k}.npz and pretrained/
           resnet20-12fca82f.safetensors below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/cifar_jpeg_resnet20.py
Expected:  test accuracy, mean ± 95 % interval over 3 seeds: as published 81.0,
           fine-tuning on 10,000 images 85.8 ± 0.3 (batch 128) and 85.6 ± 0.1 (batch
           64), on all 50,000 87.4 ± 0.4, scratch on 10,000 38.8 ± 5.3 %. Both batch
           sizes are shown because nothing chose between them: the network was
           pre-trained on the originals of any image that could be held out for
           validation. 50 minutes on 2 busy cores.
"""

import jaxtl as tl

SEEDS = range(3)
FEW, ALL = 10_000, 50_000


def images(*parts):
    return tl.data.Arrays(
        tuple(f"cifar10/cifar10_jpeg_{part}.npz" for part in parts),
        test_path="cifar10/cifar10_jpeg_test10k.npz",
        val=0,
    )


def experiment():
    shared = dict(
        model=tl.models.ResNet(depth=20),
        data=images("train10k"),
        augment=(tl.data.Flip(), tl.data.Crop(pad=4)),
        monitor=None,
    )
    published = tl.pretrained.FromFile("pretrained/resnet20-12fca82f.safetensors")

    def two_epochs(lr, batch, count=FEW):
        rate = tl.optim.Cosine(peak=lr)
        return dict(
            batch=batch,
            steps=2 * (count // batch),
            optim=tl.optim.SGD(lr=rate, weight_decay=1e-4),
        )

    return {
        "as published": tl.Experiment(**shared, init=published, steps=0),
        "fine-tuning, batch 128": tl.Experiment(
            **shared, init=published, **two_epochs(0.01, 128)
        ),
        "fine-tuning, batch 64": tl.Experiment(
            **shared, init=published, **two_epochs(0.01, 64)
        ),
        "fine-tuning, all images": tl.Experiment(
            **{**shared, "data": images("train10k", "train40k_rest")},
            init=published,
            **two_epochs(0.01, 128, ALL),
        ),
        "scratch": tl.Experiment(**shared, **two_epochs(0.1, 128)),
    }
