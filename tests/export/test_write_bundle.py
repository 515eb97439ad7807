"""Writing exports: models of several kinds, and folders that must not be touched."""

import json

import exported_runs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.export import bundle, predict, write_bundle


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A trained CNN with batch statistics, as its run and its export."""
    return exported_runs.exported_digits(tmp_path_factory.getbasetemp() / "digits")


def test_functions_of_a_notebook_are_exported_with_the_experiment(tmp_path):
    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 2))}

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    run = exported_runs.train(
        tmp_path / "run",
        model=tl.models.foreign(init, lambda params, x: x @ params["w"]),
        data=tl.data.Arrays(x=x, y=y),
    )
    with pytest.raises(UserError, match="in the program that made it, with exp="):
        write_bundle.export(tmp_path / "run", tmp_path / "out")
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out", exp=run.exp)
    [w] = load_file(folder / bundle.WEIGHTS).values()
    outputs = bundle.load(folder)(x)
    np.testing.assert_allclose(outputs, x @ w.astype(np.float64), rtol=1e-4, atol=1e-5)
    np.save(tmp_path / "x.npy", x[0])
    [row] = predict.predict(folder, tmp_path / "x.npy")
    assert list(row) == ["file", "row", "origin", "output 0", "output 1"]


def test_a_model_that_depends_on_the_batch_size_is_refused(tmp_path):
    def apply(params, x):
        return x @ params["w"] * int(x.shape[0])

    run = exported_runs.train(
        tmp_path / "run",
        model=tl.models.foreign(lambda k, x: {"w": jnp.ones((3, 1))}, apply),
        data=tl.data.Arrays(x=np.ones((50, 3)), y=np.ones(50) * 0.5),
    )
    with pytest.raises(UserError, match="can't be exported with a free batch size"):
        write_bundle.export(tmp_path / "run", tmp_path / "out", exp=run.exp)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_half_precision_model_is_exported_without_its_data(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 6, 6, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 3)
    run = exported_runs.train(
        tmp_path / "run",
        model=tl.models.CNN(widths=(4,), units=8),
        data=tl.data.Arrays(str(tmp_path / "data.npz")),
        dtype="bfloat16",
    )
    expected, x = exported_runs.logits(run)
    (tmp_path / "data.npz").unlink()
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    predictor = bundle.load(folder)
    assert predictor.metadata["tolerance"] == write_bundle.TOLERANCE_HALF
    outputs = predictor.outputs(x)["logits"]
    np.testing.assert_allclose(outputs, expected, rtol=5e-2, atol=5e-2)
    card = (folder / "README.md").read_text()
    assert "random, since the data could not be read" in card


def test_a_folder_is_never_overwritten_by_accident(digits, tmp_path, monkeypatch):
    run, out = digits[0], tmp_path / "out"
    out.mkdir()
    write_bundle.export(run.directory, out)  # an empty folder is free
    with pytest.raises(UserError, match="holds an export already"):
        write_bundle.export(run.directory, out)
    before = (out / bundle.METADATA).read_text()
    assert write_bundle.export(run.directory, out, licence="MIT", overwrite=True) == out
    after = (out / bundle.METADATA).read_text()
    assert (before != after, json.loads(after)["licence"]) == (True, "MIT")
    with pytest.raises(UserError, match=r"no export\.json, so it is no export folder"):
        write_bundle.export(run.directory, run.directory, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_bundle.export(run.directory, tmp_path / "file")

    def fail(folder):
        raise UserError("it deviates.")

    monkeypatch.setattr(bundle, "load", fail)
    with pytest.raises(UserError, match="it deviates"):
        write_bundle.export(run.directory, out, overwrite=True)
    assert (out / bundle.METADATA).read_text() == after
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def test_a_folder_that_cannot_be_written_is_named(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/out can't be written: .*Not a directory"
    ):
        write_bundle.export(digits[0].directory, tmp_path / "file" / "out")


def test_directories_without_a_trained_run_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no directory of a run.* no experiment\.json"):
        write_bundle.export(tmp_path, tmp_path / "out")
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint yet"):
        write_bundle.export(tmp_path, tmp_path / "out")
    (tmp_path / "experiment.json").unlink()
    (tmp_path / "study.json").write_text("{}")
    for name in ("seed0", "seed1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="holds 2 runs: seed0, seed1; name one of"):
        write_bundle.export(tmp_path, tmp_path / "out")
