"""Phases: who trains when, what optimizers remember, programs, resuming."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import compilation
from jaxtl.core import tree as trees
from jaxtl.data import device_stream, preprocess
from jaxtl.optim import phases
from jaxtl.optim.phases import LPFT, GradualUnfreezing, Phase
from jaxtl.training import compiled_step

STAGES = ("stem", "stage1", "stage2", "head")
WIDE = tl.models.MLP(widths=(16, 8))


def test_gradual_unfreezing_thaws_a_stage_at_a_time_from_the_head_down():
    found = phases.declared_phases(GradualUnfreezing(until=0.6), STAGES)
    assert [p.frozen for p in found] == [
        "stem|stage1|stage2",
        "stem|stage1",
        "stem",
        None,
    ]
    np.testing.assert_allclose([p.until for p in found], [0.2, 0.4, 0.6, 1.0])


def test_gradual_unfreezing_bottom_up_and_by_two():
    up = phases.declared_phases(GradualUnfreezing(order="bottom-up"), STAGES)
    assert [p.frozen for p in up] == [
        "stem|stage1|stage2",
        "stage1|stage2",
        "stage2",
        None,
    ]
    two = phases.declared_phases(GradualUnfreezing(by=2), STAGES)
    assert [p.frozen for p in two] == ["stem|stage1|stage2", "stem", None]


def test_bounds_cover_every_step_once():
    made = phases.phase_bounds((Phase(until=1 / 3), Phase(until=0.5), Phase()), 10)
    assert made == [range(0, 3), range(3, 5), range(5, 10)]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ((Phase(until=0.5),), "the last 1.0"),
        ((Phase(until=0.7), Phase(until=0.5), Phase()), "rising"),
        ((3,), "is no phase"),
        (GradualUnfreezing(order="topdown"), "did you mean 'top-down'"),
        (GradualUnfreezing(until=1.5), "share of the run"),
        (LPFT(probe=0.0), r"phases.probe=0.0"),
    ],
)
def test_bad_phases_are_told(digits, wrong, match):
    with pytest.raises(tl.UserError, match=match):
        tl.setup(digits(model=WIDE, phases=wrong))


def test_a_pattern_that_matches_nothing_is_told(digits):
    wrong = (Phase(until=0.5, frozen="layr1"), Phase())
    with pytest.raises(tl.UserError, match="did you mean 'layer1'"):
        tl.setup(digits(model=WIDE, phases=wrong))


def _adam_by_hand(run, exp, thawed):
    """Adam in float64 with a count for each leaf; returns the parameters' leaves.

    Args:
      thawed: path -> the first step that trains it.
    """
    dataset = run.parts.datasets["target"]
    stream = device_stream.from_split(dataset, "train")
    pre = run.preprocess

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            logits = run.network.apply(params, {}, batch["x"]).logits
            return tl.losses.cross_entropy(logits, batch["y"])

        return jax.grad(loss)(params)

    theta = {
        k: np.float64(v) for k, v in trees.flatten(run.parts.model.base_params).items()
    }
    m = {k: np.zeros_like(v) for k, v in theta.items()}
    v2 = {k: np.zeros_like(v) for k, v in theta.items()}
    count = dict.fromkeys(theta, 0)
    for t in range(exp.steps):
        batch = device_stream.batch_at_step(stream, exp.seed, t, exp.batch)
        batch = {**batch, "x": preprocess.apply(pre, batch["x"])}
        now = trees.map_with_path(
            lambda p, x: theta[p].astype(np.float32), run.parts.model.base_params
        )
        for path, g in trees.flatten(gradient(now, batch)).items():
            if t < thawed(path):
                continue
            g = np.float64(g)
            count[path] += 1
            m[path] = 0.9 * m[path] + 0.1 * g
            v2[path] = 0.999 * v2[path] + 0.001 * g**2
            mean = m[path] / (1 - 0.9 ** count[path])
            spread = np.sqrt(v2[path] / (1 - 0.999 ** count[path]))
            theta[path] = theta[path] - exp.optim.lr * mean / (spread + 1e-8)
    return theta


def test_each_leaf_sees_the_adam_that_it_would_see_alone(digits):
    exp = digits(model=WIDE, steps=12, phases=GradualUnfreezing(), monitor=None)
    run = tl.setup(exp)
    first = {"head": 0, "layer2": 3, "layer1": 6}
    wanted = _adam_by_hand(run, exp, lambda path: first[path.split("/")[0]])
    list(run)
    for path, leaf in trees.flatten(run.params).items():
        np.testing.assert_allclose(leaf, wanted[path], atol=2e-5, err_msg=path)


def test_frozen_leaves_stay_bit_for_bit_until_they_thaw(digits):
    run = tl.setup(digits(model=WIDE, steps=8, phases=GradualUnfreezing()))
    start = jax.tree.map(np.array, run.params)
    run.advance(2)
    np.testing.assert_array_equal(
        run.params["layer2"]["dense"]["kernel"], start["layer2"]["dense"]["kernel"]
    )
    run.advance(2)
    moved = (
        run.params["layer2"]["dense"]["kernel"] != start["layer2"]["dense"]["kernel"]
    )
    assert np.any(moved)
    np.testing.assert_array_equal(
        run.params["layer1"]["dense"]["kernel"], start["layer1"]["dense"]["kernel"]
    )


def test_every_phase_compiles_once_and_other_numbers_not_at_all(digits):
    before = len(compilation.stored(compiled_step.compiled))
    exp = digits(model=tl.models.MLP(widths=(11, 7)), steps=9, batch=16)
    exp = dataclasses.replace(exp, phases=GradualUnfreezing())
    tl.train(tl.setup(exp), progress=False)
    assert len(compilation.stored(compiled_step.compiled)) - before == 3
    other = dataclasses.replace(exp, optim=tl.optim.AdamW(lr=3e-3), seed=5)
    tl.train(tl.setup(other), progress=False)
    assert len(compilation.stored(compiled_step.compiled)) - before == 3


def test_a_frozen_stage_has_no_optimizer_state_yet(digits):
    run = tl.setup(digits(model=WIDE, steps=8, phases=GradualUnfreezing()))
    head = trees.nbytes(run.params["head"])
    assert trees.nbytes(run.state.opt) < 2.2 * head
    list(run)
    assert trees.nbytes(run.state.opt) > 2 * trees.nbytes(run.params)


def test_a_phase_with_its_own_schedule_runs_it_from_its_first_step(digits):
    ramp = tl.optim.Linear(peak=0.0, final=0.1)
    plan = (Phase(until=0.5), Phase(lr=ramp))
    run = tl.setup(
        digits(steps=8, phases=plan, optim=tl.optim.SGD(lr=0.1, momentum=0.0))
    )
    run.advance(4)
    before = jax.tree.map(np.array, run.params)
    run.advance(1)  # the ramp's first step has a rate of 0
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(run.params)):
        np.testing.assert_array_equal(a, b)
    run.advance(1)
    assert np.any(
        before["head"]["dense"]["bias"] != run.params["head"]["dense"]["bias"]
    )


def test_groups_of_a_phase_replace_the_optimizers(digits):
    plan = (
        Phase(until=0.5, groups={"layer1": 1.0, ".*": tl.FROZEN}),
        Phase(groups={"head": 1.0, ".*": tl.FROZEN}),
    )
    run = tl.setup(digits(steps=4, phases=plan))
    start = jax.tree.map(np.array, run.params)
    run.advance(2)
    np.testing.assert_array_equal(
        run.params["head"]["dense"]["bias"], start["head"]["dense"]["bias"]
    )
    middle = jax.tree.map(np.array, run.params)
    run.advance(2)
    np.testing.assert_array_equal(
        run.params["layer1"]["dense"]["kernel"], middle["layer1"]["dense"]["kernel"]
    )


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_run_resumed_around_a_border_ends_bit_for_bit_the_same(
    digits, tmp_path, stop
):
    plan = (Phase(until=0.5, frozen="layer1"), Phase(lr=3e-3))
    exp = digits(steps=8, phases=plan, evaluate_every=4)
    whole = tl.setup(exp, tmp_path / "whole")
    tl.train(whole, progress=False)
    from jaxtl.training import checkpointing

    part = tl.setup(exp, tmp_path / "part")
    part.advance(stop)
    if stop >= 4:
        part.update_best(tl.evaluate(part))
    checkpointing.save(part)
    again = tl.resume(tmp_path / "part")
    assert again.steps_done == stop
    again.advance(8 - stop)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(again.state)):
        np.testing.assert_array_equal(a, b)


def test_the_best_of_an_earlier_phase_keeps_its_own_weights(digits):
    plan = (Phase(until=0.5, frozen="layer1"), Phase(frozen="head"))
    run = tl.setup(digits(steps=8, phases=plan))
    run.advance(4)
    run.update_best({"accuracy": 0.9})
    kept = jax.tree.map(np.array, run.params)
    run.advance(4)
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(run.weights("best")[0])):
        np.testing.assert_array_equal(a, b)


def test_phases_of_a_stream_from_the_host_see_every_batch_once(digits):
    plan = (Phase(until=0.5, frozen="layer1"), Phase())
    resident = tl.setup(digits(steps=6, phases=plan, monitor=None))
    streamed = tl.setup(digits(steps=6, phases=plan, monitor=None, device_bytes=1000))
    assert streamed.program.host_streams == ("target",)
    list(resident), list(streamed)
    for a, b in zip(jax.tree.leaves(resident.params), jax.tree.leaves(streamed.params)):
        np.testing.assert_allclose(a, b, atol=1e-6)
