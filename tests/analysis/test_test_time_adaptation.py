"""Tent against BatchNorm, Adam and SGD of torch; parameters that do not change."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(0)
    x = (2 * rng.normal(size=(90, 6, 6, 1)) + 1).astype(np.float32)
    y = np.sort(np.arange(90) % 3)  # sorted by class, as data often are
    model = tl.models.CNN(widths=(3,), units=5, pool=1, norm=True)
    data = tl.data.Arrays(x=x, y=y, test=26, val=0.2)
    return tl.setup(tl.Experiment(model=model, data=data, steps=3, batch=8))


def _torch_tent(torch, run, optimizer, batch, order, episodic=False, steps=1):
    """Logits of the test split by conv → BatchNorm → ReLU → pool → dense."""
    functional = torch.nn.functional
    params, _ = run.weights("best")

    def tensor(x):
        return torch.tensor(np.array(x))

    kernel = tensor(params["block1"]["conv"]["kernel"]).permute(3, 2, 0, 1)
    dense = {
        name: (tensor(layer["kernel"]).T, tensor(layer["bias"]))
        for name, layer in (
            ("hidden", params["hidden"]["dense"]),
            ("head", params["head"]["dense"]),
        )
    }
    bn = params["block1"]["bn"]

    def fresh():
        leaves = [tensor(bn["scale"]), tensor(bn["bias"])]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        return leaves, optimizer(leaves)

    data = run.parts.datasets["target"]
    x = np.asarray(data.x[data.rows["test"]])
    logits, (leaves, rule) = np.zeros((len(x), 3)), fresh()
    for start in range(0, len(x), batch):
        chunk = order[start : start + batch]
        if episodic:
            leaves, rule = fresh()
        for _ in range(steps):
            h = functional.conv2d(
                tensor(x[chunk]).permute(0, 3, 1, 2), kernel, padding=1
            )
            h = functional.batch_norm(h, None, None, *leaves, training=True)
            h = functional.max_pool2d(functional.relu(h), 2)
            h = h.permute(0, 2, 3, 1).flatten(1)
            h = functional.relu(functional.linear(h, *dense["hidden"]))
            z = functional.linear(h, *dense["head"])
            p = functional.softmax(z, 1)
            entropy = -(p * functional.log_softmax(z, 1)).sum(1).mean()
            rule.zero_grad()
            entropy.backward()
            rule.step()
        logits[chunk] = z.detach().numpy()
    return logits, [leaf.detach().numpy() for leaf in leaves]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch": 10},  # 26 test rows: the last batch is smaller
        {"batch": 13, "steps": 2, "seed": None},
        {"batch": 10, "episodic": True, "steps": 2},
    ],
)
def test_online_tent_agrees_with_torch(run, settings):
    torch = pytest.importorskip("torch", reason="the updates are compared with torch")
    before = jax.tree.map(np.array, run.weights("best"))
    result = tl.tent(run, "test", optimizer=tl.optim.AdamW(lr=0.05), **settings)
    seed = settings.pop("seed", 0)
    order = np.arange(26)
    order = order if seed is None else np.random.default_rng(seed).permutation(order)
    expected, leaves = _torch_tent(
        torch, run, lambda x: torch.optim.Adam(x, lr=0.05), order=order, **settings
    )
    np.testing.assert_allclose(result.logits, expected, rtol=1e-3, atol=1e-4)
    params = result.run.params
    np.testing.assert_allclose(params["block1"]["bn"]["scale"], leaves[0], rtol=1e-3)
    np.testing.assert_allclose(params["block1"]["bn"]["bias"], leaves[1], atol=1e-4)
    # No other parameter changed, and nothing in the run itself.
    jax.tree.map(np.testing.assert_array_equal, params["hidden"], before[0]["hidden"])
    jax.tree.map(np.testing.assert_array_equal, run.weights("best"), before)
    data = run.parts.datasets["target"]
    labels = data.y[data.rows["test"]]
    np.testing.assert_array_equal(result.labels, labels)
    hits = np.mean(expected.argmax(1) == labels)
    np.testing.assert_allclose(result.metrics["accuracy"], hits, rtol=1e-6)


def test_tent_uses_the_schedule_and_momentum_of_the_optimizer(run):
    torch = pytest.importorskip("torch", reason="the updates are compared with torch")
    rule = tl.optim.SGD(lr=tl.optim.Linear(peak=0.2, final=0.0), momentum=0.8)
    result = tl.tent(run, "test", optimizer=rule, batch=13, seed=None)
    rates = iter([0.2, 0.1])

    class Falling(torch.optim.SGD):
        def step(self):
            self.param_groups[0]["lr"] = next(rates)
            super().step()

    expected, leaves = _torch_tent(
        torch, run, lambda x: Falling(x, lr=1.0, momentum=0.8), 13, np.arange(26)
    )
    np.testing.assert_allclose(result.logits, expected, rtol=1e-3, atol=1e-4)
    scale = result.run.params["block1"]["bn"]["scale"]
    np.testing.assert_allclose(scale, leaves[0], rtol=1e-3)


def test_entropy_falls_over_repeated_updates_of_one_batch(run):
    repeated = tl.tent(
        run, "test", batch=26, steps=20, optimizer=tl.optim.AdamW(lr=0.05)
    )
    single = tl.tent(run, "test", batch=26)
    assert repeated.entropy[0] < 0.9 * single.entropy[0]


def test_offline_tent_as_an_experiment_trains_norms_alone(run):
    data = run.exp.data
    exp = tl.Experiment(
        model=run.exp.model,
        data=dataclasses.replace(data, labels=0),
        terms={"entropy": tl.domain.EntropyMinimization()},
        optim=tl.optim.AdamW(lr=0.05, groups=tl.optim.NormOnly(head=False)),
        steps=4,
        batch=16,
        monitor=None,
    )
    trained_run = tl.setup(exp)
    start = jax.tree.map(np.array, trained_run.params)
    stats = jax.tree.map(np.array, trained_run.state.stats)
    tl.train(trained_run, progress=False)
    trained = trained_run.params
    bn, before = trained["block1"]["bn"], start["block1"]["bn"]
    assert np.all(bn["scale"] != before["scale"])
    start["block1"]["bn"] = bn
    jax.tree.map(np.testing.assert_array_equal, trained, start)
    mean = trained_run.state.stats["block1"]["bn"]["mean"]
    assert np.all(mean != stats["block1"]["bn"]["mean"])


def test_invalid_settings_and_models_raise(run, digits):
    for settings, message in (
        ({"split": "tset"}, "has no split 'tset'; did you mean 'test'"),
        ({"batch": 0}, "tent: batch=0: expected at least 1"),
        ({"steps": 0}, "tent: steps=0: expected at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            tl.tent(run, **settings)
    with pytest.raises(UserError, match="the model has no norm"):
        tl.tent(tl.setup(digits()))
