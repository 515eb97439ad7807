"""The term of several tasks: its losses, gradients and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxtl as tl
from jaxtl.evaluation import metrics
from jaxtl.terms import context as terms_context
from jaxtl.terms.regularizers import fisher

MultiTask = tl.multitask.MultiTask


def _loss(room, term, **changes):
    """The compiled function from parameters to (value, metrics)."""
    term.check(room.setup)

    def loss(params):
        return terms_context.loss({"term": term}, room.context(params, **changes))

    return loss


def _value(room, term, params, **changes):
    return jax.jit(_loss(room, term, **changes))(params)


def test_each_loss_is_the_mean_over_the_examples_that_have_its_label(bench):
    room = bench("multitask")
    value, reported = _value(room, MultiTask(), room.params)
    batch = room.batches["target"]
    logits = np.float64(room.network.apply(room.params, {}, batch["x"]).logits)
    y = np.float64(batch["y"])
    assert np.isnan(y[0, 0])
    log_p = special.log_softmax(logits[1:, :2], axis=1)
    entropy = -log_p[np.arange(len(y) - 1), y[1:, 0].astype(int)].mean()
    error = np.square(logits[:, 2] - y[:, 1]).mean()
    np.testing.assert_allclose(reported["term/loss[kind]"], entropy, rtol=1e-5)
    np.testing.assert_allclose(reported["term/loss[size]"], error, rtol=1e-5)
    np.testing.assert_allclose(value, entropy + error, rtol=1e-5)


def test_a_batch_without_a_label_of_a_task_trains_the_others(bench):
    room = bench("multitask")
    y = room.batches["target"]["y"].at[:, 0].set(jnp.nan)
    batches = {**room.batches, "target": {**room.batches["target"], "y": y}}
    loss = _loss(room, MultiTask(), batches=batches)
    gradient, _ = jax.jit(jax.grad(loss, has_aux=True))(room.params)
    head = gradient["head"]["dense"]["kernel"]
    assert not head[:, :2].any()
    assert head[:, 2].any()


def _gradients(room):
    """Gradients of each task's loss: (by features, (2, n); by parameters)."""
    batch, params = room.batches["target"], room.params
    x, y = batch["x"], batch["y"]

    def loss(z, params, task):
        if z is None:
            dense = params["layer1"]["dense"]
            z = jax.nn.relu(x @ dense["kernel"] + dense["bias"])
        head = params["head"]["dense"]
        logits = z @ head["kernel"] + head["bias"]
        if task == "size":
            return jnp.mean((logits[:, 2] - y[:, 1]) ** 2)
        log_p = jax.nn.log_softmax(logits[1:, :2])
        return -jnp.mean(log_p[jnp.arange(len(y) - 1), y[1:, 0].astype(int)])

    dense = params["layer1"]["dense"]
    z = jax.nn.relu(x @ dense["kernel"] + dense["bias"])
    by_features, by_params = [], []
    for task in ("kind", "size"):
        gradient = jax.jit(jax.grad(functools.partial(loss, task=task)))
        by_features.append(np.float64(gradient(z, params)).ravel())
        gradient = jax.jit(jax.grad(lambda p, t=task: loss(None, p, t)))
        by_params.append(gradient(params))
    return np.stack(by_features), by_params


