"""Small models of every family with inputs, for tests of several rooms."""

import numpy as np

from jaxtl.models import (
    CNN,
    GPT2,
    MLP,
    VGG,
    BEiT,
    Bert,
    BiEncoder,
    CLIPText,
    CLIPVision,
    ConvNeXt,
    DeiT,
    DINOv2,
    EfficientNet,
    Llama,
    MobileNet,
    MobileNetV2,
    RegNet,
    ResNet,
    ResNetImageNet,
    SiglipVision,
    Swin,
    ViT,
)

rng = np.random.default_rng(0)
VECTORS = rng.normal(size=(4, 6)).astype(np.float32)
IMAGES = rng.normal(size=(4, 16, 16, 3)).astype(np.float32)
LARGER = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
TEXT = {
    "input_ids": rng.integers(0, 29, (4, 7)).astype(np.int32),
    "attention_mask": np.arange(7) < np.array([[7], [3], [1], [5]]),
}
PAIRS = {name: np.stack([x, x[::-1]], axis=1) for name, x in TEXT.items()}
SMALL = {"vocab": 29, "width": 16, "layers": 2, "heads": 4, "context": 9}
DROPS = {**SMALL, "dropout": 0.2}
VIT = {"size": 16, "patch": 4, "width": 16, "layers": 2, "heads": 4, "hidden": 20}
SWIN = {"size": 16, "patch": 2, "width": 8, "window": 3}
BARE = {key: value for key, value in VIT.items() if key != "hidden"}

MODELS = {
    "mlp": (MLP(outputs=3, widths=(8, 5), dropout=0.2), VECTORS),
    "cnn": (CNN(outputs=3, widths=(4, 8), units=9, norm=True, dropout=0.2), IMAGES),
    "resnet-cifar": (ResNet(outputs=3, depth=8, width=4), IMAGES),
    "resnet": (
        ResNetImageNet(outputs=3, sizes=(1, 1, 1, 1), bottleneck=False, width=4),
        IMAGES,
    ),
    "bottleneck": (ResNetImageNet(outputs=3, sizes=(1, 1, 1, 1), width=4), IMAGES),
    "mobilenet": (MobileNet(outputs=3, alpha=0.125, dropout=0.2), LARGER),
    "mobilenet-v2": (MobileNetV2(outputs=3, alpha=0.125, least=4, divisor=4), LARGER),
    "efficientnet": (
        EfficientNet(
            outputs=3,
            width=4,
            widths=(4, 6),
            sizes=(1, 2),
            kernels=(3, 5),
            strides=(1, 2),
            expansions=(1, 2),
            top_width=8,
        ),
        IMAGES,
    ),
    "regnet": (
        RegNet(
            outputs=3,
            width=16,
            widths=(16, 24),
            sizes=(1, 2),
            group_width=8,
            activation="silu",
        ),
        IMAGES,
    ),
    "convnext": (
        ConvNeXt(
            outputs=3,
            patch=2,
            widths=(4, 8),
            sizes=(1, 2),
            layer_scale=0.5,
            response_norm=True,
            drop_path=0.5,
        ),
        IMAGES,
    ),
    "vgg": (
        VGG(outputs=3, depth=11, width=4, hidden=8, pooled=2, norm=True),
        LARGER,
    ),
    "vit": (ViT(outputs=3, dropout=0.2, **VIT), IMAGES),
    "clip-vision": (CLIPVision(outputs=3, pooling="first", **VIT), IMAGES),
    "siglip-vision": (SiglipVision(outputs=3, pooling="attention", **VIT), IMAGES),
    "deit": (DeiT(outputs=3, dropout=0.2, distilled=True, **VIT), IMAGES),
    "dinov2": (
        DINOv2(
            outputs=3,
            gated=True,
            registers=2,
            ratio=1,
            dropout=0.2,
            has_mask=False,
            **BARE,
        ),
        IMAGES,
    ),
    "swin": (Swin(outputs=3, dropout=0.2, sizes=(2, 1), heads=(2, 2), **SWIN), IMAGES),
    "beit": (
        BEiT(outputs=3, relative=True, has_relative=True, drop_path=0.5, **VIT),
        IMAGES,
    ),
    "bert": (Bert(outputs=3, hidden=20, **DROPS), TEXT),
    "bert-mean": (Bert(outputs=3, hidden=20, pooling="mean", **DROPS), TEXT),
    "bert-token": (Bert(outputs=3, hidden=20, predict="token", **DROPS), TEXT),
    "roberta": (
        Bert(outputs=3, hidden=20, pooling="first", inner=True, offset=2, **DROPS),
        TEXT,
    ),
    "clip-text": (CLIPText(outputs=3, hidden=20, end=None, **SMALL), TEXT),
    "gpt2": (GPT2(**DROPS), TEXT),
    "llama-tied": (Llama(hidden=20, tied=True, rope_pairs=True, **SMALL), TEXT),
    "llama-class": (
        Llama(outputs=3, hidden=20, kv_heads=2, predict="class", **SMALL),
        TEXT,
    ),
}
# Compare two texts by a head without parameters.
COMPARED = {
    "bi-encoder": (
        BiEncoder(
            encoder=Bert(hidden=20, **{**DROPS, "layers": 1}),
            dense_width=6,
            normalize=True,
        ),
        PAIRS,
    ),
}


def filled(path, shape, rng):
    """Random values of a sensible size: no norm at 1, no statistic at 0."""
    kind, spread = path.rsplit("/", 1)[-1], rng.normal(size=shape.shape)
    if kind in ("scale", "var"):
        return np.float32(1 + 0.2 * np.abs(spread))
    fan = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 25
    return np.float32(spread / np.sqrt(fan))
