"""Time of a training step of MAML, beside the same step in plain torch.

Episodes of 5 ways, 1 shot and 15 queries of 28 × 28 images, 4 of them a step; a network
of 4 blocks (convolution, BatchNorm, ReLU, 2 × 2 pooling) and two dense layers; 5 inner
steps and second derivatives. In torch the inner gradients are `torch.func.grad` of
`functional_call`, and episodes run one after the other or side by side (`vmap`). Both
programs take the same step of SGD.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import timing
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import jaxtl as tl

RATE = 0.01  # of the inner steps
HIDDEN = 64


@dataclasses.dataclass(frozen=True)
class Size:
    """What is timed: the network, the inner steps and the episodes of a step."""

    width: int = 32
    steps: int = 5
    queries: int = 15
    tasks: int = 4
    ways: int = 5
    side: int = 28
    blocks: int = 4


def images(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of ten classes, of as many examples as an episode needs."""
    y = np.repeat(np.arange(10), 1 + size.queries)
    x = np.random.default_rng(0).normal(size=(len(y), size.side, size.side, 1))
    return x.astype(np.float32), y


def jax_step(size: Size) -> Callable[[], object]:
    """A function that takes a training step of a run."""
    x, y = images(size)
    episodes = tl.data.Episodes(
        ways=size.ways, shots=1, queries=size.queries, tasks=size.tasks
    )
    experiment = tl.Experiment(
        model=tl.models.CNN(
            widths=(size.width,) * size.blocks,
            pool=size.blocks,
            units=HIDDEN,
            norm=True,
        ),
        data=tl.data.Arrays(x=x, y=y, val=0, test=0, sampling=episodes),
        terms={"maml": tl.fewshot.MAML(steps=size.steps, rate=RATE)},
        optim=tl.optim.SGD(lr=0.01),
        steps=10_000,
    )
    return tl.setup(experiment).step


def network(size: Size) -> nn.Module:
    """The same network in torch; BatchNorm takes the statistics of the batch."""
    layers: list[nn.Module] = []
    for i in range(size.blocks):
        channels = 1 if i == 0 else size.width
        layers += [
            nn.Conv2d(channels, size.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(size.width, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    inputs = size.width * (size.side >> size.blocks) ** 2
    layers += [nn.Flatten(), nn.Linear(inputs, HIDDEN), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, size.ways))


def torch_step(size: Size, *, together: bool) -> Callable[[], object]:
    """A function that takes the step in torch, episodes `together` or in a loop."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network(size).to(device)
    x = torch.tensor(images(size)[0], device=device).permute(0, 3, 1, 2)
    x = x.reshape(10, 1 + size.queries, 1, size.side, size.side)
    places = torch.arange(size.ways, device=device)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, params, (x,)), y)

    def episode(params: dict, x: torch.Tensor) -> torch.Tensor:
        for _ in range(size.steps):
            gradient = grad(loss)(params, x[:, 0], places)
            params = {k: p - RATE * gradient[k] for k, p in params.items()}
        queries = x[:, 1:].reshape(-1, *x.shape[2:])
        return loss(params, queries, places.repeat_interleave(size.queries))

    def total(params: dict, x: torch.Tensor) -> torch.Tensor:
        if together:
            return vmap(episode, (None, 0))(params, x).mean()
        return torch.stack([episode(params, part) for part in x]).mean()

    def step() -> None:
        classes = torch.stack(
            [torch.randperm(10)[: size.ways] for _ in range(size.tasks)]
        )
        gradient = grad(total)(params, x[classes.to(device)])
        for name, value in gradient.items():
            params[name] = params[name] - 0.01 * value
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    quick = Size(width=4, steps=1, queries=2, tasks=2, side=8, blocks=2)
    sizes = [quick] if options.quick else [Size(), Size(width=64)]
    rows = []
    for size in sizes:
        times = timing.alternate(
            {
                "jaxtl": jax_step(size),
                "torch, loop": torch_step(size, together=False),
                "torch, vmap": torch_step(size, together=True),
            },
            3 if options.quick else 10,
        )
        names = ("torch, loop", "torch, vmap")
        fastest = min(names, key=lambda name: min(times.clock[name]))
        rows.append(
            {
                "network": f"{size.blocks} blocks of {size.width}",
                "inner steps": size.steps,
                "jaxtl, ms": 1e3 * min(times.clock["jaxtl"]),
                **{f"{name}, ms": 1e3 * min(times.clock[name]) for name in names},
                "times faster": timing.ratio(times.clock, fastest, "jaxtl"),
                "quartiles": timing.spread(times.clock, fastest, "jaxtl"),
                "of CPU time": timing.ratio(times.cpu, fastest, "jaxtl"),
                "target": "" if options.quick else "≥ 3",
            }
        )
    timing.report("A step of MAML with second derivatives", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
