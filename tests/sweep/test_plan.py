"""The plan of a sweep: what is compiled, what is traced, how cells will run."""

import pathlib

import jax
import pytest

import jaxtl as tl
from jaxtl.sweep import plan, stacking, vectorized_runs
from jaxtl.sweep.axes import When
from jaxtl.sweep.grid import build_cells, build_grid
from jaxtl.training import experiment_file
from jaxtl.training.run import Run


def base(**changes):
    fields = {
        "model": tl.models.MLP(widths=(8,)),
        "data": tl.data.Digits(labels_per_class=10),
        "terms": {
            "task": tl.losses.CrossEntropy(),
            "decay": tl.regularizers.WeightDecay(weight=0.1),
        },
        "optim": tl.optim.AdamW(
            lr=tl.optim.Cosine(peak=0.1), groups={"head": 2.0, ".*": 1.0}, clip=1.0
        ),
        "peft": tl.peft.LoRA(rank=2, select="layer1/.*"),
        "average": tl.optim.EMA(decay=0.9),
        "steps": 6,
        "batch": 16,
    }
    return tl.Experiment(**{**fields, **changes})


def cells(axes, exp=None, **variants):
    variants = variants or {"": exp or base()}
    of = experiment_file.File(pathlib.Path("x.py"), variants, None, (), "")
    return build_cells(of, build_grid(of, axes))


TRACED = {
    "seed": 3,
    "optim.lr.peak": 0.3,
    "optim.lr.warmup": 2.0,
    "optim.weight_decay": 0.2,
    "optim.clip": 2.0,
    "terms.task.label_smoothing": 0.2,
    "terms.decay.weight": 0.3,
    "peft.alpha": 3.0,
    "average.decay": 0.5,
    "data.labels_per_class": 5,
    "data.label_noise": 0.2,
    "data.split_seed": 4,
}
STATIC = {
    "steps": 7,
    "batch": 8,
    "model.widths": (9,),
    "monitor": "nll",
    "optim.lr": tl.optim.Cosine(peak=0.1),
    "optim": tl.optim.SGD(lr=0.1),
    "optim.clip": None,
    "terms.task": tl.losses.CrossEntropy(label_smoothing=0.1),
    "terms.near": tl.regularizers.WeightDecay(),
    "terms.decay.weight": tl.optim.Cosine(peak=0.1),
    "peft.rank": 3,
    "average": None,
    "data.val": 0.3,
    "data.classes": (3, 5, 7),
    "dtype": "bfloat16",
    "evaluate_every": 2,
}


@pytest.mark.parametrize("path", TRACED)
def test_traced_fields_are_lanes_of_one_program(path):
    [cell] = cells({path: [TRACED[path]]})
    assert plan.is_traced(cell.exp, path)
    assert len(plan.programs(cells({path: [TRACED[path]], "seed": range(2)}))) == 1
    # What is promised holds: nothing but arrays is different.
    vectorized_runs.VectorizedRuns([Run(base()), Run(cell.exp)], "map")


# The others have arrays that would fit, and are looked at on the host.
UNLIKE = ("batch", "model.widths", "optim", "optim.clip", "terms.near", "peft.rank")


@pytest.mark.parametrize("path", STATIC)
def test_static_fields_are_programs_of_their_own(path):
    [cell] = cells({path: [STATIC[path]]})
    assert not plan.is_traced(cell.exp, path)
    if path in UNLIKE:
        with pytest.raises(stacking.IncompatibleRuns):
            vectorized_runs.VectorizedRuns([Run(base()), Run(cell.exp)], "map")


def test_kinds_of_values_are_told_apart():
    schedule = tl.optim.Cosine(peak=0.1)
    rates = [0.1, 0.2, schedule, tl.optim.Cosine(peak=0.2)]
    found = plan.programs(cells({"optim.lr": rates}))
    assert [len(program.cells) for program in found] == [2, 1, 1]
    clips = plan.programs(cells({"optim.clip": [None, 1.0, 2.0]}))
    assert [len(program.cells) for program in clips] == [1, 2]


