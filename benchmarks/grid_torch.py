"""The cells of `grid.py` in torch, one after the other in one process."""

import itertools
import pathlib
import statistics

import grid
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def network(case: str) -> nn.Module:
    """The model; the convolutional one pads and pools as jaxtl's does."""
    if case == "heads":
        return nn.Linear(64, 10)
    if case == "mlp":
        layers = [nn.Flatten(), nn.Linear(64, 256), nn.ReLU()]
        return nn.Sequential(
            *layers, nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def data(case: str, folder: pathlib.Path) -> dict:
    """{split: (x, y)} tensors; the inputs of (c) are features."""
    if case == "heads":
        rng = np.random.default_rng(0)
        sizes = {"train": 6_400, "val": 1_000, "test": 1_000}
        means = rng.normal(0, 1, (10, 64))
        y = {k: rng.integers(0, 10, n) for k, n in sizes.items()}
        x = {k: means[v] + rng.normal(0, 1, (len(v), 64)) for k, v in y.items()}
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        cuts = {"test": (0, 359), "val": (359, 647), "train": (647, None)}
        rows = {k: order[a:b] for k, (a, b) in cuts.items()}
        images = digits.images[:, None] / 16
        x = {k: images[r] for k, r in rows.items()}
        y = {k: digits.target[r] for k, r in rows.items()}
    tensors = {k: torch.tensor(v, dtype=torch.float32) for k, v in x.items()}
    return {k: (tensors[k], torch.tensor(y[k])) for k in x}


def cell(case, splits, source, seed, rate, weight, steps) -> float:
    """Trains one cell; returns its accuracy on test."""
    torch.manual_seed(seed)
    net = network(case)
    net.load_state_dict(source)
    start = [p.detach().clone() for p in net.parameters()]
    adam = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.0)
    x, y = splits["train"]
    batch = 128 if case == "heads" else grid.BATCH
    evaluate_every = max(1, steps // grid.EVALUATIONS)
    order, best = torch.randperm(len(y)), (-1.0, None)
    for step in range(steps):
        if (step * batch) % len(y) + batch > len(y):
            order = torch.randperm(len(y))
        start_row = (step * batch) % len(y)
        rows = order[start_row : start_row + batch]
        loss = F.cross_entropy(net(x[rows]), y[rows])
        pairs = zip(net.parameters(), start)
        loss = loss + weight * 0.5 * sum(((p - q) ** 2).sum() for p, q in pairs)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if (step + 1) % evaluate_every == 0:
            value = accuracy(net, *splits["val"])
            if value > best[0]:
                best = value, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(best[1])
    return accuracy(net, *splits["test"])


def accuracy(net, x, y) -> float:
    """Share of correct predictions."""
    with torch.no_grad():
        return float((net(x).argmax(-1) == y).float().mean())


def run(case: str, folder: pathlib.Path, steps: int) -> float:
    """Runs the 60 cells; returns their mean accuracy on test."""
    splits = data(case, folder)
    torch.manual_seed(0)
    source = network(case).state_dict()
    axes = itertools.product(grid.SEEDS, grid.RATES, grid.WEIGHTS)
    values = [cell(case, splits, source, *numbers, steps) for numbers in axes]
    return statistics.mean(values)
