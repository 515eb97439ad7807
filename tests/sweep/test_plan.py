"""Plans of sweeps: program groups, traced fields, and how cells will run."""

import pathlib

import jax
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.sweep import plan, stacking
from jaxtl.sweep.axes import When
from jaxtl.sweep.cells import build_cells
from jaxtl.sweep.grid import build_grid
from jaxtl.sweep.vectorized_runs import VectorizedRuns
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
def test_cells_that_differ_in_a_traced_field_are_replicas_of_one_program(path):
    [cell] = cells({path: [TRACED[path]]})
    assert plan.is_traced(cell.exp, path)
    assert (
        len(plan.group_by_program(cells({path: [TRACED[path]], "seed": range(2)}))) == 1
    )
    # Checks that the runs differ in arrays only.
    VectorizedRuns([Run(base()), Run(cell.exp)], "map")


# Fields that change programs or shapes; the others could be stacked by mistake.
INCOMPATIBLE = (
    "batch",
    "model.widths",
    "optim",
    "optim.clip",
    "terms.near",
    "peft.rank",
)


@pytest.mark.parametrize("path", STATIC)
def test_static_fields_are_compiled_in(path):
    [cell] = cells({path: [STATIC[path]]})
    assert not plan.is_traced(cell.exp, path)
    if path in INCOMPATIBLE:
        with pytest.raises(stacking.IncompatibleRuns):
            VectorizedRuns([Run(base()), Run(cell.exp)], "map")


def sizes(axes):
    return [len(group.cells) for group in plan.group_by_program(cells(axes))]


def test_numbers_and_schedules_are_in_different_groups():
    schedule = tl.optim.Cosine(peak=0.1)
    rates = [0.1, 0.2, schedule, tl.optim.Cosine(peak=0.2)]
    assert sizes({"optim.lr": rates}) == [2, 1, 1]
    assert sizes({"optim.clip": [None, 1.0, 2.0]}) == [1, 2]


def test_texts_are_grouped_by_the_values_that_they_stand_for():
    rates = ["0.1", "tl.optim.Cosine(peak=0.1)", "0.2"]
    assert sizes({"optim.lr": rates}) == [2, 1]


def test_groups_name_their_fixed_and_their_traced_axes():
    near = {"terms.near": tl.regularizers.WeightDecay()}
    axes = {
        "method": {"full": {}, "near": near},
        "terms.near.weight": When({"method": "near"}, [0.1, 0.2]),
        "batch": [8, 16],
        "seed": range(3),
    }
    groups = plan.group_by_program(cells(axes))
    assert [(dict(g.fixed), g.traced, len(g.cells)) for g in groups] == [
        ({"method": "full", "batch": 8}, ("seed",), 3),
        ({"method": "full", "batch": 16}, ("seed",), 3),
        ({"method": "near", "batch": 8}, ("terms.near.weight", "seed"), 6),
        ({"method": "near", "batch": 16}, ("terms.near.weight", "seed"), 6),
    ]


def test_variants_are_in_different_groups():
    variants = {"a": base(), "b": base(steps=9)}
    groups = plan.group_by_program(cells({"seed": range(2)}, **variants))
    assert [(dict(g.fixed), len(g.cells)) for g in groups] == [
        ({"variant": "a"}, 2),
        ({"variant": "b"}, 2),
    ]


def test_every_cell_is_in_one_group():
    axes = {"steps": [1, 2, 3], "optim.clip": [None, 1.0], "seed": range(4)}
    all_cells = cells(axes)
    groups = plan.group_by_program(all_cells)
    keys = [cell.key for group in groups for cell in group.cells]
    assert sorted(keys) == sorted(cell.key for cell in all_cells)
    assert len(groups) == 6


def test_the_axis_that_causes_most_programs_is_named_with_its_count():
    axes = {"steps": range(1, 251), "batch": [8, 16], "seed": range(2)}
    groups = plan.group_by_program(cells(axes))
    expected = "500 programs will be compiled, since 'steps' with its 250"
    assert plan.warn_of_many(groups).startswith(expected)
    assert plan.warn_of_many(groups[: plan.MANY_PROGRAMS]) == ""


# --- how cells will run --------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    return Run(base())


def describe(run, count, mode="auto"):
    return plan.plan_execution(run, count, mode).describe()


def test_plans_say_how_cells_run(run):
    is_cpu = jax.default_backend() == "cpu"
    assert plan.plan_execution(run, 5).mode == ("map" if is_cpu else "vmap")
    assert plan.plan_execution(run, 5, "vmap").mode == "vmap"
    assert describe(run, 1) == "one by one (a single cell)"
    assert describe(run, 5, "alone") == "one by one (asked for)"
    assert describe(run, 5, "map") == "5 lanes (map)"


def test_cells_that_can_not_be_replicas_have_a_reason():
    phased = Run(base(peft=None, phases=tl.optim.GradualUnfreezing()))
    assert describe(phased, 5, "map") == "one by one (phases)"


@pytest.mark.parametrize(
    ("count", "max_replicas", "expected"),
    [
        (64, None, 64),
        (100, None, 50),
        (65, None, 33),
        (20, 7, 7),
        (10, 8, 5),
        (3, 8, 3),
    ],
)
def test_chunks_have_one_size(run, count, max_replicas, expected):
    execution = plan.plan_execution(run, count, "map", max_replicas)
    assert execution.replicas == expected


def test_replicas_fit_into_half_of_the_memory(run, monkeypatch):
    execution = plan.plan_execution(run, 60, "map")
    assert execution.replica_bytes == plan.replica_bytes(run)
    pixels = 1797 * 8 * 8
    assert pixels <= execution.shared_bytes < pixels + 20_000
    for free, replicas in (
        (2 * (execution.shared_bytes + 10 * execution.replica_bytes), 10),
        (0, 1),
    ):
        monkeypatch.setattr(plan, "free_memory", lambda free=free: free)
        assert plan.plan_execution(run, 60, "map").replicas == replicas


# --- runs that can be replicas -------------------------------------------------------

REASONS = {
    "phases": {"phases": tl.optim.GradualUnfreezing()},
    "no steps": {"steps": 0},
    "data streamed from the host": {"device_bytes": 0},
}


@pytest.mark.parametrize("reason", REASONS)
def test_runs_that_train_alone_have_a_reason(digits, reason):
    run = Run(digits(**REASONS[reason]))
    assert plan.why_alone(run) == reason
    assert plan.mode_of(run) == "alone"


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a rule for CPUs")
def test_convolutions_are_alone_on_a_cpu_unless_they_are_frozen(digits):
    model = tl.models.CNN(widths=(2,), units=8)
    groups = {"head": 1.0, ".*": tl.FROZEN}
    head = digits(model=model, optim=tl.optim.AdamW(groups=groups), cache="memory")
    assert plan.mode_of(Run(digits(model=model))) == "alone"
    assert plan.mode_of(Run(head)) == "map"
    assert plan.mode_of(Run(digits())) == "map"


def test_a_replicas_memory_is_its_state_and_its_best_weights(digits):
    run = Run(digits(model=tl.models.MLP(widths=(12, 8))))
    weights = trees.nbytes(run.state.trainable)
    assert weights == 4 * (64 * 12 + 12 + 12 * 8 + 8 + 8 * 10 + 10)
    least = weights * 2 + trees.nbytes(run.state.opt)
    assert least <= plan.replica_bytes(run) < least + 200
