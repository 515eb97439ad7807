"""Vectorized runs end as they would if trained alone."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import compilation, config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.evaluation import feature_cache
from jaxtl.sweep import stacking, vectorized_loop, vectorized_runs, vectorized_step
from jaxtl.sweep.axes import Halving
from jaxtl.training import loop
from jaxtl.training.run import Run

MODES = ("map", "vmap")
# One after the other, replicas compute the same as a run alone; batched products and
# sums of small matrices differ in the last digits, and Adam's first steps divide by
# them.
TOLERANCES = {
    "map": {"rtol": 1e-5, "atol": 1e-6},
    "vmap": {"rtol": 1e-4, "atol": 1e-5},
}
MODEL = tl.models.MLP(widths=(12, 8))


@pytest.fixture(scope="module")
def source(tmp_path_factory, digits):
    """The directory of a run that others start from."""
    folder = tmp_path_factory.mktemp("source") / "run"
    exp = digits(model=MODEL, steps=20, data=tl.data.Digits(labels_per_class=20))
    tl.train(tl.setup(exp, folder), progress=False)
    return str(folder)


def variants_of(base, **columns):
    """One experiment for each row of values; a__b is the path a.b."""
    variants = []
    for row in zip(*columns.values()):
        exp = base
        for path, value in zip(columns, row):
            exp = config.override(exp, path.replace("__", "."), value)
        variants.append(exp)
    return variants


FIELDS = {
    "model": MODEL,
    "data": tl.data.Digits(labels_per_class=20),
    "steps": 12,
    "evaluate_every": 5,
    "log_every": 2,
    "batch": 16,
    "evaluate_batch": 100,
}


def numbers(digits, source):
    """Scheduled learning rates, weight decays, smoothing, weights of terms on θ₀."""
    terms = {
        "task": tl.losses.CrossEntropy(),
        "near": tl.regularizers.L2SP(),
        "jacobian": tl.regularizers.JacobianDifference(select="layer.*"),
    }
    base = digits(
        **FIELDS,
        init=tl.pretrained.FromRun(source, reset="head"),
        terms=terms,
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=0.01, warmup=2)),
    )
    return variants_of(
        base,
        optim__lr__peak=[0.01, 0.03, 0.01, 0.02],
        optim__weight_decay=[0.0, 0.1, 0.0, 0.3],
        terms__task__label_smoothing=[0.0, 0.0, 0.1, 0.3],
        terms__near__weight=[0.0, 0.1, 1.0, 0.01],
        terms__jacobian__weight=[0.0, 0.01, 0.1, 0.03],
    )


def seeds(digits, source):
    """Initial weights, splits, data order, dropout; few labels and wrong labels."""
    model = tl.models.MLP(widths=(12, 8), dropout=0.3)
    base = digits(**{**FIELDS, "model": model}, monitor="nll")
    return variants_of(
        base,
        seed=[0, 1, 2, 2],
        data__labels_per_class=[2, 5, 10, 10],
        data__label_noise=[0.0, 0.0, 0.2, 0.4],
        data__split_seed=[None, None, 5, 6],
    )


def norm(digits, source):
    """BatchNorm statistics, and averages of weights and statistics."""
    model = tl.models.CNN(widths=(2,), units=8, norm=True, dropout=0.3)
    base = digits(**{**FIELDS, "model": model}, average=tl.optim.EMA())
    return variants_of(base, seed=[0, 1, 1], average__decay=[0.9, 0.9, 0.5])


def lora(digits, source):
    """A reparametrization trained instead of the parameters."""
    base = digits(
        **FIELDS,
        init=tl.pretrained.FromRun(source, reset="head"),
        peft=tl.peft.LoRA(rank=2, select="layer.*"),
        terms={"task": tl.losses.CrossEntropy(), "near": tl.regularizers.L2SP()},
        cache="off",
    )
    return variants_of(
        base,
        seed=[0, 1, 1],
        peft__alpha=[1.0, 4.0, 2.0],
        terms__near__weight=[0.0, 0.1, 1.0],
    )


def frozen(digits, source):
    """Only the head trains, from features that all replicas share."""
    base = digits(
        **FIELDS,
        init=tl.pretrained.FromRun(source, reset="head"),
        optim=tl.optim.AdamW(lr=0.03, groups={"head": 1.0, ".*": tl.FROZEN}),
        cache="memory",
    )
    return variants_of(
        base,
        seed=[0, 1, 2],
        optim__lr=[0.03, 0.03, 0.1],
        data__labels_per_class=[10, 20, 5],
    )


def _table(task):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    y = x @ rng.normal(size=(5, 2)).astype(np.float32)
    return tl.data.Arrays(x=x, y=y > 0 if task == "multilabel" else y, task=task)


def regression(digits, source):
    fields = {**FIELDS, "data": _table("regression"), "monitor": None}
    return variants_of(digits(**fields), seed=[0, 1, 1], optim__lr=[0.01, 0.01, 0.1])


def multilabel(digits, source):
    fields = {**FIELDS, "data": _table("multilabel"), "test": False}
    return variants_of(digits(**fields), seed=[0, 1, 1], optim__lr=[0.01, 0.01, 0.1])


def no_val(digits, source):
    """Without a val split, so that the last weights are the chosen ones."""
    data = tl.data.Digits(labels_per_class=20, val=0)
    fields = {**FIELDS, "data": data, "monitor": None, "evaluate_every": None}
    return variants_of(digits(**fields), seed=[0, 1, 1], optim__lr=[0.01, 0.01, 0.1])


def adapted(digits, source):
    """An unlabelled target, a labelled source, and a term with a discriminator."""
    terms = {"task": tl.losses.CrossEntropy(stream="source"), "dann": tl.domain.DANN()}
    fields = {**FIELDS, "data": tl.data.Digits(labels=0), "terms": terms}
    base = digits(**fields, streams={"source": tl.data.RenderedDigits()})
    return variants_of(base, seed=[0, 1, 1], terms__dann__weight=[0.1, 0.1, 1.0])


CASES = (
    numbers,
    seeds,
    norm,
    lora,
    frozen,
    regression,
    multilabel,
    no_val,
    adapted,
)


@pytest.fixture(scope="module")
def trained_alone(digits, source):
    """A function: a case's runs, each trained alone, with their results."""
    trained = {}

    def train(case):
        if case not in trained:
            runs = [Run(exp) for exp in case(digits, source)]
            trained[case] = [(run, loop.train(run, progress=False)) for run in runs]
        return trained[case]

    return train


