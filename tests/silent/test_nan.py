"""A model that diverged has no number: not in a metric, a choice, a run or a sweep.

Origin: issue 13, F: all-NaN logits scored accuracy .9, since argmax takes the first of
NaNs, and a sweep over lr {1e-2, 1e38} chose 1e38 with "95.0 ± 0.0 %".
"""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.analysis import weight_space
from jaxtl.analysis.ensemble import combine
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics, validators
from jaxtl.sweep import vectorized_loop, vectorized_runs
from jaxtl.training import run, wise_ft

rng = np.random.default_rng(0)
LABELS = {
    "classification": np.array([0] * 9 + [1]),
    "multilabel": rng.integers(0, 2, (10, 3)),
    "regression": rng.normal(size=(10, 2)),
    "language": np.zeros(10, int),
    "entities": np.tile([0, 1, 2, 0], (10, 1)),
    "tags": np.tile([0, 1, -1, 0], (10, 1)),
    "question_answering": np.ones(10, int),
    "contrastive": np.arange(10),
    # Classes of "animal" and numbers of "age"; the last row has no class.
    "multitask": np.stack(
        [np.array([0.0] * 8 + [1.0, math.nan]), rng.normal(size=10)], 1
    ),
}
OUTPUTS = {"class_names": ("animal=cat", "animal=dog", "age")}  # of "multitask"
TAGS = {"class_names": ("O", "B-PER", "I-PER")}  # which the entity metrics read
ALL_METRICS = [
    (task, name, metric)
    for task, table in metrics.METRICS.items()
    for name, metric in table.items()
] + [
    ("classification", "brier", metrics.brier),
    ("classification", "confusion", metrics.confusion),
]


