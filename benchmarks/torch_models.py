"""The same networks in torch, and the layouts that convert their weights to jaxtl's.

Convolutional ones are written as in their papers; the others are those of transformers.
`pairs()` builds both, with the same weights.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from torch import nn
from torch.nn import functional as F

import jaxtl as tl
from jaxtl.models import bert, gpt2, llama, mobilenet, vit, weight_layout

OUTPUTS = 10


def block(inside: int, out: int, size: int, stride=1, groups=1) -> nn.Sequential:
    """Convolution without bias and BatchNorm."""
    conv = nn.Conv2d(inside, out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class Basic(nn.Module):
    """Two 3×3 convolutions; He et al. 2016, option A: a shortcut with zeros."""

    def __init__(self, inside, width, stride):
        super().__init__()
        self.stride, self.extra = stride, width - inside
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1 or self.extra:
            half, s = self.extra // 2, self.stride
            x = F.pad(x[:, :, ::s, ::s], (0, 0, 0, 0, half, self.extra - half))
        return F.relu(x + y)


class ResNet20(nn.Module):
    """Three stages of three blocks."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inside = 16
        for i, width in enumerate((16, 32, 64)):
            first = Basic(inside, width, 2 if i else 1)
            blocks = [first, *(Basic(width, width, 1) for _ in range(2))]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inside = width
        self.linear = nn.Linear(64, OUTPUTS)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class LeNet(nn.Module):
    """Two 5×5 convolutions with pooling and one hidden layer."""

    def __init__(self, widths=(32, 48), units=100):
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 5, 1, 2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5, 1, 2)
        self.hidden = nn.Linear(7 * 7 * widths[1], units)
        self.head = nn.Linear(units, OUTPUTS)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as in jaxtl
        return self.head(F.relu(self.hidden(x)))

    @staticmethod
    def layout() -> weight_layout.WeightLayout:
        rules = [
            *weight_layout.conv("conv1", "block1/conv", bias=True),
            *weight_layout.conv("conv2", "block2/conv", bias=True),
            *weight_layout.linear("hidden", "hidden/dense"),
            *weight_layout.linear("head", "head/dense"),
        ]
        return weight_layout.WeightLayout(tuple(rules))


class MobileNet(nn.Module):
    """MobileNet v1 as Keras pads it: below and to the right where it strides."""

    def __init__(self, alpha=0.25):
        super().__init__()
        plan = mobilenet.STAGES
        width = int(32 * alpha)
        self.stem = self._conv(3, width, 2)
        pairs = []
        for out, stride in [pair for stage in plan for pair in stage]:
            out = int(out * alpha)
            pairs += [self._conv(width, width, stride, width), block(width, out, 1)]
            width = out
        self.pairs = nn.ModuleList(pairs)
        self.head = nn.Linear(width, OUTPUTS)
        for norm in [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]:
            norm.eps, norm.momentum = 1e-3, 0.01
        # torch's default shrinks activations until only the bias is left.
        for conv in [m for m in self.modules() if isinstance(m, nn.Conv2d)]:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    @staticmethod
    def _conv(inside, out, stride, groups=1):
        built = block(inside, out, 3, stride, groups)
        if stride == 2:
            built[0].padding = (0, 0)
            built.insert(0, nn.ZeroPad2d((0, 1, 0, 1)))
        return built

    def forward(self, x):
        x = F.relu6(self.stem(x))
        for part in self.pairs:
            x = F.relu6(part(x))
        return self.head(x.mean((2, 3)))

    def keras(self) -> dict[str, torch.Tensor]:
        """The weights by Keras's names, in its order of axes."""
        weights = self._named("conv1", "conv1_bn", self.stem, "kernel", (2, 3, 1, 0))
        for i in range(13):
            depthwise, pointwise = self.pairs[2 * i], self.pairs[2 * i + 1]
            k = i + 1
            weights |= self._named(
                f"conv_dw_{k}",
                f"conv_dw_{k}_bn",
                depthwise,
                "depthwise_kernel",
                (2, 3, 0, 1),
            )
            weights |= self._named(
                f"conv_pw_{k}", f"conv_pw_{k}_bn", pointwise, "kernel", (2, 3, 1, 0)
            )
        weights["conv_preds/kernel"] = self.head.weight.T[None, None]
        return weights | {"conv_preds/bias": self.head.bias}

    @staticmethod
    def _named(conv, norm, part, kernel, axes):
        bn = part[-1]
        return {
            f"{conv}/{kernel}": part[-2].weight.permute(axes),
            f"{norm}/gamma": bn.weight,
            f"{norm}/beta": bn.bias,
            f"{norm}/moving_mean": bn.running_mean,
            f"{norm}/moving_variance": bn.running_var,
        }


@dataclasses.dataclass
class Pair:
    """One network in jaxtl and in torch.

    Attributes:
      name: with the size of its input.
      ours: jaxtl's model.
      theirs: the torch module.
      tensors: the weights of `theirs`.
      layout: converts them to those of `ours`.
      x: a batch as `ours` takes it.
      task: "classification" or "language".
      logits: (theirs, x in torch) -> logits.
    """

    name: str
    ours: Any
    theirs: nn.Module
    tensors: dict[str, np.ndarray]
    layout: weight_layout.WeightLayout
    x: Any
    task: str = "classification"
    logits: Callable = lambda module, x: module(x)

    def in_torch(self, x):
        """Converts a batch to the form that torch takes."""
        if isinstance(x, dict):
            return {k: torch.tensor(v).long() for k, v in x.items()}
        return torch.tensor(x.transpose(0, 3, 1, 2)).contiguous()


