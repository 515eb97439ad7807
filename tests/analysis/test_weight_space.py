"""WiSE-FT and soups of runs: the ends of the line, who is chosen, what is saved."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from jaxtl.analysis import weight_space
from jaxtl.cli import main
from jaxtl.core import compilation
from jaxtl.data import preprocess
from jaxtl.evaluation import batch_norm, evaluate
from jaxtl.models import merging
from jaxtl.models.layers import batch_norm_stats
from jaxtl.training import setup

FILE = """
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=tl.data.Digits(limit=300, split_seed=0),
        init=tl.pretrained.FromRun("{source}"{reset}),
        steps=12, batch=32, evaluate_every=4, seed={seed},
        optim=tl.optim.AdamW(lr={lr}),
    )
"""
DATA = tl.data.Digits(limit=300, split_seed=0)


def finished(folder, name, text=None, exp=None):
    if text is not None:
        (folder / f"{name}.py").write_text(text)
        exp = tl.load(folder / f"{name}.py")
    run = tl.setup(exp, folder / name)
    tl.train(run, progress=False)
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder with a source, and runs that began from it."""
    folder = tmp_path_factory.mktemp("weights")
    source = folder / "source"
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(8,)), data=DATA, steps=20, batch=32, seed=3
    )
    finished(folder, "source", exp=exp)
    fill = functools.partial(FILE.format, source=source, reset="", lr=0.01)
    finished(folder, "a", fill(seed=0))
    finished(folder, "b", fill(seed=1))
    finished(folder, "bad", fill(seed=2, lr=30.0))
    finished(folder, "new", fill(seed=0, reset=', reset="head"'))
    return folder


def values(tree):
    return {p: np.asarray(x, np.float64) for p, x in tl.tree.flatten(tree).items()}


def by_numpy(params, x):
    """The MLP's class for each row, in numpy."""
    p = values(params)
    h = x.reshape(len(x), -1) @ p["layer1/dense/kernel"] + p["layer1/dense/bias"]
    return np.maximum(h, 0) @ p["head/dense/kernel"] + p["head/dense/bias"]


# --- WiSE-FT ------------------------------------------------------------------------


def test_the_ends_are_the_source_and_the_tuned_model_exactly(place):
    run = tl.resume(place / "a")
    curve = weight_space.wise_ft(run, (0.0, 0.5, 1.0))
    source = tl.resume(place / "source")
    assert curve.metrics[0] == evaluate.evaluate(source, "val", which="best")
    assert curve.metrics[2] == evaluate.evaluate(run, "val", which="best")
    assert curve.metrics[0] != curve.metrics[2]
    assert curve.fresh == ()
    ends = (values(source.weights("best")[0]), values(run.weights("best")[0]))
    apart = np.sqrt(sum(np.square(ends[0][p] - ends[1][p]).sum() for p in ends[0]))
    assert curve.distance == pytest.approx(apart, rel=1e-5)


def test_the_curve_is_numpys_and_the_choice_is_vals(place):
    run = tl.resume(place / "a")
    curve = weight_space.wise_ft(run)
    a, b = values(run.source.params), values(run.weights("best")[0])
    data = run.parts.datasets["target"]
    rows = data.rows["val"]
    x, y = data.x[rows] / 16.0, data.y_clean[rows]
    for alpha, found in zip(curve.alphas, curve.metrics):
        mixed = {p: (1 - alpha) * a[p] + alpha * b[p] for p in a}
        logits = by_numpy(mixed, x)
        assert found["accuracy"] == pytest.approx((logits.argmax(-1) == y).mean())
    best = max(m["accuracy"] for m in curve.metrics)
    tied = [a for a, m in zip(curve.alphas, curve.metrics) if m["accuracy"] == best]
    assert curve.best == max(tied)
    assert curve.test == weight_space.measured(run, curve.params, curve.stats, "test")
    expected = {p: (1 - curve.best) * a[p] + curve.best * b[p] for p in a}
    for path, value in values(curve.params).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=1e-6)


