"""Heads of two layers for each task: values, dropout, sizes, files."""

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import serialization
from jaxtl.models.staged import Mode

HEADS = tl.models.TaskHeads(outputs=(3, 2), units=4)


def model(**settings) -> tl.models.MLP:
    return tl.models.MLP(
        **{"widths": (6,), "outputs": 5, "task_heads": HEADS, **settings}
    )


def initialized(network, seed: int = 0):
    x = np.random.default_rng(seed).normal(size=(7, 6)).astype(np.float32)
    params, stats = network.init(jax.random.key(seed), x)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    return params, stats, x


def test_equals_the_modules_of_torch():
    torch = pytest.importorskip("torch")
    network = model().pure()
    params, stats, x = initialized(network)
    head = params["head"]

    def linear(layer):
        module = torch.nn.Linear(*layer["kernel"].shape)
        module.weight.data = torch.tensor(np.asarray(layer["kernel"]).T.copy())
        module.bias.data = torch.tensor(np.asarray(layer["bias"]))
        return module

    theirs = [
        torch.nn.Sequential(
            linear(head[task]["hidden"]), torch.nn.ReLU(), linear(head[task]["output"])
        )
        for task in ("task1", "task2")
    ]
    out = network.apply(params, stats, x)
    h = torch.tensor(np.asarray(out.features["layer1"]))
    expected = torch.cat([module(h) for module in theirs], -1).detach().numpy()
    np.testing.assert_allclose(out.logits, expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_on_in_training_mode_alone():
    heads = tl.models.TaskHeads(outputs=(3, 2), units=64, dropout=0.5)
    module = model(task_heads=heads)
    params, _, x = initialized(module.pure())
    run = lambda train, seed: module.apply(  # noqa: E731
        {"params": params}, x, Mode(train), rngs={"dropout": jax.random.key(seed)}
    )[0]
    np.testing.assert_array_equal(run((), 0), run((), 1))
    assert np.abs(run(("head",), 0) - run(("head",), 1)).max() > 0.1


def test_stored_and_read_again():
    stored = serialization.to_json(model())
    assert serialization.from_json(stored) == model()
    assert "task_heads" not in str(serialization.to_json(model(task_heads=None)))


def test_torch_layout_names_each_layer():
    rules = model().layouts()["torch"].rules
    names = [rule.source for rule in rules]
    assert "head.task2.output.weight" in names
    assert "head.weight" not in names
    [linear_head] = [
        rule
        for rule in model(task_heads=None).layouts()["torch"].rules
        if rule.source == "head.weight"
    ]
    assert linear_head.path == "head/dense/kernel"


def data(**labels) -> tl.data.Arrays:
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    return tl.data.Arrays(x=x, y=labels or np.arange(30) % 3, val=0, test=0)


def two_tasks() -> tl.data.Arrays:
    return data(kind=np.arange(30) % 3, side=np.arange(30) % 2)


def assembled(dataset, task_heads=HEADS):
    exp = tl.Experiment(model=model(outputs=None, task_heads=task_heads), data=dataset)
    return tl.setup(exp)


def test_heads_of_the_sizes_of_the_tasks_are_taken():
    run = assembled(two_tasks())
    shapes = {
        name: part["output"]["kernel"].shape
        for name, part in run.params["head"].items()
    }
    assert shapes == {"task1": (4, 3), "task2": (4, 2)}


def test_other_sizes_are_refused():
    swapped = tl.models.TaskHeads(outputs=(2, 3), units=4)
    with pytest.raises(tl.UserError, match=r"kind 3, side 2") as caught:
        assembled(two_tasks(), swapped)
    assert "model.task_heads.outputs=(2, 3)" in str(caught.value)
    with pytest.raises(tl.UserError, match=r"the data have one \(classification\)"):
        assembled(data())
    with pytest.raises(tl.UserError, match="add up to 5, but the model has 4"):
        model(outputs=4).pure().init(jax.random.key(0), np.zeros((1, 6)))
