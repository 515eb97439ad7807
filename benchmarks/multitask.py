"""A step of several tasks with each balancer, against equal weights and torchjd.

Images of 28 × 28, a label of ten classes for each task; two shared networks with a
linear head per task: a CNN of 32 and 64 channels and a perceptron of two layers of 256.
Batch 128, SGD. Gradients of the tasks by the output of the last shared stage
("features") and by all shared parameters. torchjd, where it is installed, takes the
same steps in plain torch: `jac` by the features and the weighted losses' backward pass,
or `mtl_backward` and `jac_to_grad` by the parameters.
"""

import dataclasses
import importlib.util
from collections.abc import Callable

import numpy as np
import timing

import jaxtl as tl

CLASSES, BATCH = 10, 128
BALANCERS = {
    "equal weights": tl.multitask.EqualWeights(),
    "uncertainty": tl.multitask.UncertaintyWeights(),
    "DWA": tl.multitask.DWA(every=100),
    "FAMO": tl.multitask.FAMO(),
    "GradNorm": tl.multitask.GradNorm(),
    "MGDA": tl.multitask.MGDA(),
    "PCGrad": tl.multitask.PCGrad(),
    "GradVac": tl.multitask.GradVac(),
    "CAGrad": tl.multitask.CAGrad(),
    "NashMTL": tl.multitask.NashMTL(),
    "IMTLG": tl.multitask.IMTLG(),
    "AlignedMTL": tl.multitask.AlignedMTL(),
    "UPGrad": tl.multitask.UPGrad(),
}
TARGET = {("features", 4): "≤ 1.3"}


@dataclasses.dataclass(frozen=True)
class Size:
    """What is timed.

    Attributes:
      network: "CNN" or "MLP".
      width: channels of the first block, or units of each layer.
      batch: examples of a step.
      steps: of one measurement.
      rounds: measurements of each.
    """

    network: str
    width: int
    batch: int = BATCH
    steps: int = 5
    rounds: int = 7


def examples(count: int, tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 28, 28, 1) and labels (count, tasks)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 28, 28, 1)).astype(np.float32)
    return x, rng.integers(0, CLASSES, (count, tasks))


def jax_steps(size: Size, tasks: int, name: str, wrt: str) -> Callable[[], object]:
    """A function that takes `size.steps` steps of a run."""
    x, y = examples(4 * size.batch, tasks)
    widths = (size.width, 2 * size.width)
    model = (
        tl.models.CNN(widths=widths, units=4 * size.width)
        if size.network == "CNN"
        else tl.models.MLP(widths=(size.width, size.width))
    )
    labels = {f"task{i}": column for i, column in enumerate(y.T)}
    term = tl.multitask.MultiTask(balancer=BALANCERS[name], wrt=wrt)
    run = tl.setup(
        tl.Experiment(
            model=model,
            data=tl.data.Arrays(x=x, y=labels, val=0, test=0),
            terms={"tasks": term},
            optim=tl.optim.SGD(lr=1e-3),
            batch=size.batch,
            steps=1_000_000,
        )
    )
    return lambda: run.advance(size.steps)