def vectorize(exps, mode):
    return vectorized_runs.VectorizedRuns([Run(exp) for exp in exps], mode)


def train_vectorized(exps, mode, **settings):
    """Trains experiments as replicas; returns (replicas, their outcomes)."""
    replicas = vectorize(exps, mode)
    return replicas, vectorized_loop.train_vectorized(replicas, **settings)


def compiled_programs():
    return len(compilation.stored(vectorized_step.compiled))


def assert_close(actual, expected, mode, name=""):
    for path, leaf in trees.flatten(expected).items():
        np.testing.assert_allclose(
            trees.flatten(actual)[path],
            leaf,
            **TOLERANCES[mode],
            err_msg=f"{name} {path}",
        )


IN_BOTH_MODES = (numbers, seeds, lora, frozen, adapted)


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        *((case, mode) for case in IN_BOTH_MODES for mode in MODES),
        (norm, "vmap"),
        *((case, "map") for case in (regression, multilabel, no_val)),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_replicas_end_as_they_would_alone(digits, source, trained_alone, case, mode):
    expected = trained_alone(case)
    replicas, outcomes = train_vectorized(case(digits, source), mode)
    for replica, (run, result) in enumerate(expected):
        state = jax.tree.map(lambda x, i=replica: x[i], replicas.states)
        for part in ("trainable", "stats", "average", "terms"):
            assert_close(getattr(state, part), getattr(run.state, part), mode, part)
        outcome = outcomes[replica]
        assert outcome.status == "done"
        for split in ("val", "test"):
            assert (split in outcome.result) == (split in result)
            for name, value in result.get(split, {}).items():
                np.testing.assert_allclose(
                    outcome.result[split][name],
                    value,
                    **TOLERANCES[mode],
                    err_msg=name,
                )
        for name in ("steps", "chosen", "monitor", "seed", "examples", "parameters"):
            assert outcome.result[name] == result[name], name
        for name in ("trainable_parameters", "optimizer_bytes", "parameter_bytes"):
            assert outcome.result[name] == result[name], name
        if result["drift"] is None:
            assert outcome.result["drift"] is None
        else:
            assert outcome.result["drift"] == pytest.approx(result["drift"], rel=1e-4)
        assert_same_details(outcome.result.get("details"), result.get("details"))
        assert_same_curve(outcome.curve, run.curve)


def assert_same_details(actual, expected):
    if expected is None:
        assert actual is None
        return
    assert actual.keys() == expected.keys()
    assert actual["split"] == expected["split"]
    assert actual["classes"] == expected["classes"]
    np.testing.assert_array_equal(actual["confusion"], expected["confusion"])


