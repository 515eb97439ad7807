"""Models: staged linen networks, and any pure (init, apply) pair through `foreign`."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "MLP": "mlp",
        "CNN": "cnn",
        "ResNet": "resnet_cifar",
        "ResNetImageNet": "resnet",
        "MobileNet": "mobilenet",
        "VGG": "vgg",
        "ViT": "vit",
        "Bert": "bert",
        "GPT2": "gpt2",
        "Llama": "llama",
        "generate": "decoder",
        "Staged": "base",
        "foreign": "base",
    },
)