def test_all_alphas_share_one_compiled_pass(place):
    run = tl.resume(place / "a")
    compilation.clear()
    weight_space.wise_ft(run, (0.25, 1.0))
    [compiled] = compilation.stored()
    before = compiled._cache_size()
    weight_space.wise_ft(run, (0.0, 0.1, 0.75, 1.0))
    assert compilation.stored() == [compiled]
    assert compiled._cache_size() == before


def test_a_head_without_a_source_stays_the_tuned_one(place):
    run = tl.resume(place / "new")
    curve = weight_space.wise_ft(run, (0.0,))
    tuned, start = run.weights("best")[0], run.source.params
    assert curve.fresh == ("head",)
    assert curve.best == 0
    jax.tree.map(np.testing.assert_array_equal, curve.params["head"], tuned["head"])
    jax.tree.map(np.testing.assert_array_equal, curve.params["layer1"], start["layer1"])
    # What is kept survives the training that goes on.
    run = tl.setup(dataclasses.replace(run.exp, monitor=None))
    kept = weight_space.wise_ft(run, (0.0, 1.0))
    run.advance(2)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept.params))


def test_adapters_have_no_source_and_stay(place):
    exp = tl.resume(place / "a").exp
    peft = tl.peft.Adapters(select="layer1", width=2)
    run = tl.setup(dataclasses.replace(exp, peft=peft))
    tl.train(run, progress=False)
    curve = weight_space.wise_ft(run, (0.0, 1.0))
    assert curve.metrics[1] == evaluate.evaluate(run, "val", which="best")
    assert "layer1" in curve.fresh


def test_test_is_read_once_and_only_where_the_run_does(place, monkeypatch):
    asked = []
    real = evaluate.predict_with_weights

    def counted(run, params, stats, split):
        asked.append(split)
        return real(run, params, stats, split)

    monkeypatch.setattr(evaluate, "predict_with_weights", counted)
    run = tl.resume(place / "a")
    weight_space.wise_ft(run, (0.0, 0.5, 1.0), split="train")
    assert asked == ["train"] * 3 + ["val"] * 3 + ["test"]
    run.exp = dataclasses.replace(run.exp, test=False)
    assert weight_space.wise_ft(run, (0.0, 1.0)).test is None
    asked.clear()
    weight_space.soup([tl.resume(place / n) for n in "ab"])
    assert asked.count("test") == 1


def test_bad_questions_are_told(place):
    run = tl.resume(place / "a")
    with pytest.raises(tl.UserError, match=r"alphas: 1.2 is given"):
        weight_space.wise_ft(run, (0.0, 1.2))
    with pytest.raises(tl.UserError, match=r"alphas: \(\) is given"):
        weight_space.wise_ft(run, ())
    with pytest.raises(tl.UserError, match="split='test'"):
        weight_space.wise_ft(run, split="test")
    with pytest.raises(tl.UserError, match="began from scratch"):
        weight_space.wise_ft(tl.resume(place / "source"))


# --- soups --------------------------------------------------------------------------


def test_soups_are_means_and_the_greedy_one_leaves_the_bad_run(place):
    runs = [tl.resume(place / n) for n in ("bad", "a", "b")]
    made = weight_space.soup(runs, greedy=True)
    assert 0 not in made.members
    assert made.val["accuracy"] >= max(m["accuracy"] for m in made.single)
    assert made.single[1] == evaluate.evaluate(runs[1], "val", which="best")
    parts = [values(runs[i].weights("best")[0]) for i in made.members]
    for path, value in values(made.params).items():
        mean = np.mean([part[path] for part in parts], 0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)
    whole = weight_space.soup(runs, greedy=False)
    assert whole.members == (0, 1, 2)
    parts = [values(run.weights("best")[0]) for run in runs]
    for path, value in values(whole.params).items():
        mean = np.mean([part[path] for part in parts], 0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-5)