def torch_steps(size: Size, tasks: int, name: str, wrt: str) -> Callable[[], object]:
    """The same steps in torch, balanced by torchjd."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torchjd import aggregation, autojac

    x, y = examples(4 * size.batch, tasks)
    images = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    labels, width = torch.tensor(y), size.width
    layers = (
        [
            *(nn.Conv2d(1, width, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(2 * width * 49, 4 * width), nn.ReLU()),
        ]
        if size.network == "CNN"
        else [
            *(nn.Flatten(), nn.Linear(784, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
        ]
    )
    shared = nn.Sequential(*layers)
    units = 4 * width if size.network == "CNN" else width
    heads = nn.ModuleList(nn.Linear(units, CLASSES) for _ in range(tasks))
    params = [*shared.parameters(), *heads.parameters()]
    optimizer = torch.optim.SGD(params, lr=1e-3, momentum=0.9)
    is_equal = name == "equal weights"
    aggregator = None if is_equal else _aggregator(aggregation, name, tasks)

    def backward(losses: list, features) -> None:
        if aggregator is None:
            torch.stack(losses).sum().backward()
        elif wrt == "parameters":
            autojac.mtl_backward(losses, features)
            autojac.jac_to_grad(shared.parameters(), aggregator)
        else:
            [jacobian] = autojac.jac(losses, features, retain_graph=True)
            direction = aggregator(jacobian.flatten(1)).view_as(features)
            gradients = torch.autograd.grad(
                sum(losses), list(heads.parameters()), retain_graph=True
            )
            for parameter, gradient in zip(heads.parameters(), gradients):
                parameter.grad = gradient
            features.backward(direction, inputs=list(shared.parameters()))

    def step() -> None:
        rows = torch.randint(len(images), (size.batch,))
        optimizer.zero_grad()
        features = shared(images[rows])
        columns = labels[rows].T
        losses = [F.cross_entropy(h(features), t) for h, t in zip(heads, columns)]
        backward(losses, features)
        optimizer.step()

    return lambda: [step() for _ in range(size.steps)]


def _aggregator(aggregation, name: str, tasks: int):
    """torchjd's balancer of that name; None where it has none."""
    if name == "GradVac":
        return aggregation.GradVac()
    arguments = {"CAGrad": {"c": 0.5}, "NashMTL": {"n_tasks": tasks}}.get(name, {})
    return getattr(aggregation, name)(**arguments)


def torchjd_has(name: str) -> bool:
    """Whether torchjd is installed, has this balancer, and what that needs."""
    if importlib.util.find_spec("torchjd") is None:
        return False
    from torchjd import aggregation

    try:
        _aggregator(aggregation, name, 2)
    except (AttributeError, ImportError):
        return name == "equal weights"
    return True


def rows_of(size: Size, tasks: int, names: list[str], wrt: str) -> list[timing.Row]:
    """A row for each balancer, timed in turn with equal weights."""
    works = {name: jax_steps(size, tasks, name, wrt) for name in names}
    theirs = {
        f"torchjd {name}": torch_steps(size, tasks, name, wrt)
        for name in names
        if torchjd_has(name)
    }
    times = timing.alternate({**works, **theirs}, size.rounds)
    plain, rows = names[0], []
    for name in names:
        other = f"torchjd {name}"
        compared = other in theirs
        median = float(np.median(times.clock[name]))
        rows.append(
            {
                "balancer": name,
                "network": f"{size.network} {size.width}",
                "tasks": tasks,
                "gradients by": wrt if BALANCERS[name].reads_gradients else "",
                "ms": 1e3 * median / size.steps,
                "× equal weights": timing.ratio(times.clock, name, plain),
                "quartiles": timing.spread(times.clock, name, plain),
                "of CPU time": timing.ratio(times.cpu, name, plain),
                "torchjd, × ours": timing.ratio(times.clock, other, name)
                if compared
                else "",
                "its quartiles": timing.spread(times.clock, other, name)
                if compared
                else "",
                "target": TARGET.get((wrt, tasks), "") if name != plain else "",
            }
        )
    return rows


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    if options.quick:
        size = Size("MLP", 8, batch=8, steps=1, rounds=2)
        tables = [rows_of(size, 2, ["equal weights", "MGDA"], "features")]
    else:
        cnn, mlp = Size("CNN", 32, steps=3), Size("MLP", 256, steps=50)
        some = ["equal weights", "MGDA", "PCGrad", "UPGrad", "NashMTL"]
        by_parameters = ["equal weights", "MGDA", "UPGrad"]
        tables = [
            rows_of(size, tasks, names, wrt)
            for size, tasks, by_features in (
                (cnn, 4, list(BALANCERS)),
                (mlp, 4, list(BALANCERS)),
                (cnn, 2, some),
                (cnn, 8, some),
            )
            for wrt, names in (
                ("features", by_features),
                ("parameters", by_parameters),
            )
        ]
    timing.report("A step of several tasks", tables, options.json)
    return tables


if __name__ == "__main__":
    main()
