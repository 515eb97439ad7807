"""The torch side of `streams.py`: MMD and an epoch of DANN."""

import math

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import jaxtl as tl
from jaxtl.data import preprocess
from jaxtl.terms.domain import adversarial

POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)


def mmd_gram(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """MMD² by the mean of five kernels, distances from one Gram matrix."""
    pooled = torch.cat([s, t])
    square = pooled.square().sum(1)
    distances = (square[:, None] + square - 2 * pooled @ pooled.T).clamp(min=0)
    return _from_distances(distances, len(s))


def mmd_differences(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The same, distances from the differences of all pairs, (n + m, n + m, d)."""
    pooled = torch.cat([s, t])
    return _from_distances((pooled[:, None] - pooled).square().sum(-1), len(s))


def _from_distances(distances: torch.Tensor, n: int) -> torch.Tensor:
    size = len(distances)
    unit = (distances.sum() / (size * (size - 1))).detach()
    k = sum(torch.exp(-distances / (power * unit)) for power in POWERS) / len(POWERS)
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def with_gradient(estimate, s: np.ndarray, t: np.ndarray):
    """A function: the value and the gradient by `s`; that by `t` is also computed."""
    a, b = (torch.tensor(x, requires_grad=True) for x in (s, t))

    def work():
        a.grad = b.grad = None
        value = estimate(a, b)
        value.backward()
        return value.item(), a.grad.numpy()

    return work


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context, x, scale):
        context.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return -context.scale * gradient, None


class DANN:
    """A run's network and discriminator in torch, from the same weights and data."""

    def __init__(self, run: tl.Run, rate: float, decay: float):
        self.batch, self.steps = run.exp.batch, run.exp.steps
        self.data = {name: _inputs(run, name) for name in ("source", "unlabelled")}
        dataset = run.parts.datasets["source"]
        self.y = torch.tensor(np.asarray(dataset.y[dataset.rows["train"]])).long()
        adversary = run.state.trainable["terms"]["adversary"]
        self.features, self.head = _network(jax.tree.map(np.asarray, run.params))
        self.discriminator = _perceptron(jax.tree.map(np.asarray, adversary))
        modules = (self.features, self.head, self.discriminator)
        decayed = [p for m in modules for p in m.parameters() if p.ndim > 1]
        vectors = [p for m in modules for p in m.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, rate, fused=True)
        self.step = 0

    def loss(self, source, y, target, scale) -> torch.Tensor:
        """The source's cross-entropy plus the adversary's."""
        ours, theirs = self.features(source), self.features(target)
        losses = []
        for feature, label in ((ours, 1.0), (theirs, 0.0)):
            z = self.discriminator(_Reverse.apply(feature, scale))[:, 0]
            domain = torch.full_like(z, label)
            losses.append(F.binary_cross_entropy_with_logits(z, domain))
        return F.cross_entropy(self.head(ours), y) + 0.5 * sum(losses)

    def epoch(self, count: int) -> None:
        """Takes `count` steps, each domain in random order."""
        x, z = self.data["source"], self.data["unlabelled"]
        ours, theirs = (
            _order(len(x), count, self.batch),
            _order(len(z), count, self.batch),
        )
        for a, b in zip(ours, theirs):
            progress = self.step / self.steps
            scale = 2 / (1 + math.exp(-10 * progress)) - 1
            self.adam.zero_grad()
            self.loss(x[a], self.y[a], z[b], scale).backward()
            self.adam.step()
            self.step += 1

    def loss_difference(self, run: tl.Run) -> float:
        """Difference of jaxtl's and torch's losses on the first examples."""
        rows = {
            name: run.parts.datasets[_dataset(name)].rows[_split(name)][: self.batch]
            for name in self.data
        }
        x = {name: data[: self.batch] for name, data in self.data.items()}
        with torch.no_grad():
            theirs = self.loss(
                x["source"], self.y[: self.batch], x["unlabelled"], 1.0
            ).item()
        adversary = run.state.trainable["terms"]["adversary"]
        losses = []
        for name, label in (("source", 1.0), ("unlabelled", 0.0)):
            raw = run.parts.datasets[_dataset(name)].x[rows[name]]
            inputs = preprocess.apply(run.program.preprocess[name], raw)
            out = run.network.apply(run.params, run.state.stats, inputs)
            z = adversarial.discriminator(adversary, out.features["hidden"])
            value, _ = adversarial.domain_loss(z, label)
            losses.append(value)
            if label:
                y = run.parts.datasets["source"].y[rows[name]]
                task = tl.losses.cross_entropy(out.logits, y)
        return abs(float(task + 0.5 * sum(losses)) - theirs)


def _dataset(stream: str) -> str:
    return "target" if stream == "unlabelled" else stream


def _split(stream: str) -> str:
    return "unlabelled" if stream == "unlabelled" else "train"


def _inputs(run: tl.Run, stream: str) -> torch.Tensor:
    """All examples of a stream, preprocessed beforehand, channels first."""
    dataset = run.parts.datasets[_dataset(stream)]
    raw = dataset.x[dataset.rows[_split(stream)]]
    x = np.asarray(preprocess.apply(run.program.preprocess[stream], raw))
    return torch.tensor(np.moveaxis(x, -1, 1).copy())


def _order(size: int, count: int, batch: int):
    rows = torch.cat(
        [torch.randperm(size) for _ in range(math.ceil(count * batch / size))]
    )
    return rows[: count * batch].split(batch)


def _network(params) -> tuple[nn.Module, nn.Module]:
    """Returns (features, head) with the weights of a `tl.models.CNN`."""
    layers, channels = [], 1
    for name in ("block1", "block2"):
        conv = params[name]["conv"]
        kernel = conv["kernel"].transpose(3, 2, 0, 1)
        layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
        _fill(layer, kernel, conv["bias"])
        layers += [layer, nn.ReLU(), nn.MaxPool2d(2)]
        channels = kernel.shape[0]
    hidden = params["hidden"]["dense"]
    kernel = hidden["kernel"]
    side = math.isqrt(len(kernel) // channels)
    # jaxtl flattens (height, width, channel), torch (channel, height, width).
    kernel = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
    dense = nn.Linear(side * side * channels, kernel.shape[0])
    _fill(dense, kernel.reshape(kernel.shape[0], -1), hidden["bias"])
    layers += [nn.Flatten(), dense, nn.ReLU()]
    return nn.Sequential(*layers), _dense(params["head"]["dense"])


def _perceptron(params) -> nn.Module:
    layers = [_dense(params["layer0"])]
    for i in range(1, len(params)):
        layers += [nn.ReLU(), _dense(params[f"layer{i}"])]
    return nn.Sequential(*layers)


def _dense(layer) -> nn.Linear:
    module = nn.Linear(*layer["kernel"].shape)
    _fill(module, layer["kernel"].T, layer["bias"])
    return module


def _fill(module, kernel, bias):
    with torch.no_grad():
        module.weight.copy_(torch.tensor(kernel.copy()))
        module.bias.copy_(torch.tensor(bias.copy()))