def assert_same_curve(actual, expected):
    assert actual["step"] == expected["step"]
    np.testing.assert_allclose(actual["loss"], expected["loss"], rtol=1e-4)
    assert len(actual["val"]) == len(expected["val"])
    for row, expected_row in zip(actual["val"], expected["val"]):
        assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-5)


def test_replicas_of_a_case_differ(trained_alone):
    """Otherwise the equalities above would hold for replicas of the same run."""
    for case in set(CASES) - {no_val}:
        curves = [
            str((run.curve, result["val"])) for run, result in trained_alone(case)
        ]
        assert len(set(curves)) == len(curves), case.__name__


def test_results_have_the_keys_of_a_run_alone(digits, source, trained_alone):
    for case in (numbers, no_val):
        _, outcomes = train_vectorized(case(digits, source), "map")
        expected = {*trained_alone(case)[0][1], "seconds", "lanes"}
        assert set(outcomes[0].result) == expected


def test_replicas_that_train_a_head_share_its_features(digits, source):
    feature_cache.clear()
    replicas, _ = train_vectorized(frozen(digits, source), "map")
    assert replicas.cached.stages == ("layer1", "layer2")
    rows = [set(run.parts.datasets["target"].rows["train"]) for run in replicas.runs]
    assert len(replicas.cached.streams["target"].features) == len(set.union(*rows))
    assert all(x.shape[2:] != (8,) for x in replicas.stacked)


def test_arrays_that_all_replicas_read_exist_once(digits, source):
    assert vectorize(numbers(digits, source), "map").stacked == []
    replicas = vectorize(seeds(digits, source), "map")
    pixels = [x for x in replicas.shared if x.ndim == 4]
    assert [x.shape for x in pixels] == [(1797, 8, 8, 1)]
    assert all(x.ndim <= 2 for x in replicas.stacked), "only rows and labels differ"


# --- replicas that leave -------------------------------------------------------------


def rates(digits, *values, **fields):
    base = digits(**{**FIELDS, "optim": tl.optim.SGD(lr=0.1), **fields})
    return variants_of(base, optim__lr=list(values))


@pytest.mark.parametrize("mode", MODES)
def test_a_replica_that_diverges_fails_as_alone_and_changes_no_other(digits, mode):
    terms = {
        "task": tl.losses.CrossEntropy(),
        "decay": tl.regularizers.WeightDecay(weight=1e-3),
    }
    diverging = rates(digits, 0.1, 1e30, 0.3, terms=terms)
    sound = rates(digits, 0.1, 0.2, 0.3, terms=terms)
    replicas, outcomes = train_vectorized(diverging, mode)
    sound_replicas, sound_outcomes = train_vectorized(sound, mode)
    run, failed = Run(diverging[1]), outcomes[1]
    with pytest.raises(UserError, match="training stopped at step") as error:
        loop.train(run, progress=False)
    assert (failed.status, failed.result) == ("failed", {})
    assert failed.error == str(error.value)
    assert failed.curve["step"] == run.curve["step"]
    for i in (0, 2):
        actual, expected = outcomes[i], sound_outcomes[i]
        assert actual.status == "done"
        assert actual.curve == expected.curve
        assert actual.result["val"] == expected.result["val"]
        assert actual.result["chosen"] == expected.result["chosen"]
        assert actual.result["test"] == pytest.approx(expected.result["test"], rel=1e-6)
        for leaf, expected_leaf in zip(
            jax.tree.leaves(replicas.states.trainable),
            jax.tree.leaves(sound_replicas.states.trainable),
        ):
            np.testing.assert_array_equal(leaf[i], expected_leaf[i])


def test_all_replicas_may_diverge(digits):
    _, outcomes = train_vectorized(rates(digits, 1e30, 1e31), "map")
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]


RATES = (0.003, 0.03, 0.3, 0.01, 0.1)


def by_seed(digits, **fields):
    exps = rates(digits, *RATES, steps=20, evaluate_every=5, **fields)
    return [dataclasses.replace(exp, seed=s) for exp in exps for s in range(2)]


