"""`jaxtl importance`: end to end on the digits, and everything it refuses."""

import dataclasses
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

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
    """Returns a folder with two finished runs and the file of a third."""
    folder = tmp_path_factory.mktemp("importance")
    for seed, name in enumerate(("run", "other")):
        made = tl.setup(digits(seed=seed, steps=20), folder / name)
        tl.train(made)
    (folder / "tuned.py").write_text(FILE.format(run=folder / "run"))
    return folder


@pytest.fixture
def run(place, tmp_path):
    """Returns the directory of a copy of the first run, without importance."""
    found = tmp_path / "run"
    ignore = shutil.ignore_patterns("importance")
    return shutil.copytree(place / "run", found, ignore=ignore)


def text(capsys, *arguments, code=0):
    assert main.main(["importance", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    return err if code else out


def _by_hand(run):
    """Returns numpy's forward pass of the run's best weights: (x, hidden, logits)."""
    params = tl.pretrained.FromRun(str(run)).read().params
    flat = {k: np.asarray(v, np.float64) for k, v in trees.flatten(params).items()}
    rows = tl.setup(importance.rundir.read_experiment(run)).parts.datasets["target"]
    x = load_digits().images[rows.rows["train"]].reshape(-1, 64) / 16.0
    hidden = x @ flat["layer1/dense/kernel"] + flat["layer1/dense/bias"]
    hidden = np.maximum(hidden, 0.0)
    return x, hidden, hidden @ flat["head/dense/kernel"] + flat["head/dense/bias"], flat


def test_a_runs_fisher_and_mas_are_those_of_its_best_weights(run, capsys):
    out = text(capsys, run)
    x, hidden, logits, flat = _by_hand(run)
    assert f"fisher importance of {len(x):,} examples of train written" in out
    path = run / "importance" / "fisher.safetensors"
    found = safetensors.numpy.load_file(path)
    assert sorted(found) == sorted(flat)
    assert all(x.dtype == np.float32 for x in found.values())
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    expected = (hidden**2).T @ (p * (1 - p)) / len(x)
    np.testing.assert_allclose(
        found["head/dense/kernel"], expected, rtol=2e-4, atol=1e-8
    )
    # Through the hidden layer: Σ_c p_c (Σ_k (1{c=k} − p_k) v_jk)² where it is active.
    head, active = flat["head/dense/kernel"], hidden > 0
    mean = p @ head.T
    spread = p @ (head.T**2) - mean**2
    expected = (x**2).T @ (spread * active) / len(x)
    np.testing.assert_allclose(
        found["layer1/dense/kernel"], expected, rtol=2e-3, atol=1e-8
    )
    text(capsys, run, "--kind", "mas")
    found = safetensors.numpy.load_file(run / "importance" / "mas.safetensors")
    expected = np.abs(2 * hidden[:, :, None] * logits[:, None, :]).mean(0)
    np.testing.assert_allclose(found["head/dense/kernel"], expected, rtol=2e-4)
    text(capsys, run, "--kind", "empirical", "--split", "val", "--examples", 20)
    kept = importance_file.read(run / "importance" / "empirical.safetensors")
    assert (kept.kind, kept.examples, kept.split) == ("empirical", 20, "val")
    assert kept.digests == importance_file.read(path).digests


def test_it_may_be_computed_again_and_is_the_same(run, capsys):
    args = (run, "--examples", 10)
    text(capsys, *args)
    path = run / "importance" / "fisher.safetensors"
    first = safetensors.numpy.load_file(path)
    text(capsys, *args)
    again = safetensors.numpy.load_file(path)
    assert all(np.array_equal(first[k], again[k]) for k in first)
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


def test_a_failed_write_leaves_what_was_there(run, capsys, monkeypatch):
    text(capsys, run, "--examples", 5)
    path = run / "importance" / "fisher.safetensors"
    before = path.read_bytes()

    def broken(arrays, draft, metadata):
        draft.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.numpy.save_file", broken)
    with pytest.raises(OSError, match="no space"):
        text(capsys, run, "--examples", 6)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_run_with_ewc_trains_near_the_run_it_names(place, capsys, tmp_path):
    text(capsys, place / "run", "--examples", 30)
    made = tl.setup(tl.load(place / "tuned.py"), tmp_path / "tuned")
    assert (
        "fisher importance of 30 examples of the train" in made.parts.terms.notes["ewc"]
    )
    rows = [metrics for _, metrics in made]
    assert rows[0]["ewc"] == 0
    assert 0 < rows[1]["ewc"] < 1
    init = tl.pretrained.FromRun(str(place / "other"), reset="head")
    wrong = dataclasses.replace(tl.load(place / "tuned.py"), init=init)
    with pytest.raises(tl.UserError, match=r"terms\.ewc\.importance=.*another model"):
        tl.setup(wrong)


def test_of_an_experiment_files_initial_weights(place, capsys, tmp_path):
    out = tmp_path / "file.safetensors"
    args = (place / "tuned.py", "--examples", 5, "--out", out)
    # Its EWC term would need what is only being made.
    shutil.rmtree(place / "run" / "importance", ignore_errors=True)
    printed = text(capsys, *args)
    assert "note: head has parameters that no weights were loaded for" in printed
    found = importance_file.read(out)
    digests = importance_file.digests(
        tl.pretrained.FromRun(str(place / "run")).read().params
    )
    assert found.digests["layer1/dense/kernel"] == digests["layer1/dense/kernel"]
    assert found.digests["head/dense/kernel"] != digests["head/dense/kernel"]
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
def test_refusals_of_a_run(place, capsys, arguments, message):
    found = text(capsys, place / "run", *arguments, code=1)
    assert message in found
    assert found.count("\n") == 1


def test_refusals_of_a_place(place, capsys, tmp_path):
    def refused(*arguments):
        return text(capsys, *arguments, code=1)

    assert "no directory of a (finished) run" in refused(tmp_path)
    assert "there is no experiment file" in refused(tmp_path / "nowhere")
    assert "so say where" in refused(place / "tuned.py")
    out = ("--out", tmp_path / "x.safetensors")
    message = refused(place / "tuned.py", "init=None", *out)
    assert "starts from scratch" in message
    message = refused(place / "tuned.py", "--variant", "a", *out)
    assert "--variant 'a': expected one of the experiments" in message
    (tmp_path / "study.json").write_text("{}")
    assert "holds the runs of a file; name one of them" in refused(tmp_path)


def test_labels_that_are_not_there(digits, place):
    data = tl.data.Digits(labels_per_class=3)
    init = tl.pretrained.FromRun(str(place / "run"))
    model = importance.of_experiment(digits(data=data, init=init))
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
def test_other_tasks_than_classification(bench, kind, task):
    room = bench(task)
    batches = [room.batches["target"], room.batches["source"]]
    found = importance.KINDS[kind](
        room.network, room.params, room.stats, batches, task=task, key=jax.random.key(0)
    )
    assert all(np.isfinite(x).all() for x in found.values())
    assert any(np.any(x) for x in found.values())
    flat = trees.flatten(room.params)
    assert {k: x.shape for k, x in found.items()} == {
        k: x.shape for k, x in flat.items()
    }
    assert all((x >= 0).all() for x in found.values())
