"""Networks beside the model: any architecture, the same values cached or not, and
what does not fit is refused in one sentence."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import special

import jaxtl as tl
from jaxtl.core.memo import Memo
from jaxtl.data import preprocess
from jaxtl.pretrained.match import Weights
from jaxtl.terms.distillation import soft_targets
from jaxtl.terms.distillation import teacher as teachers
from jaxtl.training import checkpointing

FromRun = tl.pretrained.FromRun


def _digits(**changes):
    fields = {
        "model": tl.models.MLP(widths=(8,)),
        "data": tl.data.Digits(labels_per_class=5, test=50, val=0),
        "optim": tl.optim.AdamW(lr=1e-2),
        "batch": 16,
        "steps": 8,
        "monitor": None,
        "test": False,
    }
    return tl.Experiment(**{**fields, **changes})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The run of a teacher of another size, that was trained in another scale."""
    place = tmp_path_factory.mktemp("teacher")
    exp = _digits(
        model=tl.models.MLP(widths=(12, 9)),
        preprocess=tl.data.Preprocess(scale=16.0, mean=0.3, std=0.4),
        steps=4,
    )
    run = tl.setup(exp, place / "large")
    run.advance(4)
    checkpointing.save(run)
    return place


def _kd(place, **changes):
    return tl.distillation.KD(**{"teacher": FromRun(str(place / "large")), **changes})


@pytest.fixture(scope="module")
def runs(place):
    """A student whose teacher is cached, and one whose teacher runs at every step."""
    return {
        cache: tl.setup(_digits(terms={"kd": _kd(place)}, cache=cache))
        for cache in ("memory", "off")
    }


@pytest.fixture(scope="module")
def setup(runs):
    return runs["memory"].parts.terms.setups["kd"]


def test_a_teacher_s_outputs_are_those_of_its_own_run(place, runs, setup):
    trained = tl.load_model(place / "large")
    batch = next(iter(setup.batches("target")))
    rows = np.asarray(batch["row"])
    stored = preprocess.apply(
        trained.preprocess, runs["off"].datasets["target"].x[rows]
    )
    expected = trained.network.apply(trained.params, trained.stats, stored).logits
    [network] = runs["off"].fixed.term_constants["kd"]["networks"]
    x = teachers.inputs_of(network, setup.program.preprocess["target"], batch["x"])
    assert abs(np.asarray(x - batch["x"])).max() > 0.1
    np.testing.assert_allclose(network.forward(x).logits, expected, atol=1e-4)
    [(table, places)] = runs["memory"].fixed.term_constants["kd"]["tables"]
    np.testing.assert_allclose(table[""][places[rows]], expected, atol=1e-4)


def test_a_cached_teacher_trains_as_one_that_runs_at_every_step(runs):
    for run, how in zip(runs.values(), ("computed once", "at every step")):
        assert how in run.parts.terms.notes["kd"]
        run.advance(3)
    first, second = (jax.tree.leaves(run.params) for run in runs.values())
    for a, b in zip(first, second):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_table_is_computed_once_in_a_process_and_again_for_other_inputs(place, setup):
    def tables(change, **fields):
        batches = [{**b, "x": change(b["x"])} for b in setup.batches("target")]
        other = dataclasses.replace(
            setup, memo=Memo(), batches=lambda stream: iter(batches), **fields
        )
        [(table, _)] = _kd(place).constants(other)["tables"]
        return table[""]

    assert tables(lambda x: x) is tables(lambda x: x)
    assert not np.array_equal(tables(lambda x: x), tables(lambda x: x + 1.0))
    # 50 examples' 10 logits fill the cache: the tables of other inputs are dropped.
    first = tables(lambda x: x)
    assert tables(lambda x: x, cache_bytes=2000) is first
    tables(lambda x: x + 1.0, cache_bytes=2000)
    assert tables(lambda x: x) is not first


@dataclasses.dataclass(frozen=True, eq=False)
class _InMemory:
    weights: Weights

    def read(self):
        return self.weights


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_the_same_weights_in_two_models_are_two_teachers(place, cache):
    large = tl.load_model(place / "large")
    weights = _InMemory(Weights(large.params, large.stats))
    both = {
        name: tl.distillation.KD(
            teacher=weights,
            teacher_model=tl.models.MLP(widths=(12, 9), activation=name),
        )
        for name in ("relu", "tanh")
    }

    def values(terms):
        run = tl.setup(_digits(terms=terms, cache=cache))
        [metrics] = run.advance(1)
        return {name: metrics[name] for name in terms}

    together = values(both)
    for name, term in both.items():
        assert together[name] == pytest.approx(values({name: term})[name], rel=1e-5)
    assert together["relu"] != pytest.approx(together["tanh"], rel=1e-2)


def test_a_teacher_s_outputs_take_the_names_that_the_user_gives(place, setup):
    names = tuple(f"digit {name}" for name in setup.classes["target"])
    setup = dataclasses.replace(setup, memo=Memo(), classes={"": names})
    source = FromRun(str(place / "large"), output_names=names[::-1])
    [network] = _kd(place, teacher=source).networks(setup)
    teachers.check_logits(setup, network, "target")
    np.testing.assert_array_equal(
        teachers.output_order(setup, network), range(9, -1, -1)
    )


