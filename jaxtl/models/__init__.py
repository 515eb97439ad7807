"""Models: staged linen networks, and modules of one's own through `wrap`."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from . import merging as merging
    from .albert import Albert as Albert
    from .beit import BEiT as BEiT
    from .bert import Bert as Bert
    from .bi_encoder import BiEncoder as BiEncoder
    from .clip import CLIP as CLIP
    from .clip_text import CLIPText as CLIPText
    from .clip_vision import CLIPVision as CLIPVision
    from .cnn import CNN as CNN
    from .convnext import ConvNeXt as ConvNeXt
    from .deberta import Deberta as Deberta
    from .deit import DeiT as DeiT
    from .dinov2 import DINOv2 as DINOv2
    from .distilbert import DistilBert as DistilBert
    from .efficientnet import EfficientNet as EfficientNet
    from .electra import Electra as Electra
    from .gemma import Gemma as Gemma
    from .gemma import Gemma2 as Gemma2
    from .gemma import Gemma3 as Gemma3
    from .generation import generate as generate
    from .gpt2 import GPT2 as GPT2
    from .gpt_neo import GPTNeo as GPTNeo
    from .gpt_neox import GPTNeoX as GPTNeoX
    from .layers.batch_norm import BatchNorm as BatchNorm
    from .layers.heads import TaskHeads as TaskHeads
    from .llama import Llama as Llama
    from .mistral import Mistral as Mistral
    from .mlp import MLP as MLP
    from .mobilenet import MobileNet as MobileNet
    from .mobilenet_v2 import MobileNetV2 as MobileNetV2
    from .modernbert import ModernBert as ModernBert
    from .mpnet import MPNet as MPNet
    from .opt import OPT as OPT
    from .phi3 import Phi3 as Phi3
    from .qwen import Qwen2 as Qwen2
    from .qwen import Qwen3 as Qwen3
    from .regnet import RegNet as RegNet
    from .resnet import ResNetImageNet as ResNetImageNet
    from .resnet_cifar import ResNet as ResNet
    from .siglip import SigLIP as SigLIP
    from .siglip_text import SiglipText as SiglipText
    from .siglip_vision import SiglipVision as SiglipVision
    from .staged import Dropout as Dropout
    from .staged import Mode as Mode
    from .staged import Staged as Staged
    from .swin import Swin as Swin
    from .two_towers import TwoTowers as TwoTowers
    from .vgg import VGG as VGG
    from .vit import ViT as ViT
    from .wrapping.wrap import foreign as foreign
    from .wrapping.wrap import wrap as wrap
    from .zero_shot import ZeroShotClassifier as ZeroShotClassifier
    from .zero_shot import class_embeddings as class_embeddings
    from .zero_shot import zero_shot_logits as zero_shot_logits

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
