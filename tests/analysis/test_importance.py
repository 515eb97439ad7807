"""`jaxtl importance`: end to end on the digits, and invalid arguments."""

import dataclasses
import errno
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_digits

import jaxtl as tl
from jaxtl.analysis import importance
from jaxtl.cli import main
from jaxtl.core import tree as trees
from jaxtl.terms.regularizers import importance_file
from jaxtl.training import run_dir

FILE = '''
"""A tuned model."""
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(16,)), data=tl.data.Digits(), steps=2, batch=16,
        init=tl.pretrained.FromRun("{run}", reset="head"),
        terms={{
            "task": tl.losses.CrossEntropy(),
            "ewc": tl.regularizers.EWC(importance="{run}", normalize=True),
        }},
    )
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory, digits):
    """A folder with two finished runs and the file of a third."""
    folder = tmp_path_factory.mktemp("importance")
    for seed, name in enumerate(("run", "other")):
        run = tl.setup(digits(seed=seed, steps=20), folder / name)
        tl.train(run)
    (folder / "tuned.py").write_text(FILE.format(run=folder / "run"))
    return folder


@pytest.fixture
def run(place, tmp_path):
    """The directory of a copy of the first run, without importance."""
    copy = tmp_path / "run"
    ignore = shutil.ignore_patterns("importance")
    return shutil.copytree(place / "run", copy, ignore=ignore)


def text(capsys, *arguments, code=0):
    assert main.main(["importance", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    return err if code else out


def _mlp_outputs(run):
    """Inputs, hidden units, logits and parameters of a run's best weights, in numpy."""
    params = tl.pretrained.FromRun(str(run)).read().params
    flat = {k: np.asarray(v, np.float64) for k, v in trees.flatten(params).items()}
    rows = tl.setup(run_dir.read_experiment(run)).parts.datasets["target"]
    x = load_digits().images[rows.rows["train"]].reshape(-1, 64) / 16.0
    hidden = x @ flat["layer1/dense/kernel"] + flat["layer1/dense/bias"]
    hidden = np.maximum(hidden, 0.0)
    return x, hidden, hidden @ flat["head/dense/kernel"] + flat["head/dense/bias"], flat


def test_fisher_and_mas_of_a_run_agree_with_numpy(run, capsys):
    out = text(capsys, run)
    x, hidden, logits, flat = _mlp_outputs(run)
    assert f"fisher importance of {len(x):,} examples of train written" in out
    path = run / "importance" / "fisher.safetensors"
    arrays = safetensors.numpy.load_file(path)
    assert sorted(arrays) == sorted(flat)
    assert all(x.dtype == np.float32 for x in arrays.values())
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    expected = (hidden**2).T @ (p * (1 - p)) / len(x)
    np.testing.assert_allclose(
        arrays["head/dense/kernel"], expected, rtol=2e-4, atol=1e-8
    )
    # Through the hidden layer: Σ_c p_c (Σ_k (1{c=k} − p_k) v_jk)² where it is active.
    head, active = flat["head/dense/kernel"], hidden > 0
    mean = p @ head.T
    spread = p @ (head.T**2) - mean**2
    expected = (x**2).T @ (spread * active) / len(x)
    np.testing.assert_allclose(
        arrays["layer1/dense/kernel"], expected, rtol=2e-3, atol=1e-8
    )
    text(capsys, run, "--kind", "mas")
    arrays = safetensors.numpy.load_file(run / "importance" / "mas.safetensors")
    expected = np.abs(2 * hidden[:, :, None] * logits[:, None, :]).mean(0)
    np.testing.assert_allclose(arrays["head/dense/kernel"], expected, rtol=2e-4)
    text(capsys, run, "--kind", "empirical", "--split", "val", "--examples", 20)
    stored = importance_file.read(run / "importance" / "empirical.safetensors")
    assert (stored.kind, stored.examples, stored.split) == ("empirical", 20, "val")
    assert stored.digests == importance_file.read(path).digests


def test_computing_importance_again_gives_the_same(run, capsys):
    args = (run, "--examples", 10)
    text(capsys, *args)
    path = run / "importance" / "fisher.safetensors"
    first = safetensors.numpy.load_file(path)
    text(capsys, *args)
    second = safetensors.numpy.load_file(path)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_another_models_importance_is_not_overwritten(run, place, capsys):
    few = ("--examples", 5)
    text(capsys, place / "other", *few, "--out", run / "importance/fisher.safetensors")
    path = run / "importance" / "fisher.safetensors"
    before = path.read_bytes()
    message = text(capsys, run, *few, code=1)
    assert "importance from another model (the leaf" in message
    assert "--overwrite" in message
    assert path.read_bytes() == before
    text(capsys, run, *few, "--overwrite")
    assert path.read_bytes() != before
    path.write_bytes(before[:50])
    assert "is damaged" in text(capsys, run, *few, code=1)


def test_a_failed_write_does_not_change_the_file(run, capsys, monkeypatch):
    text(capsys, run, "--examples", 5)
    path = run / "importance" / "fisher.safetensors"
    before = path.read_bytes()

    def broken(arrays, draft, metadata):
        draft.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", broken)
    assert main.main(["importance", str(run), "--examples", "6"]) == 1
    assert "no space left on device" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_ewc_reads_the_importance_of_the_run_that_it_names(place, capsys, tmp_path):
    text(capsys, place / "run", "--examples", 30)
    run = tl.setup(tl.load(place / "tuned.py"), tmp_path / "tuned")
    assert (
        "fisher importance of 30 examples of the train" in run.parts.terms.notes["ewc"]
    )
    rows = [metrics for _, metrics in run]
    assert rows[0]["ewc"] == 0
    assert 0 < rows[1]["ewc"] < 1
    init = tl.pretrained.FromRun(str(place / "other"), reset="head")
    wrong = dataclasses.replace(tl.load(place / "tuned.py"), init=init)
    with pytest.raises(tl.UserError, match=r"terms\.ewc\.importance=.*another model"):
        tl.setup(wrong)


def test_importance_of_an_experiment_is_of_its_initial_weights(place, capsys, tmp_path):
    out = tmp_path / "file.safetensors"
    args = (place / "tuned.py", "--examples", 5, "--out", out)
    # The EWC term would need importance that does not exist yet.
    shutil.rmtree(place / "run" / "importance", ignore_errors=True)
    printed = text(capsys, *args)
    assert "note: head has parameters that no weights were loaded for" in printed
    stored = importance_file.read(out)
    digests = importance_file.digests(
        tl.pretrained.FromRun(str(place / "run")).read().params
    )
    assert stored.digests["layer1/dense/kernel"] == digests["layer1/dense/kernel"]
    assert stored.digests["head/dense/kernel"] != digests["head/dense/kernel"]
    assert "no weights" not in text(capsys, *args, "init.reset=()", "--overwrite")
    assert importance_file.read(out).digests == digests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "fischer"), "--kind 'fischer' is unknown; did you mean 'fisher'?"),
        (("--split", "tets"), "no split 'tets'; did you mean 'test'?"),
        (("--examples", "5000"), "--examples 5000: expected a number from 1 to 1"),
        (("--examples", "0"), "--examples 0: expected a number from 1 to"),
        (("--out", "x.npz"), "--out x.npz: expected a path that ends in .safetensors"),
        (("seed=1",), "is a run, whose experiment stands"),
    ],
)
def test_invalid_options_are_reported(place, capsys, arguments, message):
    error = text(capsys, place / "run", *arguments, code=1)
    assert message in error
    assert error.count("\n") == 1


def test_unsuitable_targets_are_reported(place, capsys, tmp_path):
    def error(*arguments):
        return text(capsys, *arguments, code=1)

    assert "no directory of a run" in error(tmp_path)
    assert "there is no experiment file" in error(tmp_path / "nowhere")
    assert "so say where" in error(place / "tuned.py")
    out = ("--out", tmp_path / "x.safetensors")
    message = error(place / "tuned.py", "init=None", *out)
    assert "starts from scratch" in message
    message = error(place / "tuned.py", "--variant", "a", *out)
    assert "--variant 'a': expected one of the experiments" in message
    for name in ("study.json", "seed0/experiment.json", "seed1/experiment.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert "holds 2 runs: seed0, seed1; name one of them" in error(tmp_path)


def test_empirical_fisher_of_unlabelled_rows_raises(digits, place):
    data = tl.data.Digits(labels_per_class=3)
    init = tl.pretrained.FromRun(str(place / "run"))
    model = importance.from_experiment(digits(data=data, init=init))
    with pytest.raises(tl.UserError, match="'unlabelled' has not"):
        importance.compute(model, "empirical", "unlabelled")
    assert importance.compute(model, "mas", "unlabelled", 5).examples == 5


def test_importance_that_is_not_finite_is_not_written(run, capsys, monkeypatch):
    broken = {"head/dense/bias": np.array([np.nan])}
    monkeypatch.setitem(importance.KINDS, "mas", lambda *a, **k: broken)
    message = text(capsys, run, "--kind", "mas", code=1)
    assert "'head/dense/bias' holds NaN or infinity, so nothing was written" in message
    assert not (run / "importance").exists()


DIAGONAL = ("fisher", "empirical", "mas")


@pytest.mark.parametrize(
    ("kind", "task"),
    [(k, t) for k in DIAGONAL for t in ("multilabel", "regression")]
    + [("fisher", "language")],
)
def test_importance_for_other_tasks_is_finite_and_not_negative(bench, kind, task):
    room = bench(task)
    batches = [room.batches["target"], room.batches["source"]]
    arrays = importance.KINDS[kind](
        room.network, room.params, room.stats, batches, task=task, key=jax.random.key(0)
    )
    assert all(np.isfinite(x).all() for x in arrays.values())
    assert any(np.any(x) for x in arrays.values())
    flat = trees.flatten(room.params)
    assert {k: x.shape for k, x in arrays.items()} == {
        k: x.shape for k, x in flat.items()
    }
    assert all((x >= 0).all() for x in arrays.values())


def test_weights_of_examples_that_do_not_count_are_told(tmp_path, capsys):
    rows = [f"{i / 9:.2f},{1 + i % 3},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["x,w,y", *rows]))
    data = tl.data.CSV(tmp_path / "t.csv", target="y")
    for weight, told in (("w", True), (None, False)):
        exp = tl.Experiment(
            model=tl.models.MLP(widths=(3,)),
            data=dataclasses.replace(data, sample_weight=weight),
            steps=1,
            batch=8,
        )
        folder = tmp_path / str(weight)
        tl.train(tl.setup(exp, folder), progress=False)
        assert ("every example counts once" in text(capsys, folder)) is told
