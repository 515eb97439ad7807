"""WiSE-FT and soups of runs: ends of the line, choices on val, saved weights."""

import dataclasses
import functools

import jax
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
    """A folder with a source, and runs that started from it."""
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


def mlp_logits(params, x):
    """Logits of the MLP for each row, computed in numpy."""
    p = values(params)
    h = x.reshape(len(x), -1) @ p["layer1/dense/kernel"] + p["layer1/dense/bias"]
    return np.maximum(h, 0) @ p["head/dense/kernel"] + p["head/dense/bias"]


# --- WiSE-FT ------------------------------------------------------------------------


def test_the_ends_are_exactly_the_source_and_the_tuned_model(place):
    run = tl.resume(place / "a")
    curve = weight_space.wise_ft(run, (0.0, 0.5, 1.0))
    source = tl.resume(place / "source")
    assert curve.metrics[0] == evaluate.evaluate(source, "val", which="best")
    assert curve.metrics[2] == evaluate.evaluate(run, "val", which="best")
    assert curve.metrics[0] != curve.metrics[2]
    assert curve.fresh == ()
    ends = (values(source.weights("best")[0]), values(run.weights("best")[0]))
    distance = np.sqrt(sum(np.square(ends[0][p] - ends[1][p]).sum() for p in ends[0]))
    assert curve.distance == pytest.approx(distance, rel=1e-5)


def test_the_curve_agrees_with_numpy_and_val_chooses(place):
    run = tl.resume(place / "a")
    curve = weight_space.wise_ft(run)
    a, b = values(run.source.params), values(run.weights("best")[0])
    data = run.parts.datasets["target"]
    rows = data.rows["val"]
    x, y = data.x[rows] / 16.0, data.y_clean[rows]
    for alpha, metrics in zip(curve.alphas, curve.metrics):
        mixed = {p: (1 - alpha) * a[p] + alpha * b[p] for p in a}
        logits = mlp_logits(mixed, x)
        assert metrics["accuracy"] == pytest.approx((logits.argmax(-1) == y).mean())
    best = max(m["accuracy"] for m in curve.metrics)
    tied = [a for a, m in zip(curve.alphas, curve.metrics) if m["accuracy"] == best]
    assert curve.best == max(tied)
    assert curve.test == evaluate.evaluate_weights(
        run, curve.params, curve.stats, "test"
    )
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


def test_a_head_without_a_source_is_the_tuned_one(place):
    run = tl.resume(place / "new")
    curve = weight_space.wise_ft(run, (0.0,))
    tuned, start = run.weights("best")[0], run.source.params
    assert curve.fresh == ("head",)
    assert curve.best == 0
    jax.tree.map(np.testing.assert_array_equal, curve.params["head"], tuned["head"])
    jax.tree.map(np.testing.assert_array_equal, curve.params["layer1"], start["layer1"])
    # The curve's weights do not change when training continues.
    run = tl.setup(dataclasses.replace(run.exp, monitor=None))
    curve = weight_space.wise_ft(run, (0.0, 1.0))
    run.advance(2)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(curve.params))


def test_adapters_without_a_source_are_the_tuned_ones(place):
    exp = tl.resume(place / "a").exp
    peft = tl.peft.Adapters(select="layer1", width=2)
    run = tl.setup(dataclasses.replace(exp, peft=peft))
    tl.train(run, progress=False)
    curve = weight_space.wise_ft(run, (0.0, 1.0))
    assert curve.metrics[1] == evaluate.evaluate(run, "val", which="best")
    assert "layer1" in curve.fresh


def test_the_test_split_is_read_once_and_only_where_the_run_reads_it(
    place, monkeypatch
):
    splits = []
    real = evaluate.predict_with_weights

    def counted(run, params, stats, split):
        splits.append(split)
        return real(run, params, stats, split)

    monkeypatch.setattr(evaluate, "predict_with_weights", counted)
    run = tl.resume(place / "a")
    weight_space.wise_ft(run, (0.0, 0.5, 1.0), split="train")
    assert splits == ["train"] * 3 + ["val"] * 3 + ["test"]
    run.exp = dataclasses.replace(run.exp, test=False)
    assert weight_space.wise_ft(run, (0.0, 1.0)).test is None
    splits.clear()
    weight_space.soup([tl.resume(place / n) for n in "ab"])
    assert splits.count("test") == 1


def test_invalid_alphas_splits_and_runs_raise(place):
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


def test_soups_are_means_and_the_greedy_one_leaves_out_the_bad_run(place):
    runs = [tl.resume(place / n) for n in ("bad", "a", "b")]
    greedy = weight_space.soup(runs, greedy=True)
    assert 0 not in greedy.members
    assert greedy.val["accuracy"] >= max(m["accuracy"] for m in greedy.single)
    assert greedy.single[1] == evaluate.evaluate(runs[1], "val", which="best")
    parts = [values(runs[i].weights("best")[0]) for i in greedy.members]
    for path, value in values(greedy.params).items():
        mean = np.mean([part[path] for part in parts], 0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)
    uniform = weight_space.soup(runs, greedy=False)
    assert uniform.members == (0, 1, 2)
    parts = [values(run.weights("best")[0]) for run in runs]
    for path, value in values(uniform.params).items():
        mean = np.mean([part[path] for part in parts], 0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-5)


