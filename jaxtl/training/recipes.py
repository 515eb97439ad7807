"""Settings of the papers' own programs for unsupervised domain adaptation.

Each function returns fields of an `Experiment`:

    exp = tl.Experiment(
        model=…, init=…, data=target, streams={"source": source}, **tl.recipes.dann()
    )

Numbers are in the units of this package: a term's weight includes the factor between
its value and the program's (`tests/parity`). Learning rates are of the head and of the
terms' own networks; pretrained stages have a tenth. The programs put a bottleneck of
256 units (MDD and MCC 1,024) with BatchNorm below the head, which is a matter of the
model (`MLP(norm=True)`, `CNN(hidden_norm=True)`), and choose the best epoch by test
accuracy, which is left out. Weight decay goes through the
momentum, as in torch, and leaves biases and norms alone, which torch's does not.

References:
  Jiang et al., Transferability in Deep Learning, 2022, whose programs (thuml/
  Transfer-Learning-Library c4aa59e, examples/domain_adaptation/image_classification)
  are followed where no other is named.
"""

from typing import Any

from jaxtl.optim.optimizer import SGD
from jaxtl.optim.phases import Phase
from jaxtl.optim.schedules import InverseDecay, StepDecay
from jaxtl.terms import domain
from jaxtl.terms.losses import CrossEntropy

_DISCRIMINATOR: dict[str, Any] = {"widths": (1024, 1024), "norm": True}
_KERNELS = 5  # which the programs add and DAN and JAN average


def dann(source: str = "source", target: str = "unlabelled") -> dict[str, Any]:
    """DANN: two hidden layers with BatchNorm, λ = `Ramp(per_steps=10_000)`.

    Args:
      source, target: names of the streams.

    Returns:
      Fields of `Experiment`: terms, optim, joint_pass, batch and steps.
    """
    term = domain.DANN(source=source, target=target, **_DISCRIMINATOR)
    return _fields(source, target, term, lr=0.01, decay=1e-3)


def cdan(source: str = "source", target: str = "unlabelled") -> dict[str, Any]:
    """CDAN+E, else as `dann`.

    Args:
      source, target: names of the streams.

    Returns:
      Fields of `Experiment`, as those of `dann`.
    """
    term = domain.CDAN(source=source, target=target, **_DISCRIMINATOR)
    return _fields(source, target, term, lr=0.01, decay=1e-3)


def mdd(source: str = "source", target: str = "unlabelled") -> dict[str, Any]:
    """MDD with margin 4, λ up to 0.1; see `dann`.

    Args:
      source, target: names of the streams.

    Returns:
      Fields of `Experiment`, as those of `dann`.
    """
    term = domain.MDD(
        source=source,
        target=target,
        margin=4.0,
        widths=(1024,),
        dropout=0.5,
        initializer=0.01,
    )
    return _fields(source, target, term, lr=0.004, gamma=0.0002, decay=5e-4)


def dan(source: str = "source", target: str = "unlabelled") -> dict[str, Any]:
    """DAN by the unbiased estimate; see `dann`.

    The authors' program takes a linear one by default, of other pairs.

    Args:
      source, target: names of the streams.

    Returns:
      Fields of `Experiment`, as those of `dann`.
    """
    term = domain.DAN(
        source=source, target=target, estimator="unbiased", weight=float(_KERNELS)
    )
    return _fields(source, target, term, 0.003, 5e-4, gamma=0.0003, steps=10_000)


def jan(source: str = "source", target: str = "unlabelled") -> dict[str, Any]:
    """JAN by the unbiased estimate; see `dann`.

    Args:
      source, target: names of the streams.

    Returns:
      Fields of `Experiment`, as those of `dann`.
    """
    term = domain.JAN(
        source=source,
        target=target,
        estimator="unbiased",
        bandwidth=2 * 0.92**2,
        weight=float(_KERNELS),
    )
    return _fields(source, target, term, 0.003, 5e-4, gamma=0.0003, steps=10_000)


def mcc(source: str = "source", target: str = "unlabelled") -> dict[str, Any]:
    """MCC with temperature 2.5; see `dann`.

    Args:
      source, target: names of the streams.

    Returns:
      Fields of `Experiment`, as those of `dann`.
    """
    term = domain.MCC(target=target, temperature=2.5)
    return _fields(source, target, term, 0.005, 1e-3, batch=36, steps=10_000)


def cdan_digits(
    source: str = "source",
    target: str = "unlabelled",
    halve_at: tuple[float, ...] = (0.4, 0.9),
) -> dict[str, Any]:
    """CDAN+E between digits, as its authors' program has it (thuml/CDAN).

    A tenth of the run is on the source alone. Images are in [−1, 1]: the target's data
    have `preprocess=tl.data.Preprocess(scale=255, mean=0.5, std=0.5)`. Its LeNet is
    `tl.models.CNN(widths=(20, 50), kernel=5, padding="VALID", units=500, dropout=0.5,
    channel_dropout=0.5)`.

    Args:
      source, target: names of the streams.
      halve_at: shares of the run at which the rate halves: theirs for MNIST → USPS;
        (0.5,) for USPS → MNIST.

    Returns:
      Fields of `Experiment`: as `dann`, and phases; steps are ten passes over MNIST.

    References:
      Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018;
      `pytorch/train_uspsmnist.py`.
    """
    term = domain.CDAN(
        source=source,
        target=target,
        widths=(500, 500),
        dropout=0.5,
        initializer="xavier",
        entropy_gradient=True,
        limit=5000,  # 500 features × 10 classes are not randomized
    )
    fields = _fields(source, target, term, lr=0.01, decay=5e-4, batch=64, steps=9370)
    rate = StepDecay(peak=0.01, factor=0.5, at=halve_at)
    optim = SGD(lr=rate, weight_decay=5e-4, coupled_decay=True)
    phases = (Phase(until=0.1, terms=("task",)), Phase())
    return {**fields, "optim": optim, "phases": phases}


def _fields(
    source: str,
    target: str,
    term: Any,
    lr: float,
    decay: float,
    gamma: float = 0.001,
    batch: int = 32,
    steps: int = 20_000,
) -> dict[str, Any]:
    """The task on the source, a term, and SGD with the rate lr · (1 + γ t)^−0.75."""
    groups = {"head": 1.0, ".*": 0.1}
    if hasattr(term, "widths"):
        groups = {"terms/.*": 1.0, **groups}
    rate = InverseDecay(peak=lr, gamma=gamma * 1000, power=0.75, per_steps=1000.0)
    return {
        "terms": {"task": CrossEntropy(stream=source), "adapt": term},
        "optim": SGD(
            lr=rate,
            weight_decay=decay,
            nesterov=True,
            coupled_decay=True,
            groups=groups,
        ),
        "joint_pass": (source, target),
        "batch": batch,
        "steps": steps,
    }
