"""JPEG-CIFAR with 250 labels: pre-training on 10,000 images without any label.

A body learns from 9,500 images by a term of `tl.selfsup`; then from 25 labels per
class, with the body frozen ("linear") or not ("fine-tuned"). Beside it the same network
from scratch on the 250 labels, and FixMatch, which reads both at once. The network is
ResNet-20, of MAE a vision transformer of 6 layers on patches of 4 pixels. The last
checkpoint is tested, so that nothing is chosen by a label.

From the papers are SimCLR's temperature (0.5) and strength of color (0.5) for small
images, the weights of VICReg's loss, MAE's share of hidden patches, weight decay and
β₂, and FixMatch's batch, threshold and rate. The rest was set here and not tuned: AdamW
with a rate of 1e-3 for every method, the widths of the heads, BYOL's momentum of 0.99,
the sizes of the vision transformer and of MAE's decoder, and all numbers of steps.

Needs:     cifar10/cifar10_jpeg_{train10k,test10k}.npz below the folder that
           JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/selfsup_cifar.py
Expected:  no figures yet: it needs a GPU and has not been run in full.
"""

import jaxtl as tl

SEEDS = range(3)
STEPS = 2000  # of pre-training, 256 images each
HEADS = {"projector": (256, 128)}
METHODS = {
    "rotation": tl.selfsup.RotationPrediction(),
    "SimCLR": tl.selfsup.SimCLR(**HEADS, temperature=0.5),
    "BYOL": tl.selfsup.BYOL(**HEADS, predictor=(256, 128), momentum=0.99),
    "VICReg": tl.selfsup.VICReg(projector=(512, 512, 512)),
    "MAE": tl.selfsup.MAE(width=128, layers=2, heads=4),
}
RESNET = tl.models.ResNet(depth=20)
VIT = tl.models.ViT(
    size=32, patch=4, width=192, layers=6, heads=3, hidden=768, pooling="mean"
)
WEAK = (tl.data.Flip(), tl.data.Crop(pad=4))


def images(**labels) -> tl.data.Arrays:
    """10,000 train images, of which 500 are validation images for all seeds."""
    return tl.data.Arrays(
        "cifar10/cifar10_jpeg_train10k.npz",
        test_path="cifar10/cifar10_jpeg_test10k.npz",
        val=500,
        split_seed=0,
        **labels,
    )


def pretraining(model, term: tl.Term) -> tl.Experiment:
    """Training by a term that reads no label; the k-NN accuracy is only reported."""
    decay = 0.05 if isinstance(term, tl.selfsup.MAE) else 1e-4
    cropped = isinstance(term, tl.selfsup.MAE | tl.selfsup.RotationPrediction)
    return tl.Experiment(
        model=model,
        data=images(labels=0),
        terms={"ssl": term},
        metrics={"knn": tl.metrics.KNNAccuracy()},
        monitor=None,
        optim=tl.optim.AdamW(
            lr=tl.optim.Cosine(peak=1e-3, warmup=100), b2=0.95, weight_decay=decay
        ),
        augment=WEAK if cropped else (),
        batch=256,
        steps=STEPS,
        evaluate_every=STEPS,
    )


def few_labels(model, **settings) -> tl.Experiment:
    """Training on 250 labels."""
    defaults = dict(
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=1e-3), weight_decay=1e-4),
        steps=500,
        batch=64,
    )
    return tl.Experiment(
        model=model,
        data=images(labels_per_class=25),
        monitor=None,
        augment=WEAK,
        evaluate_every=10_000,
        **{**defaults, **settings},
    )


def experiment():
    frozen = {"head": 1.0, ".*": tl.FROZEN}
    linear = tl.optim.AdamW(lr=tl.optim.Cosine(peak=1e-2), groups=frozen)
    sgd = tl.optim.SGD(lr=tl.optim.Cosine(peak=0.03), nesterov=True, weight_decay=5e-4)
    fixmatch = {"task": tl.losses.CrossEntropy(), "semi": tl.semi.FixMatch()}
    variants = {}
    for name, term in METHODS.items():
        model = VIT if name == "MAE" else RESNET
        start = tl.Variant(f"{name}/pre-training", reset="head", per_seed=True)
        variants[f"{name}/pre-training"] = pretraining(model, term)
        variants[f"{name}/linear"] = few_labels(model, init=start, optim=linear)
        variants[f"{name}/fine-tuned"] = few_labels(model, init=start)
    variants["scratch"] = few_labels(RESNET)
    variants["ViT from scratch"] = few_labels(VIT)
    variants["FixMatch"] = few_labels(
        RESNET,
        terms=fixmatch,
        optim=sgd,
        steps=1500,
        batch={"target": 64, "unlabelled": 448},
    )
    return variants