def images(batch: int, size: int, channels: int = 3) -> np.ndarray:
    """A batch of noise."""
    shape = (batch, size, size, channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def text(batch: int, length: int, vocab: int) -> dict[str, np.ndarray]:
    """Random tokens; texts are between half and all of the length long."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, vocab, (batch, length)).astype(np.int32)
    lengths = rng.integers(length // 2, length + 1, (batch, 1))
    return {"input_ids": ids, "attention_mask": np.arange(length) < lengths}


def _pair(name, ours, theirs, x, layout=None, tensors=None, **fields) -> Pair:
    tensors = theirs.state_dict() if tensors is None else tensors
    arrays = {k: np.array(v.detach()) for k, v in tensors.items()}
    layout = layout or next(iter(ours.layouts().values()))
    return Pair(name, ours, theirs, arrays, layout, x, **fields)


def hugging_face(name, kind, family, config, x, task="classification", **fields):
    theirs = getattr(transformers, kind)(config)
    ours = family.from_config(config.to_dict(), **fields)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)  # names in files differ from those in memory
        tensors = safetensors.torch.load_file(f"{folder}/model.safetensors")
    return _pair(
        name,
        ours,
        theirs,
        x,
        ours.layouts()["hf"],
        tensors,
        task=task,
        logits=lambda module, x: (
            module(**x).logits if isinstance(x, dict) else module(x).logits
        ),
    )


def pairs(quick: bool) -> list[Callable[[], Pair]]:
    """Functions that build the pairs; `quick` has fewer, with little to compute."""
    return convolutional(quick) + transformer(quick)


def convolutional(quick: bool) -> list[Callable[[], Pair]]:
    """Functions that build the convolutional pairs."""
    batch = 8 if quick else 128

    def resnet():
        x = images(batch, 32)
        model = tl.models.ResNet(outputs=OUTPUTS, depth=20)
        return _pair(f"ResNet-20, 32², batch {batch}", model, ResNet20(), x)

    def lenet():
        x, widths = images(batch, 28, 1), (8, 8) if quick else (32, 48)
        model = tl.models.CNN(outputs=OUTPUTS, widths=widths, units=100, kernel=5)
        name = f"LeNet {widths[0]}–{widths[1]}, 5×5, 28², batch {batch}"
        return _pair(name, model, LeNet(widths), x, LeNet.layout())

    def mobile():
        theirs, x = MobileNet(), images(batch // 4, 224)
        model = tl.models.MobileNet(outputs=OUTPUTS, alpha=0.25, dropout=0.0)
        name = f"MobileNet 0.25, 224², batch {batch // 4}"
        return _pair(name, model, theirs, x, tensors=theirs.keras())

    return [lenet] if quick else [resnet, lenet, mobile]


def transformer(quick: bool) -> list[Callable[[], Pair]]:
    """Functions that build the pairs of transformers."""
    batch, layers, length = (4, 1, 16) if quick else (32, 6, 64)
    config = transformers

    def vit_pair():
        settings = config.ViTConfig(
            image_size=32,
            patch_size=4,
            hidden_size=192,
            num_hidden_layers=layers,
            num_attention_heads=3,
            intermediate_size=768,
            num_labels=OUTPUTS,
        )
        name = f"ViT {layers} × 192, 32², patch 4, batch {batch}"
        x = images(batch, 32)
        return hugging_face(
            name, "ViTForImageClassification", vit, settings, x, outputs=OUTPUTS
        )

    def bert_pair():
        settings = config.BertConfig(
            vocab_size=512 if quick else 30522,
            hidden_size=384,
            num_hidden_layers=layers,
            num_attention_heads=12,
            intermediate_size=1536,
            num_labels=OUTPUTS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        name = f"BERT {layers} × 384 (MiniLM), batch {batch}, length {length}"
        x = text(batch, length, settings.vocab_size)
        kind = "BertForSequenceClassification"
        return hugging_face(name, kind, bert, settings, x, outputs=OUTPUTS)

    def gpt2_pair():
        settings = config.GPT2Config(
            vocab_size=8192,
            n_positions=128,
            n_embd=256,
            n_layer=1 if quick else 4,
            n_head=8,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        name = f"GPT-2 {settings.n_layer} × 256, batch {batch // 4}, length {length}"
        x = text(batch // 4, length, 8192)
        return hugging_face(name, "GPT2LMHeadModel", gpt2, settings, x, "language")

    def llama_pair():
        settings = config.LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=172,
            num_hidden_layers=5,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=512,
        )
        name = f"Llama 5 × 64 (260k), batch {batch}, length {length}"
        x = text(batch, length, 512)
        return hugging_face(name, "LlamaForCausalLM", llama, settings, x, "language")

    return [bert_pair] if quick else [vit_pair, bert_pair, gpt2_pair, llama_pair]
