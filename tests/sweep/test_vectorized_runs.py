"""Runs side by side end as they would alone."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.evaluation import feature_cache
from jaxtl.sweep import stacking, vectorized_loop, vectorized_runs
from jaxtl.sweep.axes import Halving
from jaxtl.training import loop
from jaxtl.training.run import Run

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODES = ("map", "vmap")
# One after the other, lanes do what a run alone does; batched products and sums of
# small matrices differ in the last digits, and Adam's first steps divide by them.
CLOSE = {
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


def changed(base, **columns):
    """Returns one experiment for each row of values: a_b is the path a.b."""
    made = []
    for row in zip(*columns.values()):
        exp = base
        for path, value in zip(columns, row):
            exp = config.override(exp, path.replace("__", "."), value)
        made.append(exp)
    return made


USUAL = {
    "model": MODEL,
    "data": tl.data.Digits(labels_per_class=20),
    "steps": 12,
    "evaluate_every": 5,
    "log_every": 2,
    "batch": 16,
    "evaluate_batch": 100,
}


def numbers(digits, source):
    """Rates by a schedule, decay, smoothing, weights of terms that look at θ₀."""
    terms = {
        "task": tl.losses.CrossEntropy(),
        "near": tl.regularizers.L2SP(),
        "jacobian": tl.regularizers.JacobianDifference(select="layer.*"),
    }
    base = digits(
        **USUAL,
        init=tl.pretrained.FromRun(source, reset="head"),
        terms=terms,
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=0.01, warmup=2)),
    )
    return changed(
        base,
        optim__lr__peak=[0.01, 0.03, 0.01, 0.02],
        optim__weight_decay=[0.0, 0.1, 0.0, 0.3],
        terms__task__label_smoothing=[0.0, 0.0, 0.1, 0.3],
        terms__near__weight=[0.0, 0.1, 1.0, 0.01],
        terms__jacobian__weight=[0.0, 0.01, 0.1, 0.03],
    )


def seeds(digits, source):
    """Initial weights, splits, order, dropout; few labels, and wrong ones."""
    model = tl.models.MLP(widths=(12, 8), dropout=0.3)
    base = digits(**{**USUAL, "model": model}, monitor="nll")
    return changed(
        base,
        seed=[0, 1, 2, 2],
        data__labels_per_class=[2, 5, 10, 10],
        data__label_noise=[0.0, 0.0, 0.2, 0.4],
        data__split_seed=[None, None, 5, 6],
    )


def norm(digits, source):
    """BatchNorm's statistics, and averages of weights and statistics."""
    model = tl.models.CNN(widths=(2,), units=8, norm=True, dropout=0.3)
    base = digits(**{**USUAL, "model": model}, average=tl.optim.EMA())
    return changed(base, seed=[0, 1, 1], average__decay=[0.9, 0.9, 0.5])


def lora(digits, source):
    """What is trained beside the parameters."""
    base = digits(
        **USUAL,
        init=tl.pretrained.FromRun(source, reset="head"),
        peft=tl.peft.LoRA(rank=2, select="layer.*"),
        terms={"task": tl.losses.CrossEntropy(), "near": tl.regularizers.L2SP()},
        cache="off",
    )
    return changed(
        base,
        seed=[0, 1, 1],
        peft__alpha=[1.0, 4.0, 2.0],
        terms__near__weight=[0.0, 0.1, 1.0],
    )


