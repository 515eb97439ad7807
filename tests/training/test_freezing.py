"""What is frozen does not move, bit for bit, and costs a forward pass and no more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.data import device_stream
from jaxtl.terms.losses import cross_entropy
from jaxtl.training import step

NORMED = tl.models.CNN(widths=(4, 4), units=8, norm=True, dropout=0.5)


def moved(before, after):
    """Returns the paths whose bits differ."""
    before, after = trees.flatten(before), trees.flatten(after)
    assert before.keys() == after.keys()
    return {p for p in before if not np.array_equal(before[p], after[p])}


def trained(exp):
    run = tl.setup(exp)
    before = jax.tree.map(np.asarray, (run.params, run.state.stats))
    run.advance(exp.steps)
    after = jax.tree.map(np.asarray, (run.params, run.state.stats))
    return run, moved(before[0], after[0]), moved(before[1], after[1])


def test_frozen_stages_keep_parameters_and_statistics(digits):
    optim = tl.optim.AdamW(
        lr=0.1, weight_decay=0.5, groups={"block1": tl.FROZEN, ".*": 1.0}, clip=1.0
    )
    _, params, stats = trained(digits(model=NORMED, optim=optim, steps=4))
    assert {p.split("/")[0] for p in params} == {"block2", "hidden", "head"}
    assert stats == {"block2/bn/mean", "block2/bn/var"}


def test_frozen_norms_in_a_training_stage_keep_theirs(digits):
    optim = tl.optim.SGD(
        lr=0.1, weight_decay=0.5, groups={".*bn.*": tl.FROZEN, ".*": 1.0}
    )
    _, params, stats = trained(digits(model=NORMED, optim=optim, steps=4))
    assert stats == set()
    assert {"block1/conv/kernel", "block2/conv/kernel"} <= params
    assert not any("bn" in p for p in params)


def test_a_frozen_stage_runs_as_in_evaluation(digits):
    # Frozen but for the head: no batch statistics, no dropout, so the first step's
    # loss is that of an evaluation on the same rows.
    optim = tl.optim.SGD(lr=0.1, groups={"head": 1.0, ".*": tl.FROZEN})
    run = tl.setup(digits(model=NORMED, optim=optim))
    batch = device_stream.batch_at_step(run.parts.device_streams["target"], 0, 0, 32)
    params, stats = run.weights()
    x = batch["x"].astype(jnp.float32) / 16
    logits = run.network.apply(params, stats, x).logits
    expected = float(cross_entropy(logits, batch["y"]))
    assert run.step()["loss"] == pytest.approx(expected, rel=1e-5)


def test_dropout_of_a_training_stage_is_on(digits):
    still = {".*bn.*": tl.FROZEN, ".*": 0.0}
    exp = digits(model=NORMED, optim=tl.optim.SGD(groups=still), batch=1294)
    losses = [tl.setup(exp).step()["loss"] for exp in (exp, digits_seed(exp, 1))]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def digits_seed(exp, seed):
    import dataclasses

    data = dataclasses.replace(exp.data, split_seed=0)
    return dataclasses.replace(exp, seed=seed, data=data)


WIDE = tl.models.MLP(widths=(256, 256))


def flops(exp):
    """Returns XLA's count for one step of a fresh run."""
    run = tl.setup(exp)
    return run, run.compile().flops


def test_frozen_stages_cost_a_forward_pass_only(digits):
    counts = {}
    for first, names in {
        "all": (),
        "layer2": ("layer1",),
        "head": ("layer1", "layer2"),
    }.items():
        groups = {**dict.fromkeys(names, tl.FROZEN), ".*": 1.0}
        # A clip or a logged norm over all leaves would bring the full cost back.
        optim = tl.optim.AdamW(groups=groups, clip=1.0, weight_decay=0.1)
        run, counts[first] = flops(digits(model=WIDE, optim=optim, batch=64))
        assert "grad_norm" in run.step()
    params, stats = run.weights()
    x = jax.ShapeDtypeStruct((64, 8, 8, 1), jnp.float32)
    forward = jax.jit(lambda p, x: run.network.apply(p, stats, x).logits)
    forward = forward.lower(params, x).compile().cost_analysis()["flops"]
    assert counts["head"] < 1.15 * forward
    assert counts["head"] < counts["layer2"] < counts["all"]
    assert counts["all"] > 2.4 * forward


def test_the_optimizers_state_holds_the_trainable_leaves_alone(digits):
    optim = tl.optim.AdamW(groups={"head": 1.0, ".*": tl.FROZEN})
    run = tl.setup(digits(model=WIDE, optim=optim))
    head = 256 * 10 + 10
    assert trees.size(run.state.trainable["model"]) == head
    moments = [x for x in jax.tree.leaves(run.state.opt) if x.ndim]
    assert sum(x.nbytes for x in moments) == 2 * 4 * head
    assert trees.nbytes(run.state.opt) < 2 * 4 * head + 64


def test_frozen_parameters_are_no_part_of_the_donated_state(digits):
    optim = tl.optim.AdamW(groups={"head": 1.0, ".*": tl.FROZEN})
    run = tl.setup(digits(optim=optim))
    before = run.parts.fixed.frozen["layer1"]["dense"]["kernel"]
    run.advance(3)
    assert run.params["layer1"]["dense"]["kernel"] is before
    assert isinstance(run.state, step.State)
    assert run.state.trainable["model"]["layer1"]["dense"]["kernel"] is None


def test_nothing_left_to_train_is_an_error_unless_nothing_is_trained(digits):
    frozen = tl.optim.AdamW(groups={".*": tl.FROZEN})
    with pytest.raises(tl.UserError, match="freezes every parameter"):
        tl.setup(digits(optim=frozen))
    result = tl.train(tl.setup(digits(optim=frozen, steps=0)))
    assert 0 <= result["test"]["accuracy"] <= 1