def _flat(tree):
    return np.concatenate([np.float64(x).ravel() for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("wrt", ["features", "parameters"])
def test_shared_stages_get_the_weighted_gradients_and_heads_their_own(bench, wrt):
    room = bench("multitask")
    features, params = _gradients(room)
    rows = np.stack([_flat(p["layer1"]) for p in params])
    measured = features if wrt == "features" else rows
    # The two-task minimum in closed form: Sener & Koltun, algorithm 1.
    a, b = measured
    share = np.clip((b - a) @ b / ((a - b) @ (a - b)), 0, 1)
    weights = np.array([share, 1 - share])
    term = MultiTask(balancer=tl.multitask.MGDA(), wrt=wrt)
    loss = _loss(room, term)
    gradient, reported = jax.jit(jax.grad(loss, has_aux=True))(room.params)
    given = [reported[f"term/weight[{name}]"] for name in ("kind", "size")]
    np.testing.assert_allclose(given, weights, rtol=1e-4)
    np.testing.assert_allclose(
        _flat(gradient["layer1"]), weights @ rows, rtol=2e-4, atol=1e-6
    )
    heads = sum(_flat(p["head"]) for p in params)
    np.testing.assert_allclose(_flat(gradient["head"]), heads, rtol=2e-4, atol=1e-6)
    total = sum(reported[f"term/loss[{name}]"] for name in ("kind", "size"))
    np.testing.assert_allclose(reported["loss"], total, rtol=1e-5)


def test_cosines_are_those_of_gradients_that_numpy_flattens(bench):
    room = bench("multitask")
    a, b = (_flat(p["layer1"]) for p in _gradients(room)[1])
    expected = a @ b / np.sqrt(a @ a * (b @ b))
    term = MultiTask(report_conflicts=True, wrt="parameters")
    reported = _value(room, term, room.params)[1]
    np.testing.assert_allclose(reported["term/cosine[kind,size]"], expected, rtol=1e-4)
    assert reported["term/conflicts"] == (expected < 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": {"kinds": tl.losses.CrossEntropy()}}, "did you mean 'kind'"),
        ({"losses": {"kind": tl.losses.SquaredError()}}, "term for regression"),
        ({"losses": {"kind": tl.losses.CrossEntropy(stream="source")}}, "stream of"),
        ({"balancer": "pcgrad"}, "expected a balancer"),
        (
            {"balancer": tl.multitask.FixedWeights(weights={"kind": 1.0})},
            "no weight for the task 'size'",
        ),
        (
            {"balancer": tl.multitask.FixedWeights(weights={"kind": 1, "sizes": 1})},
            "did you mean 'size'",
        ),
        ({"wrt": "layer2", "report_conflicts": True}, "did you mean 'layer1'"),
        ({"wrt": "head", "report_conflicts": True}, "name a stage before it"),
        ({"stream": "unlabelled"}, "no labels"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(bench, fields, message):
    with pytest.raises(tl.UserError, match=message):
        MultiTask(**fields).check(bench("multitask").setup)


def test_heads_of_a_wrong_size_are_told_with_those_of_each_task(bench):
    room = bench("multitask", model=tl.models.MLP(outputs=4, widths=(8,)))
    with pytest.raises(tl.UserError, match=r"\(kind 2, size 1\), but it gives"):
        MultiTask().check(room.setup)
    with pytest.raises(tl.UserError, match="a term for multitask"):
        MultiTask().check(bench().setup)


def test_metrics_are_those_of_each_task_on_its_labelled_rows():
    rng = np.random.default_rng(0)
    logits, names = rng.normal(size=(9, 3)), ("kind=0", "kind=1", "size")
    y = np.stack([rng.integers(0, 2, 9), rng.normal(size=9)], axis=1)
    y[:3, 0] = y[5:, 1] = np.nan
    values = metrics.compute("multitask", logits, y, class_names=names)
    kind = metrics.compute("classification", logits[3:, :2], y[3:, 0].astype(int))
    size = metrics.compute("regression", logits[:5, 2:], y[:5, 1:])
    assert values == {
        "mean_score": np.mean([kind["accuracy"], size["r2"]]),
        **{f"{name}[kind]": value for name, value in kind.items()},
        **{f"{name}[size]": value for name, value in size.items()},
    }
    assert tuple(values) == metrics.names("multitask", names)
    y[:, 0] = np.nan
    values = metrics.compute("multitask", logits, y, class_names=names)
    assert np.isnan(values["accuracy[kind]"])
    assert values["mean_score"] == size["r2"]


def test_predictions_of_tasks_are_those_of_each_alone():
    logits = np.random.default_rng(0).normal(size=(4, 6))
    names = ("kind=0", "kind=1", "tags:a", "tags:b", "box.w", "box.h")
    ours = tl.losses.predictions_of_tasks(logits, names)
    theirs = [special.softmax(logits[:, :2], 1), special.expit(logits[:, 2:4])]
    np.testing.assert_allclose(ours, np.hstack([*theirs, logits[:, 4:]]), rtol=1e-6)
    with pytest.raises(tl.UserError, match="several tasks"):
        tl.losses.predictions(logits, "multitask")
    with pytest.raises(tl.UserError, match="need the names of all outputs"):
        metrics.compute("multitask", logits, logits)


def test_importance_of_several_tasks_is_refused():
    with pytest.raises(tl.UserError, match="this task is 'multitask'"):
        fisher.check_task("multitask")


def test_delta_m_is_the_mean_relative_change_where_better_is_above_0():
    several = {"accuracy[a]": 0.9, "mse[b]": 0.25}
    single = {"accuracy[a]": 0.8, "mse[b]": 0.2}
    # (+12.5 % − 25 %) / 2
    np.testing.assert_allclose(metrics.delta_m(several, single), -6.25)
    # An R² below 0 that rises is better.
    np.testing.assert_allclose(metrics.delta_m({"r2": -0.5}, {"r2": -1.0}), 50)
    np.testing.assert_allclose(metrics.delta_m({"nll": 0.5}, {"nll": -1.0}), -150)
    with pytest.raises(tl.UserError, match="the same metrics; got mse and none"):
        metrics.delta_m({"mse": 1.0}, {})
    with pytest.raises(tl.UserError, match="divides by the single task's mse"):
        metrics.delta_m({"mse": 1.0}, {"mse": 0.0})


def test_a_run_learns_and_measures_every_task(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    kinds = np.where(np.arange(300) % 3, x[:, 0] > 0, -1)
    sizes = np.where(np.arange(300) % 2, x[:, 1], np.nan)
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(16,)),
        data=tl.data.Arrays(x=x, y={"kind": kinds, "size": sizes}),
        optim=tl.optim.AdamW(lr=3e-2),
        monitor="accuracy[kind]",
        steps=60,
        batch=60,
    )
    run = tl.setup(exp, tmp_path)
    tl.train(run)
    values = tl.evaluate(run, "test")
    assert values["accuracy[kind]"] > 0.85
    assert values["r2[size]"] > 0.8


def _note(labels, **settings) -> str:
    """What is told of the term, for data with these labels."""
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.Arrays(x=x, y=labels, val=0, test=0),
        terms={"tasks": MultiTask(balancer=tl.multitask.PCGrad(), **settings)},
    )
    return tl.setup(exp).notes.get("tasks", "")


def test_one_label_per_example_is_told_where_features_are_compared():
    half = np.arange(12) < 6
    apart = {
        "kind": np.where(half, np.arange(12) % 2, -1),
        "size": np.where(half, np.nan, np.arange(12.0)),
    }
    assert "gradients by features are orthogonal" in _note(apart)
    assert "wrt='parameters'" in _note(apart)
    assert "orthogonal" not in _note(apart, wrt="parameters")
    one_more = {**apart, "size": np.where(np.arange(12) < 5, np.nan, np.arange(12.0))}
    assert "orthogonal" not in _note(one_more)


def test_one_label_per_example_gives_orthogonal_gradients_by_features():
    half = np.arange(12) < 6
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    labels = {
        "kind": np.where(half, np.arange(12) % 2, -1),
        "side": np.where(half, -1, np.arange(12) % 2),
    }

    def cosine(wrt):
        exp = tl.Experiment(
            model=tl.models.MLP(widths=(4,)),
            data=tl.data.Arrays(x=x, y=labels, val=0, test=0),
            terms={"tasks": MultiTask(balancer=tl.multitask.PCGrad(), wrt=wrt)},
            batch=12,
        )
        return tl.setup(exp).step()["tasks/cosine[kind,side]"]

    assert cosine("features") == pytest.approx(0.0, abs=1e-7)
    assert abs(cosine("parameters")) > 1e-3