def _logits(task):
    if task == "language":
        return np.stack([rng.uniform(1, 9, 10), np.full(10, 2), np.full(10, 5)], 1)
    shapes = {"multilabel": (10, 3), "entities": (10, 4, 3), "tags": (10, 4, 3)}
    shapes |= {"question_answering": (10, 7), "contrastive": (10, 6)}
    shapes |= {"multitask": (10, 3)}
    return rng.normal(size=shapes.get(task, (10, 2)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("task", "name", "metric"), ALL_METRICS)
def test_one_logit_that_is_not_finite_makes_every_metric_nan(task, name, metric, bad):
    logits, labels = _logits(task), LABELS[task]
    names = TAGS if name.startswith("entity_") else {}
    names = OUTPUTS if task == "multitask" else names
    assert np.isfinite(metric(logits, labels, **names)).all()
    logits[4, 0] = bad
    assert np.isnan(metric(logits, labels, **names)).all()
    assert np.isnan(metric(np.full_like(logits, bad), labels, **names)).all()
    weights = np.ones(10)
    weights[4] = 0  # a padded row may hold anything
    assert np.isfinite(metric(logits, labels, weights, **names)).all()
    if name in metrics.METRICS[task]:
        values = metrics.compute(task, logits, labels, **(names or TAGS))
        assert math.isnan(values[name])
        values = metrics.compute(task, logits, labels, weights, **(names or TAGS))
        assert math.isfinite(values[name])


def test_metrics_of_finite_logits_are_scikit_learns():
    from sklearn import metrics as theirs

    logits, labels = rng.normal(size=(200, 4)), rng.integers(0, 4, 200)
    chosen = logits.argmax(1)
    values = metrics.compute("classification", logits, labels)
    close = np.testing.assert_allclose
    close(values["accuracy"], theirs.accuracy_score(labels, chosen))
    close(values["balanced_accuracy"], theirs.balanced_accuracy_score(labels, chosen))
    close(values["macro_f1"], theirs.f1_score(labels, chosen, average="macro"))
    confusion = theirs.confusion_matrix(labels, chosen)
    np.testing.assert_array_equal(metrics.confusion(logits, labels), confusion)


@pytest.mark.parametrize("part", range(6))
def test_criteria_without_labels_are_nan_too(part):
    sizes = {0: (8, 3), 2: (8, 5), 3: (8, 5), 4: (8, 3), 5: (8, 5)}
    parts = [rng.normal(size=sizes.get(i, (8,))) for i in range(6)]
    parts[1] = rng.integers(0, 3, 8)
    evidence = validators.Evidence(*parts)
    assert np.isfinite([*validators.measure("classification", evidence).values()]).all()
    if part == 1:  # labels
        return
    parts[part][2] = math.inf
    values = validators.measure("classification", validators.Evidence(*parts))
    assert np.isnan([*values.values()]).all()


@pytest.mark.parametrize("name", ["accuracy", "nll", "r2", "mse", "snd"])
def test_nan_is_never_the_best(name):
    numbers = [0.3, math.nan, 0.1, 0.7, math.nan]
    for order in (numbers, numbers[::-1], sorted(numbers, key=str)):
        best = max(order, key=lambda value: metrics.score(name, value))
        assert best == (0.7 if metrics.higher_is_better(name) else 0.1)


def test_a_vote_of_nan_logits_is_no_vote():
    """np.eye(K)[argmax of NaN] gave it to class 0."""
    logits = rng.normal(size=(3, 4, 2))
    logits[1, 2] = math.nan
    votes = combine.hard_vote(logits)
    assert np.isnan(votes[2]).all()
    assert np.isfinite(votes[[0, 1, 3]]).all()
    assert math.isnan(combine.fit_temperature(logits[1], [0, 1, 0, 1]))


def _experiment(digits, **changes):
    fields = {
        "optim": tl.optim.SGD(lr=1e38),
        "data": tl.data.Digits(labels_per_class=5, val=0.2),
        "steps": 1,
    }
    return digits(**{**fields, **changes})


def test_the_last_update_is_judged(digits):
    """One step, a finite loss before it, and weights of 1e38 after it."""
    with pytest.raises(UserError, match=r"stopped at step 1: .* outputs on val"):
        tl.train(tl.setup(_experiment(digits)))
    data = tl.data.Digits(labels_per_class=5, val=0, test=0)
    blind = tl.setup(_experiment(digits, data=data, monitor=None, test=False))
    blind.advance(1)
    blind.state.stats["never_read"] = jnp.float32(math.nan)
    with pytest.raises(UserError, match=r"\(never_read\) is NaN .* after step 1"):
        tl.train(blind)


@pytest.mark.parametrize("mode", ["map", "vmap"])
def test_runs_that_step_together_are_judged_alike(digits, mode):
    exps = [_experiment(digits, optim=tl.optim.SGD(lr=lr)) for lr in (0.1, 1e38)]
    replicas = vectorized_runs.VectorizedRuns([run.Run(exp) for exp in exps], mode)
    sound, diverged = vectorized_loop.train_vectorized(replicas)
    with pytest.raises(UserError) as alone:
        tl.train(tl.setup(exps[1]))
    assert (sound.status, diverged.status) == ("done", "failed")
    assert diverged.error == str(alone.value)


def test_a_soup_or_a_line_of_nan_is_refused(digits):
    """The largest of −∞ would be the first or the last of them."""
    trained = tl.setup(_experiment(digits))
    trained.loaded = jax.tree.map(lambda x: x * math.nan, trained.weights())
    with pytest.raises(UserError, match="accuracy on val is not finite for the soup"):
        weight_space.soup([trained, trained])


def test_weights_that_are_nan_before_the_first_step(digits, tmp_path):
    exp = _experiment(digits, steps=1, optim=tl.optim.AdamW())
    tl.train(tl.setup(exp, tmp_path / "a"))
    exp = _experiment(digits, steps=0, init=tl.pretrained.FromRun(str(tmp_path / "a")))
    broken = tl.setup(exp)
    model = trees.copy(broken.state.trainable["model"])
    kernel = model["head"]["dense"]["kernel"]
    model["head"]["dense"]["kernel"] = kernel.at[0, 0].set(math.nan)
    broken.state.trainable["model"] = model
    with pytest.raises(UserError, match=r"initial weight \(head/dense/kernel\) is NaN"):
        tl.train(broken)
    values = tl.evaluate(broken, "val")
    assert all(math.isnan(value) for value in values.values())


def test_a_sweep_chooses_the_rate_that_learns(digits):
    """The issue's: {1e-2, 1e38} chose 1e38 with 95.0 ± 0.0 %."""
    exp = _experiment(digits, steps=2, evaluate_every=1)
    results = tl.run_sweep(exp, {"optim.lr": [1e-2, 1e38], "seed": range(2)})
    records = {
        (r.labels["optim.lr"], r.labels["seed"]): r.status
        for r in results.collection.records
    }
    assert records[1e-2, 0] == records[1e-2, 1] == "done"
    assert records[1e38, 0] == records[1e38, 1] == "failed"
    assert [row.labels["optim.lr"] for row in results.summary.rows] == [1e-2]


def test_a_line_from_the_source_never_ends_in_nan(monkeypatch):
    """max() keeps a NaN that comes first, whatever follows."""
    accuracies, chosen = {0.0: math.nan, 0.5: 0.4, 1.0: 0.2}, []
    line = types.SimpleNamespace(
        exp=types.SimpleNamespace(wise_ft=tuple(accuracies)),
        weights=lambda which: None,
        monitor="accuracy",
        directions={},
        set_best=lambda weights, value, values: chosen.append(value),
    )
    monkeypatch.setattr(wise_ft, "between", lambda run, tuned, alpha: (alpha, {}))
    monkeypatch.setattr(
        wise_ft.evaluate,
        "evaluate_weights",
        lambda run, params, stats, split: {"accuracy": accuracies[params]},
    )
    assert wise_ft.choose(line) == 0.5
    assert chosen == [0.4]


def test_texts_without_a_predicted_token_have_no_perplexity():
    with pytest.raises(UserError, match="at least one predicted token"):
        metrics.compute("language", np.zeros((3, 3)), np.zeros(3))


def test_the_first_bad_leaf_is_named():
    tree = {"a": jnp.ones(2), "b": {"c": jnp.array([1.0, math.inf])}, "n": jnp.int32(1)}
    assert trees.first_not_finite(tree) == "b/c"
    assert trees.first_not_finite(jax.tree.map(jnp.zeros_like, tree)) is None