def test_texts_are_told_apart_by_what_they_mean():
    rates = ["0.1", "tl.optim.Cosine(peak=0.1)", "0.2"]
    found = plan.programs(cells({"optim.lr": rates}))
    assert [len(program.cells) for program in found] == [2, 1]


def test_programs_name_what_is_fixed_and_what_is_traced():
    near = {"terms.near": tl.regularizers.WeightDecay()}
    axes = {
        "method": {"full": {}, "near": near},
        "terms.near.weight": When({"method": "near"}, [0.1, 0.2]),
        "batch": [8, 16],
        "seed": range(3),
    }
    found = plan.programs(cells(axes))
    assert [(dict(p.fixed), p.traced, len(p.cells)) for p in found] == [
        ({"method": "full", "batch": 8}, ("seed",), 3),
        ({"method": "full", "batch": 16}, ("seed",), 3),
        ({"method": "near", "batch": 8}, ("terms.near.weight", "seed"), 6),
        ({"method": "near", "batch": 16}, ("terms.near.weight", "seed"), 6),
    ]


def test_variants_are_programs_of_their_own():
    found = plan.programs(cells({"seed": range(2)}, a=base(), b=base(steps=9)))
    assert [(dict(p.fixed), len(p.cells)) for p in found] == [
        ({"variant": "a"}, 2),
        ({"variant": "b"}, 2),
    ]


def test_every_cell_is_of_one_program():
    axes = {"steps": [1, 2, 3], "optim.clip": [None, 1.0], "seed": range(4)}
    every = cells(axes)
    found = plan.programs(every)
    keys = [cell.key for program in found for cell in program.cells]
    assert sorted(keys) == sorted(cell.key for cell in every)
    assert len(found) == 6


def test_an_axis_that_explodes_is_told_with_its_count():
    axes = {"steps": range(1, 251), "batch": [8, 16], "seed": range(2)}
    found = plan.programs(cells(axes))
    warned = plan.warning(found)
    assert warned.startswith(
        "500 programs will be compiled, since 'steps' with its 250"
    )
    assert plan.warning(found[: plan.MANY]) == ""


# --- how cells will run --------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    return Run(base())


def test_footings(run):
    cpu = jax.default_backend() == "cpu"
    assert plan.plan_execution(run, 5).mode == ("map" if cpu else "vmap")
    assert plan.plan_execution(run, 5, "vmap").mode == "vmap"
    assert plan.describe(plan.plan_execution(run, 1)) == "one by one (a single cell)"
    assert (
        plan.describe(plan.plan_execution(run, 5, "alone")) == "one by one (asked for)"
    )
    assert plan.describe(plan.plan_execution(run, 5, "map")) == "5 lanes (map)"


def test_what_can_be_no_lanes_says_why():
    phased = Run(base(peft=None, phases=tl.optim.GradualUnfreezing()))
    assert plan.describe(plan.plan_execution(phased, 5, "map")) == "one by one (phases)"


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (64, None, 64),
        (100, None, 50),
        (65, None, 33),
        (20, 7, 7),
        (10, 8, 5),
        (3, 8, 3),
    ],
)
def test_turns_are_of_one_size(run, count, most, expected):
    assert plan.plan_execution(run, count, "map", most).lanes == expected


def test_lanes_fit_into_half_the_memory(run, monkeypatch):
    found = plan.plan_execution(run, 60, "map")
    assert found.lane_bytes == vectorized_runs.replica_bytes(run)
    pixels = 1797 * 8 * 8
    assert pixels <= found.shared_bytes < pixels + 20_000
    wanted = 2 * (found.shared_bytes + 10 * found.lane_bytes)
    monkeypatch.setattr(plan, "memory", lambda: wanted)
    assert plan.plan_execution(run, 60, "map").lanes == 10
    monkeypatch.setattr(plan, "memory", lambda: 0)
    assert plan.plan_execution(run, 60, "map").lanes == 1