def test_outputs_are_matched_by_name(place, setup):
    names = setup.classes["target"][::-1]
    setup = dataclasses.replace(setup, classes={"": names, "target": names})
    [network] = _kd(place).networks(setup)
    np.testing.assert_array_equal(
        teachers.output_order(setup, network), range(9, -1, -1)
    )


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_several_teachers_are_averaged(kind, combine):
    z = np.random.default_rng(0).normal(size=(3, 4, 5)) * 3
    squash = {
        "softmax": lambda x: special.softmax(x / 2.0, axis=-1),
        "sigmoid": lambda x: special.expit(x / 2.0),
    }[kind]
    mean = squash(z).mean(0) if combine == "probabilities" else squash(z.mean(0))
    logits = soft_targets.mean_logits([*z], 2.0, combine, kind)
    np.testing.assert_allclose(squash(np.asarray(logits)), mean, rtol=1e-5)


def _program(**changes):
    return lambda setup: dataclasses.replace(
        setup, program=dataclasses.replace(setup.program, **changes)
    )


def _classes(*names):
    return lambda setup: dataclasses.replace(setup, classes={"": names})


def _inputs(*shape, **of_network):
    """Inputs of a shape, and a teacher of which something else is known."""

    def change(setup):
        batches = [{"x": np.zeros((2, *shape), np.float32)}]
        return dataclasses.replace(
            setup,
            batches=lambda stream: iter(batches),
            load_run=lambda source: dataclasses.replace(
                setup.load_run(source), **of_network
            ),
        )

    return change


BAD = {
    "no teacher": ({"teacher": None}, None, "teacher=None: expected trained weights"),
    "a path": ({"teacher": "runs/x"}, None, "expected trained weights"),
    "a variant of the file": (
        {"teacher": tl.Variant("first")},
        None,
        r"kd\.teacher=Variant\('first'\): .* train 'first' first and take",
    ),
    "none of several": ({"teacher": ()}, None, "expected trained weights"),
    "a missing run": (
        {"teacher": FromRun("/no/run")},
        None,
        "terms.kd.teacher: there is no run directory '/no/run'",
    ),
    "a new head": (
        {"teacher": FromRun("/no/run", reset="head")},
        None,
        "a teacher is not trained here",
    ),
    "weights to leave out": (
        {"teacher": FromRun("/no/run", ignore="head")},
        None,
        "has all of its weights; leave ignore out",
    ),
    "names in one text": (
        {"teacher": FromRun("/no/run", output_names="0123456789")},
        None,
        r"kd\.teacher\.output_names='0123456789': expected a name for each",
    ),
    "a second model": (
        {"teacher_model": tl.models.MLP()},
        None,
        "leave teacher_model out",
    ),
    "weights alone": (
        {"teacher": tl.pretrained.FromCheckpoint("/no/run")},
        None,
        "name the model",
    ),
    "one model of two": (
        {"teacher": (FromRun("a"), FromRun("b")), "teacher_model": (None,)},
        None,
        "one model for each of the 2 teachers, got 1",
    ),
    "a tuple of one model": (
        {"teacher_model": (None,)},
        None,
        "expected a model, as there is one teacher, not a tuple, got 1",
    ),
    "other classes": (
        {},
        _classes("1", "2"),
        "needs the same ones, in any order",
    ),
    "another task": ({}, _program(task="multilabel"), "trained for 'classification'"),
    "other outputs": (
        {},
        lambda s: _program(outputs=12)(_classes()(s)),
        "has 10 outputs, and the model of this experiment 12",
    ),
    "another size": (
        {},
        _inputs(9, 9, 1),
        r"shape \(8, 8, 1\), and those .* \(9, 9, 1\)",
    ),
    "another scale": (
        {},
        _inputs(64, inputs=(), preprocess=preprocess.Preprocess(scale=2.0)),
        "preprocess.scale=2.0, and this experiment has 16.0",
    ),
    "texts": (
        {},
        _inputs(8, 8, 1, inputs=(("input_ids", (7,)),)),
        "reads the inputs input_ids, and the stream 'target' has x",
    ),
    "no head": ({}, _inputs(8, 8, 1, has_head=False), "has no trained head"),
    "a temperature of 0": ({"temperature": 0.0}, None, "temperature=0.0"),
    "another mean": ({"combine": "votes"}, None, "combine='votes' is unknown"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused(name, place, setup):
    changes, of_setup, message = BAD[name]
    setup = dataclasses.replace(setup, memo=Memo())
    with pytest.raises(tl.UserError, match=message) as error:
        _kd(place, **changes).check(of_setup(setup) if of_setup else setup)
    assert "\n" not in str(error.value)


def test_dkd_warms_up_as_in_its_authors_program():
    """Their factor is min(epoch / 20, 1) of 240 epochs (megvii-research/mdistiller)."""
    weight = tl.distillation.DKD().weight
    epochs = np.array([0, 1, 7, 19, 20, 21, 240])
    values = [float(weight.value(epoch * 10, 2400)) for epoch in epochs]
    np.testing.assert_allclose(values, np.minimum(epochs / 20, 1.0), rtol=1e-6)