def test_a_soup_of_one_run_is_the_run(place):
    run = tl.resume(place / "a")
    for greedy in (True, False):
        soup = weight_space.soup([run, run], greedy=greedy)
        params, _ = run.weights("best")
        jax.tree.map(np.testing.assert_array_equal, soup.params, params)
        assert soup.test == evaluate.evaluate(run, "test", which="best")


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
        ({"data": dataclasses.replace(DATA, split_seed=1)}, "the same split_seed"),
        (
            {"preprocess": preprocess.Preprocess(scale=8.0)},
            "read their inputs differently",
        ),
    ],
)
def test_runs_that_can_not_be_averaged_raise(changes, message):
    exp = tl.Experiment(model=tl.models.MLP(widths=(8,)), data=DATA, steps=1, batch=8)
    runs = [tl.setup(exp), tl.setup(dataclasses.replace(exp, **changes))]
    with pytest.raises(tl.UserError, match=message):
        weight_space.soup(runs)


def test_runs_that_differ_in_dropout_can_be_averaged():
    models = [tl.models.MLP(widths=(8,), dropout=d) for d in (0.0, 0.3)]
    exps = [tl.Experiment(model=m, data=DATA, steps=1, batch=8) for m in models]
    assert len(weight_space.soup([tl.setup(e) for e in exps]).names) == 2
    with pytest.raises(tl.UserError, match="at least one run"):
        weight_space.soup([])


# --- statistics ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def normed():
    """A run of a CNN with BatchNorm whose first block is frozen."""
    model = tl.models.CNN(widths=(2, 3), units=4, pool=1, norm=True, dropout=0.2)
    optim = tl.optim.AdamW(groups={"block1": tl.FROZEN, ".*": 1.0})
    exp = tl.Experiment(model=model, data=DATA, optim=optim, steps=2, batch=100)
    return tl.setup(exp)


def test_averages_get_new_statistics_and_single_runs_do_not(normed):
    second = tl.setup(dataclasses.replace(normed.exp, seed=4))
    soup = weight_space.soup([normed, second], greedy=False)
    mean = merging.uniform_soup([normed.params, second.params])
    fresh = batch_norm.refresh_statistics(normed, mean, soup.stats)
    jax.tree.map(np.testing.assert_array_equal, soup.stats, fresh)
    assert soup.single[0] == evaluate.evaluate(normed, "val")
    averaged = weight_space.soup([normed, second], greedy=False, refresh=False)
    jax.tree.map(
        lambda x, a, b: np.testing.assert_allclose(x, (a + b) / 2, rtol=1e-6),
        averaged.stats,
        normed.state.stats,
        second.state.stats,
    )


# --- commands -----------------------------------------------------------------------


def text(capsys, *arguments, code=0):
    assert main.main([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_wise_prints_plots_and_saves_a_readable_checkpoint(place, capsys):
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
    message = text(capsys, *arguments, "--save", saved, code=1)
    assert "exists already" in message
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
    soup = weight_space.soup([tl.resume(name) for name in names])
    saved = tl.pretrained.FromCheckpoint(str(place / "mixed")).read()
    jax.tree.map(np.testing.assert_array_equal, saved.params, soup.params)
    assert "uniform soup of 3" in text(capsys, "soup", *names)


def test_saved_weights_include_their_preprocessing(place, normed):
    pre = preprocess.Preprocess(scale=16.0, mean=(0.3,), std=(0.5,))
    run = tl.setup(dataclasses.replace(normed.exp, preprocess=pre))
    params, stats = run.weights()
    weight_space.save(place / "normed", run, params, stats)
    init = tl.pretrained.FromCheckpoint(str(place / "normed"))
    loaded = tl.setup(dataclasses.replace(normed.exp, init=init))
    loaded_preprocess = loaded.preprocess
    assert (loaded_preprocess.scale, loaded_preprocess.mean, loaded_preprocess.std) == (
        16.0,
        (0.3,),
        (0.5,),
    )
    jax.tree.map(np.testing.assert_array_equal, loaded.state.stats, stats)
    with pytest.raises(tl.UserError, match="exists already"):
        weight_space.save(place / "normed", run, params, stats)


def test_wise_and_soup_of_unsuitable_runs_raise(place, capsys):
    assert "experiment.json" in text(capsys, "wise", place / "nowhere", code=1)
    assert "from scratch" in text(capsys, "wise", place / "source", code=1)
    assert "no directory of a run" in text(capsys, "soup", place / "nowhere", code=1)