def frozen(digits, source):
    """The head alone, from features that all lanes share."""
    base = digits(
        **USUAL,
        init=tl.pretrained.FromRun(source, reset="head"),
        optim=tl.optim.AdamW(lr=0.03, groups={"head": 1.0, ".*": tl.FROZEN}),
        cache="memory",
    )
    return changed(
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
    fields = {**USUAL, "data": _table("regression"), "monitor": None}
    return changed(digits(**fields), seed=[0, 1, 1], optim__lr=[0.01, 0.01, 0.1])


def multilabel(digits, source):
    fields = {**USUAL, "data": _table("multilabel"), "test": False}
    return changed(digits(**fields), seed=[0, 1, 1], optim__lr=[0.01, 0.01, 0.1])


def no_val(digits, source):
    """No val split, so that the last weights are the ones."""
    data = tl.data.Digits(labels_per_class=20, val=0)
    fields = {**USUAL, "data": data, "monitor": None, "evaluate_every": None}
    return changed(digits(**fields), seed=[0, 1, 1], optim__lr=[0.01, 0.01, 0.1])


def adapted(digits, source):
    """A target without labels, a source with them, a discriminator of the term's."""
    terms = {"task": tl.losses.CrossEntropy(stream="source"), "dann": tl.domain.DANN()}
    fields = {**USUAL, "data": tl.data.Digits(labels=0), "terms": terms}
    base = digits(**fields, streams={"source": tl.data.RenderedDigits()})
    return changed(base, seed=[0, 1, 1], terms__dann__weight=[0.1, 0.1, 1.0])


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
def alone(digits, source):
    """Returns a function: a case's runs, each trained alone, with their results."""
    known = {}

    def trained(case):
        if case not in known:
            runs = [Run(exp) for exp in case(digits, source)]
            known[case] = [(run, loop.train(run, progress=False)) for run in runs]
        return known[case]

    return trained


def side_by_side(exps, mode, **settings):
    """Returns (lanes, what became of them)."""
    side = vectorized_runs.VectorizedRuns([Run(exp) for exp in exps], mode)
    return side, vectorized_loop.train_vectorized(side, **settings)


def close(found, expected, mode, name=""):
    for path, leaf in trees.flatten(expected).items():
        other = trees.flatten(found)[path]
        told = f"{name} {path}"
        np.testing.assert_allclose(other, leaf, **CLOSE[mode], err_msg=told)


BOTH = (numbers, seeds, lora, frozen, adapted)


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        *((case, mode) for case in BOTH for mode in MODES),
        (norm, "vmap"),
        *((case, "map") for case in (regression, multilabel, no_val)),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_lanes_end_as_they_would_alone(digits, source, alone, case, mode):
    expected = alone(case)
    side, found = side_by_side(case(digits, source), mode)
    for lane, (run, result) in enumerate(expected):
        mine = jax.tree.map(lambda x, lane=lane: x[lane], side.states)
        for part in ("trainable", "stats", "average", "terms"):
            close(getattr(mine, part), getattr(run.state, part), mode, part)
        one = found[lane]
        assert one.status == "done"
        for split in ("val", "test"):
            assert (split in one.result) == (split in result)
            for name, value in result.get(split, {}).items():
                ours = one.result[split][name]
                np.testing.assert_allclose(ours, value, **CLOSE[mode], err_msg=name)
        for name in ("steps", "chosen", "monitor", "seed", "examples", "parameters"):
            assert one.result[name] == result[name], name
        for name in ("trainable_parameters", "optimizer_bytes", "parameter_bytes"):
            assert one.result[name] == result[name], name
        if result["drift"] is None:
            assert one.result["drift"] is None
        else:
            assert one.result["drift"] == pytest.approx(result["drift"], rel=1e-4)
        _same_details(one.result.get("details"), result.get("details"))
        _same_curve(one.curve, run.curve)


def _same_details(ours, theirs):
    if theirs is None:
        assert ours is None
        return
    assert ours.keys() == theirs.keys()
    assert (ours["split"], ours["classes"]) == (theirs["split"], theirs["classes"])
    np.testing.assert_array_equal(ours["confusion"], theirs["confusion"])


def _same_curve(ours, theirs):
    assert ours["step"] == theirs["step"]
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
    assert len(ours["val"]) == len(theirs["val"])
    for one, other in zip(ours["val"], theirs["val"]):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_lanes_of_the_cases_differ(alone):
    """Else the equalities above would hold for lanes that are all the same run."""
    for case in set(CASES) - {no_val}:
        curves = [str((run.curve, result["val"])) for run, result in alone(case)]
        assert len(set(curves)) == len(curves), case.__name__


def test_results_have_the_keys_of_a_run_alone(digits, source, alone):
    for case in (numbers, no_val):
        _, found = side_by_side(case(digits, source), "map")
        theirs = {*alone(case)[0][1], "seconds", "lanes"}
        assert set(found[0].result) == theirs


def test_lanes_that_train_a_head_share_its_features(digits, source):
    feature_cache.forget()
    side, _ = side_by_side(frozen(digits, source), "map")
    assert side.cached.stages == ("layer1", "layer2")
    drawn = [set(run.parts.datasets["target"].rows["train"]) for run in side.runs]
    assert len(side.cached.streams["target"].features) == len(set.union(*drawn))
    assert all(x.shape[2:] != (8,) for x in side.own)


def test_what_all_read_is_there_once(digits, source):
    side = vectorized_runs.VectorizedRuns(
        [Run(exp) for exp in numbers(digits, source)], "map"
    )
    assert side.own == []
    side = vectorized_runs.VectorizedRuns(
        [Run(exp) for exp in seeds(digits, source)], "map"
    )
    pixels = [x for x in side.shared if x.ndim == 4]
    assert [x.shape for x in pixels] == [(1797, 8, 8, 1)]
    assert all(x.ndim <= 2 for x in side.own), "rows and labels alone are their own"


# --- lanes that leave ----------------------------------------------------------------


def rates(digits, *values, **fields):
    base = digits(**{**USUAL, "optim": tl.optim.SGD(lr=0.1), **fields})
    return changed(base, optim__lr=list(values))


@pytest.mark.parametrize("mode", MODES)
def test_a_lane_that_blows_up_fails_as_alone_and_leaves_the_others_be(digits, mode):
    terms = {
        "task": tl.losses.CrossEntropy(),
        "decay": tl.regularizers.WeightDecay(weight=1e-3),
    }
    broken = rates(digits, 0.1, 1e30, 0.3, terms=terms)
    sound = rates(digits, 0.1, 0.2, 0.3, terms=terms)
    side, (first, bad, last) = side_by_side(broken, mode)
    other, (one, _, three) = side_by_side(sound, mode)
    run = Run(broken[1])
    with pytest.raises(UserError, match="training stopped at step") as error:
        loop.train(run, progress=False)
    assert (bad.status, bad.result) == ("failed", {})
    assert bad.error == str(error.value)
    assert bad.curve["step"] == run.curve["step"]
    for ours, theirs in ((first, one), (last, three)):
        assert ours.status == "done"
        assert ours.curve == theirs.curve
        assert ours.result["val"] == theirs.result["val"]
        assert ours.result["chosen"] == theirs.result["chosen"]
        assert ours.result["test"] == pytest.approx(theirs.result["test"], rel=1e-6)
    for lane in (0, 2):
        for ours, theirs in zip(
            jax.tree.leaves(side.states.trainable),
            jax.tree.leaves(other.states.trainable),
        ):
            np.testing.assert_array_equal(ours[lane], theirs[lane])


def test_lanes_may_all_blow_up(digits):
    _, found = side_by_side(rates(digits, 1e30, 1e31), "map")
    assert [one.status for one in found] == ["failed", "failed"]


SETTINGS = (0.003, 0.03, 0.3, 0.01, 0.1)


def by_seed(digits, **fields):
    made = rates(digits, *SETTINGS, steps=20, evaluate_every=5, **fields)
    return [dataclasses.replace(exp, seed=s) for exp in made for s in range(2)]


def _mean(found, settings, name, step, metric):
    """Returns the mean over a setting's seeds of a metric on val."""
    rows = [one.curve["val"] for one, own in zip(found, settings) if own == name]
    return np.mean([row[metric] for val in rows for row in val if row["step"] == step])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", ["accuracy", "nll"])
def test_halving_stops_the_settings_that_are_worst_on_val(digits, mode, monitor):
    exps = by_seed(digits, monitor=monitor)
    settings = [exp.optim.lr for exp in exps]
    before = len(vectorized_runs._COMPILED)
    side, whole = side_by_side(exps, mode)
    compiled = len(vectorized_runs._COMPILED)
    assert compiled <= before + 1
    halving = Halving((0.25, 0.5), keep=0.5)
    cut, found = side_by_side(exps, mode, halving=halving, settings=settings)
    assert len(vectorized_runs._COMPILED) == compiled

    sign, going, left_at = (1 if monitor == "accuracy" else -1), list(SETTINGS), {}
    for rung in (5, 10):
        means = {
            name: sign * _mean(whole, settings, name, rung, monitor) for name in going
        }
        # Of equals the first go on: sorting keeps their order.
        best = sorted(going, key=means.get, reverse=True)[: math.ceil(len(going) / 2)]
        left_at.update({name: rung for name in going if name not in best})
        going = [name for name in going if name in best]
    assert len(going) == 2

    for lane, (one, own, alike) in enumerate(zip(found, settings, whole)):
        if own in going:
            assert one.status == "done"
            assert one.curve == alike.curve
            assert one.result["test"] == pytest.approx(alike.result["test"], rel=1e-6)
            assert one.result["chosen"] == alike.result["chosen"]
            jax.tree.map(
                lambda a, b, lane=lane: np.testing.assert_array_equal(a[lane], b[lane]),
                cut.states.trainable,
                side.states.trainable,
            )
            continue
        assert one.status == "stopped"
        assert one.result["steps"] == one.curve["step"][-1] == left_at[own]
        assert "test" not in one.result
        rows = [row for row in alike.curve["val"] if row["step"] <= left_at[own]]
        assert one.curve["val"] == rows
        best = max(rows, key=lambda row: sign * row[monitor])
        assert one.result["chosen"] == best["step"]


def test_halving_keeps_at_least_one_setting(digits):
    halving = Halving((0.25, 0.5, 0.75), keep=0.1)
    exps = by_seed(digits)
    settings = [exp.optim.lr for exp in exps]
    _, found = side_by_side(exps, "map", halving=halving, settings=settings)
    done = {own for one, own in zip(found, settings) if one.status == "done"}
    assert len(done) == 1


def test_halving_takes_what_blew_up_for_lost(digits):
    exps = rates(digits, 0.1, 1e30, 0.2, 0.3)
    _, found = side_by_side(exps, "map", halving=Halving((0.5,)), settings=range(4))
    assert sorted(one.status for one in found) == ["done", "done", "failed", "stopped"]


def test_training_that_is_asked_to_stop_stops(digits):
    told = []
    _, found = side_by_side(
        rates(digits, 0.1, 0.2),
        "map",
        asked_to_stop=lambda: bool(told),
        tell=told.append,
    )
    assert found is None
    assert told == [5]


# --- what can be lanes ---------------------------------------------------------------


def test_sixty_runs_compile_one_program(digits):
    axes = {
        "optim.lr": [0.01, 0.02, 0.05],
        "terms.task.label_smoothing": [0.0, 0.1],
        "data.labels_per_class": [5, 10],
        "seed": range(5),
    }
    terms = {"task": tl.losses.CrossEntropy()}
    base = digits(**{**USUAL, "steps": 2, "evaluate_every": 2}, terms=terms)
    exps = [base]
    for path, values in axes.items():
        exps = [config.override(exp, path, v) for exp in exps for v in values]
    assert len(exps) == 60
    before = len(vectorized_runs._COMPILED)
    side, found = side_by_side(exps, "map")
    assert len(vectorized_runs._COMPILED) == before + 1
    assert {one.status for one in found} == {"done"}
    assert side.active == list(range(60))


def test_other_programs_are_no_lanes(digits):
    one = digits(**USUAL)
    wider = dataclasses.replace(one, model=tl.models.MLP(widths=(13, 8)))
    for other in (wider, dataclasses.replace(one, batch=8)):
        with pytest.raises(stacking.Unlike):
            vectorized_runs.VectorizedRuns([Run(one), Run(other)], "map")


WHY = {
    "phases": {"phases": tl.optim.GradualUnfreezing()},
    "no steps": {"steps": 0},
    "data streamed from the host": {"device_bytes": 0},
}


@pytest.mark.parametrize("why", WHY)
def test_what_takes_its_steps_alone(digits, why):
    run = Run(digits(**{**USUAL, **WHY[why]}))
    assert vectorized_runs.why_alone(run) == why
    assert vectorized_runs.mode_of(run) == "alone"


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
def test_convolutions_are_alone_on_a_cpu_unless_they_are_frozen(digits):
    model = tl.models.CNN(widths=(2,), units=8)
    free = digits(model=model)
    groups = {"head": 1.0, ".*": tl.FROZEN}
    head = digits(model=model, optim=tl.optim.AdamW(groups=groups), cache="memory")
    assert vectorized_runs.mode_of(Run(free)) == "alone"
    assert vectorized_runs.mode_of(Run(head)) == "map"
    assert vectorized_runs.mode_of(Run(digits())) == "map"


def test_a_lanes_memory_is_its_state_and_its_best_weights(digits):
    run = Run(digits(**USUAL))
    weights = trees.nbytes(run.state.trainable)
    assert weights == 4 * (64 * 12 + 12 + 12 * 8 + 8 + 8 * 10 + 10)
    moments = trees.nbytes(run.state.opt)
    assert (
        weights * 2 + moments
        <= vectorized_runs.bytes_of(run)
        < weights * 2 + moments + 200
    )