def test_a_soup_of_one_run_is_the_run(place):
    run = tl.resume(place / "a")
    for greedy in (True, False):
        made = weight_space.soup([run, run], greedy=greedy)
        params, _ = run.weights("best")
        jax.tree.map(np.testing.assert_array_equal, made.params, params)
        assert made.test == evaluate.evaluate(run, "test", which="best")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": tl.models.MLP(widths=(9,))},
            r"run 0 and run 1 are runs of different models: "
            r"tl.models.MLP\(outputs=10, widths=\(8,\)\) and "
            r"tl.models.MLP\(outputs=10, widths=\(9,\)\)",
        ),
        (
            {
                "data": dataclasses.replace(DATA, classes=(1, 0)),
                "model": tl.models.MLP(widths=(8,), outputs=10),
            },
            r"classification of 10 \(0, 1, 2, 3, 4, 5, …\) and .* of 2 \(1, 0\)",
        ),
        ({"data": dataclasses.replace(DATA, split_seed=1)}, "one split_seed"),
        (
            {"preprocess": preprocess.Preprocess(scale=8.0)},
            "read their inputs differently",
        ),
    ],
)
def test_runs_that_do_not_mix_are_told(changes, message):
    exp = tl.Experiment(model=tl.models.MLP(widths=(8,)), data=DATA, steps=1, batch=8)
    runs = [tl.setup(exp), tl.setup(dataclasses.replace(exp, **changes))]
    with pytest.raises(tl.UserError, match=message):
        weight_space.soup(runs)


def test_dropout_does_not_make_another_model():
    models = [tl.models.MLP(widths=(8,), dropout=d) for d in (0.0, 0.3)]
    exps = [tl.Experiment(model=m, data=DATA, steps=1, batch=8) for m in models]
    assert len(weight_space.soup([tl.setup(e) for e in exps]).names) == 2
    with pytest.raises(tl.UserError, match="at least one run"):
        weight_space.soup([])


# --- statistics ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def normed():
    """Returns a run of a CNN with BatchNorm whose first block is frozen."""
    model = tl.models.CNN(widths=(2, 3), units=4, pool=1, norm=True, dropout=0.2)
    optim = tl.optim.AdamW(groups={"block1": tl.FROZEN, ".*": 1.0})
    exp = tl.Experiment(model=model, data=DATA, optim=optim, steps=2, batch=100)
    return tl.setup(exp)


def test_a_batch_has_its_own_moments(normed):
    x = jax.random.normal(jax.random.key(0), (7, 8, 8, 1)) + 2
    params, stats = normed.weights()
    network, key = normed.network, jax.random.key(1)
    train = network.stages
    found = batch_norm_stats.batch_statistics(
        network, params, stats, x, train=train, key=key
    )
    kernel = params["block1"]["conv"]["kernel"]
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = np.asarray(y, np.float64)
    own = found["block1"]["bn"]
    np.testing.assert_allclose(own["mean"], y.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own["var"], y.var((0, 1, 2)), rtol=1e-4)
    # Whatever was there before, and whatever else stays still.
    other = jax.tree.map(lambda s: 100 + s, stats)
    again = batch_norm_stats.batch_statistics(
        network, params, other, x, train=train, frozen_stats=("block1/bn",), key=key
    )
    jax.tree.map(np.testing.assert_array_equal, again["block1"], other["block1"])


