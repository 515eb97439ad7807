"""Settings of papers' programs: rates and decay against torch's, and a first step."""

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.optim import schedules

ROWS = 24
RECIPES = ("dann", "cdan", "mdd", "dan", "jan", "mcc", "cdan_digits")


def _experiment(name, **changes):
    rng = np.random.default_rng(0)
    y = np.arange(ROWS) % 2
    source, target = (rng.normal(i, 1.0, (ROWS, 5)).astype(np.float32) for i in (0, 1))
    options = {"val": 0, "test": 0}
    fields = {**getattr(tl.recipes, name)(), "steps": 10, "batch": 12, "monitor": None}
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.Arrays(x=target, y=y, labels=0, **options),
        streams={"source": tl.data.Arrays(x=source, y=y, **options)},
        **{**fields, **changes},
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_an_experiment(name):
    run = tl.setup(_experiment(name))
    assert run.program.passes_with("source") == (
        () if name == "cdan_digits" else ("source", "unlabelled")
    )  # the digits' program begins on the source alone


def test_digits_begin_on_the_source_alone():
    rows = tl.setup(_experiment("cdan_digits")).advance(2)
    assert ["adapt" in row for row in rows] == [False, True]
    assert np.isfinite(rows[-1]["loss"])


@pytest.mark.parametrize(
    ("name", "peak", "gamma"),
    [("dann", 0.01, 1e-3), ("mdd", 4e-3, 2e-4), ("jan", 3e-3, 3e-4)],
)
def test_rates_are_the_programs(name, peak, gamma):
    optim = getattr(tl.recipes, name)()["optim"]
    for step in (0, 100, 19_999):
        rate = schedules.value(optim.lr, np.int32(step), np.int32(20_000))
        # tllib: LambdaLR(optimizer, lambda x: lr · (1 + gamma · x) ** −0.75)
        np.testing.assert_allclose(rate, peak * (1 + gamma * step) ** -0.75, rtol=1e-5)


def test_steps_are_those_of_torchs_sgd_with_a_tenth_of_the_rate_below_the_head():
    torch = pytest.importorskip("torch", reason="the reference is torch")
    exp = _experiment("mcc", batch=ROWS)
    run = tl.setup(exp)
    start = jax.tree.map(np.array, run.params)
    data = run.parts.datasets
    x = np.concatenate([data["source"].x, data["target"].x])
    labels = torch.tensor(np.arange(ROWS) % 2)
    weights = {
        name: torch.tensor(np.float64(value).T, requires_grad=True)
        for stage in ("layer1", "head")
        for name, value in (
            (f"{stage}.w", start[stage]["dense"]["kernel"]),
            (f"{stage}.b", start[stage]["dense"]["bias"]),
        )
    }
    group = {
        name: {
            "params": [leaf],
            "lr": 0.1 if name.startswith("layer1") else 1.0,
            "weight_decay": 1e-3 if name.endswith(".w") else 0.0,
        }
        for name, leaf in weights.items()
    }
    optimizer = torch.optim.SGD(group.values(), lr=1.0, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.005 * (1 + 0.001 * t) ** -0.75
    )
    for _ in range(3):
        hidden = torch.relu(
            torch.tensor(np.float64(x)) @ weights["layer1.w"].T + weights["layer1.b"]
        )
        logits = hidden @ weights["head.w"].T + weights["head.b"]
        p = torch.softmax(logits[ROWS:] / 2.5, dim=1)
        entropy = -(p * torch.log(p)).sum(1)
        importance = (1 + torch.exp(-entropy)).detach()
        importance = ROWS * importance / importance.sum()
        confusion = (p * importance[:, None]).T @ p
        confusion = confusion / confusion.sum(1, keepdim=True)
        term = (confusion.sum() - confusion.trace()) / 2
        loss = torch.nn.functional.cross_entropy(logits[:ROWS], labels) + term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    run.advance(3)
    for name, leaf in weights.items():
        stage, kind = name.split(".")
        actual = run.params[stage]["dense"]["kernel" if kind == "w" else "bias"]
        np.testing.assert_allclose(
            np.asarray(actual), leaf.detach().numpy().T, atol=2e-6, err_msg=name
        )
