"""Whole runs: every term with frozen stages, adapters, dropout, and it resumes; and
unlabelled data help where they should."""

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.training import checkpointing

SHIFT = (tl.data.Crop(pad=1),)
STRONG = (tl.data.Crop(pad=1), tl.data.Cutout(share=0.3, fill=0.0))
TERMS = {
    "PseudoLabel": tl.semi.PseudoLabel(),
    "PiModel": tl.semi.PiModel(view=SHIFT),
    "MeanTeacher": tl.semi.MeanTeacher(view=SHIFT),
    "VAT": tl.semi.VAT(radius=1.0),
    "MixMatch": tl.semi.MixMatch(weak=SHIFT, unlabelled=1.0),
    "UDA": tl.semi.UDA(strong=STRONG),
    "FixMatch": tl.semi.FixMatch(strong=STRONG),
    "FlexMatch": tl.semi.FlexMatch(strong=STRONG),
    "FreeMatch": tl.semi.FreeMatch(),
}


def _experiment(term, **changes):
    task = (
        {} if isinstance(term, tl.semi.MixMatch) else {"task": tl.losses.CrossEntropy()}
    )
    fields = {
        "model": tl.models.MLP(widths=(16,), dropout=0.1),
        "data": tl.data.Digits(labels_per_class=2, test=100, val=0),
        "terms": {**task, "semi": term},
        "batch": {"target": 8, "unlabelled": 12},
        "steps": 4,
        "monitor": None,
        "test": False,
    }
    return tl.Experiment(**{**fields, **changes})


@pytest.mark.parametrize("name", TERMS)
def test_a_run_moves_what_is_trainable_and_nothing_else(name):
    groups = {"layer1": tl.FROZEN, ".*": 1.0}
    exp = _experiment(TERMS[name], optim=tl.optim.AdamW(lr=1e-2, groups=groups))
    run = tl.setup(exp)
    before = jax.tree.map(np.asarray, run.params)
    run.advance(3)
    after = jax.tree.map(np.asarray, run.params)
    same = jax.tree.map(np.array_equal, before, after)
    assert all(jax.tree.leaves(same["layer1"]))
    assert not any(jax.tree.leaves(same["head"]))
    assert trees.all_finite((run.params, run.state.terms))


def test_the_teacher_of_adapters_averages_what_they_train():
    exp = _experiment(
        TERMS["MeanTeacher"], peft=tl.peft.LoRA(rank=2, select="layer1/.*kernel")
    )
    run = tl.setup(exp)
    averaged = trees.flatten(run.state.terms["semi"]["params"])
    moving = {p for p, m in trees.flatten(run.program.trainable_mask).items() if m}
    assert set(averaged) == moving
    start = jax.tree.map(np.asarray, averaged)
    run.advance(3)
    current = trees.flatten(run.state.terms["semi"]["params"])
    assert any(
        not np.array_equal(start[p], current[p]) for p in moving if "layer1" in p
    )


def test_batch_statistics_of_the_teacher_follow_the_students():
    model = tl.models.CNN(widths=(2,), units=8, norm=True)
    run = tl.setup(_experiment(TERMS["MeanTeacher"], model=model))
    student_stats = []
    for _ in range(3):
        run.advance(1)
        student_stats.append(jax.tree.map(np.asarray, run.state.stats))
    # d = min(0.99, t/(t + 1)): the plain mean so far.
    teacher = jax.tree.map(np.asarray, run.state.terms["semi"]["stats"])
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *student_stats)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        teacher,
        mean,
    )


def test_memory_of_examples_is_the_streams_and_resumes(tmp_path):
    term = tl.semi.FlexMatch(threshold=0.12, strong=STRONG)
    exp = _experiment(term, steps=6)
    whole = tl.setup(exp)
    whole.advance(6)
    memory = np.asarray(whole.state.terms["semi"]["memory"])
    rows = whole.parts.datasets["target"].rows["unlabelled"]
    assert (memory[rows] >= -1).all()
    assert (memory[rows] >= 0).any()
    assert (np.delete(memory, rows) == -2).all()
    part = tl.setup(exp, tmp_path / "run")
    part.advance(3)
    checkpointing.save(part)
    again = tl.resume(tmp_path / "run")
    again.advance(3)
    np.testing.assert_array_equal(again.state.terms["semi"]["memory"], memory)


def _moons():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.make_moons(600, noise=0.08, random_state=0)


def _stripes():
    """Two long clusters side by side: few labels tilt the line between them."""
    y = np.arange(400) % 2
    noise = np.random.default_rng(0).normal(size=(400, 2))
    return noise * [0.4, 3.0] + np.stack([3 * y - 1.5, 0 * y], 1), y


HELPED = {
    "VAT": (_moons, tl.semi.VAT(radius=0.3), (32, 32), 4, 0.04),
    "FlexMatch": (
        _moons,
        tl.semi.FlexMatch(threshold=0.9, strong=(tl.data.Noise(scale=0.15),)),
        (32, 32),
        4,
        0.01,
    ),
    "PseudoLabel": (_stripes, tl.semi.PseudoLabel(weight=1.0), (), 2, 0.02),
}


@pytest.mark.parametrize("name", HELPED)
def test_unlabelled_data_help(name):
    make, term, widths, labels, gain = HELPED[name]
    x, y = make()
    data = tl.data.Arrays(
        x=x.astype(np.float32),
        y=y,
        test=200,
        val=0,
        labels_per_class=labels,
        split_seed=0,
    )

    def mean(terms):
        accuracies = []
        for seed in range(3):
            exp = tl.Experiment(
                model=tl.models.MLP(widths=widths),
                data=data,
                terms={"task": tl.losses.CrossEntropy(), **terms},
                optim=tl.optim.AdamW(lr=1e-2 if widths else 3e-2),
                batch={"target": 2 * labels, "unlabelled": 64},
                steps=300,
                seed=seed,
                monitor=None,
            )
            result = tl.train(tl.setup(exp), progress=False)
            accuracies.append(result["test"]["accuracy"])
        return np.mean(accuracies)

    assert mean({"semi": term}) > mean({}) + gain