def test_refreshed_statistics_are_the_mean_over_whole_batches(normed):
    params, stats = normed.weights()
    moved = jax.tree.map(lambda p: 1.5 * p, params)
    found = batch_norm.refresh_statistics(normed, moved, stats, batch=64, seed=5)
    jax.tree.map(np.testing.assert_array_equal, found["block1"], stats["block1"])
    data = normed.parts.datasets["target"]
    rows = data.rows["train"]
    order = np.random.default_rng(5).permutation(rows)
    means, variances = [], []
    assert len(rows) == 216
    for i in range(4):  # of at most 64 rows, so 4 equal batches of 54
        x = jnp.asarray(data.x[order[i * 54 : (i + 1) * 54]] / 16.0, jnp.float32)
        # The second block reads the first as it is in evaluation.
        y = normed.network.apply(moved, stats, x, stop="block1").features["block1"]
        y = jax.lax.conv_general_dilated(
            y,
            moved["block2"]["conv"]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = np.asarray(y, np.float64)
        means.append(y.mean((0, 1, 2)))
        variances.append(y.var((0, 1, 2)))
    own = found["block2"]["bn"]
    np.testing.assert_allclose(own["mean"], np.mean(means, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own["var"], np.mean(variances, 0), rtol=1e-4)


def test_what_moved_in_any_phase_is_refreshed(normed):
    phases = (tl.optim.Phase(until=0.5, frozen="block2"), tl.optim.Phase())
    run = tl.setup(dataclasses.replace(normed.exp, phases=phases))
    stats = run.state.stats
    train, still = batch_norm.modes(run, stats)
    assert batch_norm_stats.moving_mask(stats, train, still) == {
        "block1": {"bn": {"mean": False, "var": False}},
        "block2": {"bn": {"mean": True, "var": True}},
    }


def test_a_stored_run_is_refreshed_as_the_one_in_memory(normed, tmp_path):
    run = tl.setup(normed.exp, tmp_path / "run")
    tl.train(run, progress=False)
    params, stats = run.weights("best")
    again = setup.reopen(tmp_path / "run")
    moved = jax.tree.map(lambda p: 1.5 * p, params)
    jax.tree.map(
        np.testing.assert_array_equal,
        batch_norm.refresh_statistics(again, moved, stats),
        batch_norm.refresh_statistics(run, moved, stats),
    )


def test_models_without_statistics_have_nothing_to_refresh(place):
    run = tl.resume(place / "a")
    params, stats = run.weights()
    assert batch_norm.refresh_statistics(run, params, stats) is stats


def test_averages_get_new_statistics_and_single_runs_keep_theirs(normed):
    other = tl.setup(dataclasses.replace(normed.exp, seed=4))
    made = weight_space.soup([normed, other], greedy=False)
    mean = merging.uniform_soup([normed.params, other.params])
    fresh = batch_norm.refresh_statistics(normed, mean, made.stats)
    jax.tree.map(np.testing.assert_array_equal, made.stats, fresh)
    assert made.single[0] == evaluate.evaluate(normed, "val")
    plain = weight_space.soup([normed, other], greedy=False, refresh=False)
    jax.tree.map(
        lambda x, a, b: np.testing.assert_allclose(x, (a + b) / 2, rtol=1e-6),
        plain.stats,
        normed.state.stats,
        other.state.stats,
    )


# --- commands -----------------------------------------------------------------------


def text(capsys, *arguments, code=0):
    assert main.main([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_wise_prints_draws_and_saves_what_a_checkpoint_reads(place, capsys):
    png, saved = place / "wise.png", place / "chosen"
    arguments = ("wise", place / "a", "--alphas", 0, 0.4, 1)
    out = text(capsys, *arguments, "--out", png, "--save", saved)
    assert [line for line in out.splitlines() if "chosen" in line]
    assert "test accuracy of α = " in out
    assert Image.open(png).size[0] > 600
    curve = weight_space.wise_ft(tl.resume(place / "a"), (0, 0.4, 1))
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=DATA,
        init=tl.pretrained.FromCheckpoint(str(saved)),
        steps=0,
    )
    run = tl.setup(exp)
    jax.tree.map(np.testing.assert_array_equal, run.params, curve.params)
    assert tl.evaluate(run, "test") == curve.test
    said = text(capsys, *arguments, "--save", saved, code=1)
    assert "exists already" in said
    out = text(capsys, "wise", place / "new", "--alphas", 1)
    assert "fine-tuned at every α: head" in out


def test_soup_prints_and_saves(place, capsys):
    names = [place / n for n in ("bad", "a", "b")]
    out = text(capsys, "soup", *names, "--greedy", "--save", place / "mixed")
    rows = [x.split() for x in out.splitlines() if x.split()[:1] == [str(names[0])]]
    assert len(rows) == 1
    assert "taken" not in rows[0]
    assert "greedy soup of" in out
    assert "test accuracy of the soup" in out
    made = weight_space.soup([tl.resume(name) for name in names])
    found = tl.pretrained.FromCheckpoint(str(place / "mixed")).read()
    jax.tree.map(np.testing.assert_array_equal, found.params, made.params)
    assert "uniform soup of 3" in text(capsys, "soup", *names)


def test_what_is_saved_brings_its_preprocessing(place, normed):
    pre = preprocess.Preprocess(scale=16.0, mean=(0.3,), std=(0.5,))
    run = tl.setup(dataclasses.replace(normed.exp, preprocess=pre))
    params, stats = run.weights()
    weight_space.save(place / "normed", run, params, stats)
    init = tl.pretrained.FromCheckpoint(str(place / "normed"))
    again = tl.setup(dataclasses.replace(normed.exp, init=init))
    found = again.preprocess
    assert (found.scale, found.mean, found.std) == (16.0, (0.3,), (0.5,))
    jax.tree.map(np.testing.assert_array_equal, again.state.stats, stats)
    with pytest.raises(tl.UserError, match="exists already"):
        weight_space.save(place / "normed", run, params, stats)


def test_wise_of_no_run_is_told(place, capsys):
    assert "experiment.json" in text(capsys, "wise", place / "nowhere", code=1)
    assert "from scratch" in text(capsys, "wise", place / "source", code=1)
    assert "experiment.json" in text(capsys, "soup", place / "nowhere", code=1)


def test_a_run_may_end_on_the_line_that_val_chooses(digits, tmp_path):
    source = digits(steps=30)
    tl.train(tl.setup(source, tmp_path / "source"), progress=False)
    init = tl.pretrained.FromRun(str(tmp_path / "source"))
    alphas = (0.0, 0.25, 0.5, 0.75, 1.0)
    exp = digits(init=init, steps=40, data=tl.data.Digits(labels_per_class=3))
    plain = tl.setup(exp)
    tl.train(plain, progress=False)
    tuned = plain.weights("best")[0]
    run = tl.setup(dataclasses.replace(exp, wise_ft=alphas))
    result = tl.train(run, progress=False)
    # Every point by numpy on the two ends' weights, the best by accuracy.
    ends = [
        {k: np.float64(v) for k, v in tl.tree.flatten(tree).items()}
        for tree in (plain.source.params, tuned)
    ]
    dataset = plain.parts.datasets["target"]
    rows = dataset.rows["val"]
    x = np.float64(tl.data.preprocess.apply(plain.preprocess, dataset.x[rows]))
    scores = []
    for alpha in alphas:
        w = {k: (1 - alpha) * ends[0][k] + alpha * ends[1][k] for k in ends[0]}
        h = x.reshape(len(x), -1) @ w["layer1/dense/kernel"] + w["layer1/dense/bias"]
        z = np.maximum(h, 0) @ w["head/dense/kernel"] + w["head/dense/bias"]
        scores.append(np.mean(z.argmax(1) == dataset.y_clean[rows]))
    best = max(zip(scores, alphas))
    assert result["val"]["accuracy"] == pytest.approx(best[0])
    assert result["terms"]["wise_ft"] == f"α = {best[1]:g} chosen on val"
    assert result["drift"] == pytest.approx(best[1] * _apart(*ends), rel=1e-4)


def _apart(a, b):
    return np.sqrt(sum(np.sum((a[k] - b[k]) ** 2) for k in a))


@pytest.mark.parametrize("wrong", [(1.5,), (-0.1, 0.5)])
def test_a_line_is_between_its_ends(digits, wrong):
    with pytest.raises(tl.UserError, match=r"wise_ft=.*\[0, 1\]"):
        digits(wise_ft=wrong)


def test_a_run_from_scratch_has_no_line_to_end_on(digits):
    with pytest.raises(tl.UserError, match="starts from scratch"):
        tl.setup(digits(wise_ft=(0.5,)))
