"""Models: staged linen networks, and any pure (init, apply) pair through `foreign`."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from . import merging as merging
    from .bert import Bert as Bert
    from .causal_lm import generate as generate
    from .cnn import CNN as CNN
    from .gpt2 import GPT2 as GPT2
    from .llama import Llama as Llama
    from .mlp import MLP as MLP
    from .mobilenet import MobileNet as MobileNet
    from .plain_functions import foreign as foreign
    from .resnet import ResNetImageNet as ResNetImageNet
    from .resnet_cifar import ResNet as ResNet
    from .staged import Staged as Staged
    from .vgg import VGG as VGG
    from .vit import ViT as ViT

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