def mean_on_val(outcomes, settings, name, step, metric):
    """Mean over the seeds of a setting of a metric on val."""
    curves = [
        outcome.curve["val"]
        for outcome, setting in zip(outcomes, settings)
        if setting == name
    ]
    return np.mean(
        [row[metric] for rows in curves for row in rows if row["step"] == step]
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", ["accuracy", "nll"])
def test_halving_stops_the_settings_that_are_worst_on_val(digits, mode, monitor):
    exps = by_seed(digits, monitor=monitor)
    settings = [exp.optim.lr for exp in exps]
    before = compiled_programs()
    full_replicas, full = train_vectorized(exps, mode)
    after = compiled_programs()
    assert after <= before + 1
    halving = Halving((0.25, 0.5), keep=0.5)
    replicas, outcomes = train_vectorized(
        exps, mode, halving=halving, settings=settings
    )
    assert compiled_programs() == after

    sign, remaining, stopped_at = (1 if monitor == "accuracy" else -1), list(RATES), {}
    for rung in (5, 10):
        means = {
            name: sign * mean_on_val(full, settings, name, rung, monitor)
            for name in remaining
        }
        # Of equal settings the first go on: sorting keeps their order.
        best = sorted(remaining, key=means.get, reverse=True)
        best = best[: math.ceil(len(remaining) / 2)]
        stopped_at.update({name: rung for name in remaining if name not in best})
        remaining = [name for name in remaining if name in best]
    assert len(remaining) == 2

    for i, (outcome, setting, whole) in enumerate(zip(outcomes, settings, full)):
        if setting in remaining:
            assert outcome.status == "done"
            assert outcome.curve == whole.curve
            expected = pytest.approx(whole.result["test"], rel=1e-6)
            assert outcome.result["test"] == expected
            assert outcome.result["chosen"] == whole.result["chosen"]
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_array_equal(a[i], b[i]),
                replicas.states.trainable,
                full_replicas.states.trainable,
            )
            continue
        last = stopped_at[setting]
        assert outcome.status == "stopped"
        assert outcome.result["steps"] == outcome.curve["step"][-1] == last
        assert "test" not in outcome.result
        rows = [row for row in whole.curve["val"] if row["step"] <= last]
        assert outcome.curve["val"] == rows
        best = max(rows, key=lambda row: sign * row[monitor])
        assert outcome.result["chosen"] == best["step"]


def test_halving_keeps_at_least_one_setting(digits):
    halving = Halving((0.25, 0.5, 0.75), keep=0.1)
    exps = by_seed(digits)
    settings = [exp.optim.lr for exp in exps]
    _, outcomes = train_vectorized(exps, "map", halving=halving, settings=settings)
    done = {s for outcome, s in zip(outcomes, settings) if outcome.status == "done"}
    assert len(done) == 1


def test_halving_counts_out_replicas_that_diverged(digits):
    exps = rates(digits, 0.1, 1e30, 0.2, 0.3)
    halving = Halving((0.5,))
    _, outcomes = train_vectorized(exps, "map", halving=halving, settings=range(4))
    statuses = sorted(outcome.status for outcome in outcomes)
    assert statuses == ["done", "done", "failed", "stopped"]


def test_halving_ranks_settings_with_a_failed_seed_last(digits):
    # The seed of "fast" that is left is the best of all.
    exps = rates(digits, 1e-9, 2e-9, 0.1, 1e30)
    settings = ["slow", "slow", "fast", "fast"]
    _, outcomes = train_vectorized(
        exps, "map", halving=Halving((0.5,)), settings=settings
    )
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == ["done", "done", "stopped", "failed"]


def test_training_stops_when_it_should(digits):
    steps = []
    _, outcomes = train_vectorized(
        rates(digits, 0.1, 0.2),
        "map",
        should_stop=lambda: bool(steps),
        on_evaluation=steps.append,
    )
    assert outcomes is None
    assert steps == [5]


# --- runs that can be replicas -------------------------------------------------------


def test_sixty_runs_compile_one_program(digits):
    axes = {
        "optim.lr": [0.01, 0.02, 0.05],
        "terms.task.label_smoothing": [0.0, 0.1],
        "data.labels_per_class": [5, 10],
        "seed": range(5),
    }
    terms = {"task": tl.losses.CrossEntropy()}
    base = digits(**{**FIELDS, "steps": 2, "evaluate_every": 2}, terms=terms)
    exps = [base]
    for path, values in axes.items():
        exps = [config.override(exp, path, v) for exp in exps for v in values]
    assert len(exps) == 60
    before = compiled_programs()
    replicas, outcomes = train_vectorized(exps, "map")
    assert compiled_programs() == before + 1
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert replicas.active == list(range(60))


def test_runs_of_different_programs_are_no_replicas(digits):
    exp = digits(**FIELDS)
    wider = dataclasses.replace(exp, model=tl.models.MLP(widths=(13, 8)))
    for changed in (wider, dataclasses.replace(exp, batch=8)):
        with pytest.raises(stacking.IncompatibleRuns):
            vectorize([exp, changed], "map")
