"""Export folders: their outputs, their files, and the checks when they are loaded."""

import json
import re
import shutil

import exported_runs
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from scipy import special

from jaxtl.core.errors import UserError
from jaxtl.export import bundle
from jaxtl.export.predictor import BATCH


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A trained CNN with batch statistics, as its run and its export."""
    return exported_runs.exported_digits(tmp_path_factory.getbasetemp() / "digits")


@pytest.fixture(scope="module")
def predictor(digits):
    """The export, loaded."""
    return bundle.load(digits[1])


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of the export, to be damaged."""
    return shutil.copytree(digits[1], tmp_path / "copy")


def edit(folder, **changes):
    """Changes export.json."""
    path = folder / bundle.METADATA
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_gives_the_evaluated_outputs_for_any_batch_size(digits, predictor):
    expected, x = exported_runs.logits(digits[0])
    assert x.dtype == np.uint8
    for n in (1, 3, BATCH, len(x)):
        outputs = predictor.outputs(x[:n])["logits"]
        np.testing.assert_allclose(outputs, expected[:n], rtol=1e-5, atol=1e-5)
        p = special.softmax(expected[:n].astype(np.float64), axis=-1)
        np.testing.assert_allclose(predictor(x[:n]), p, rtol=1e-4, atol=1e-6)


@hypothesis.given(n=st.integers(1, 9), seed=st.integers(0, 99), split=st.integers(0, 8))
@hypothesis.settings(max_examples=15, deadline=None)
def test_outputs_of_an_example_do_not_depend_on_its_batch(predictor, n, seed, split):
    x = np.random.default_rng(seed).integers(0, 17, (n, 8, 8, 1)).astype(np.uint8)
    together, cut = predictor(x), min(split, n - 1)
    parts = [predictor(part) for part in (x[:cut], x[cut:]) if len(part)]
    np.testing.assert_allclose(np.concatenate(parts), together, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together.sum(-1), 1, rtol=1e-5)


def test_the_program_is_for_all_platforms_and_holds_no_source_path(digits):
    import jax.export

    _, folder = digits
    data = (folder / bundle.PROGRAM).read_bytes()
    program = jax.export.deserialize(bytearray(data))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert "batch" in str(program.in_avals[-1].shape[0])
    assert re.findall(rb"[ -~]*[.]py\b", data) == []
    assert b"jaxtl" not in data
    assert jax.config.jax_hlo_source_file_canonicalization_regex is None
    # TF32 and bfloat16 passes would leave the tolerance on a GPU or TPU.
    module = program.mlir_module()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", module)
    assert products
    assert all("HIGHEST" in line for line in products)


def test_the_folder_is_complete_and_readable(digits):
    _, folder = digits
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "example.npz",
        "export.json",
        "model.jaxexport",
        "parameters.safetensors",
    ]
    assert len({p.stat().st_mode for p in folder.iterdir()}) == 1
    assert [p.name for p in folder.parent.iterdir() if p.name[0] == "."] == []


def test_the_card_has_the_metrics_of_the_run(digits):
    run, folder = digits
    card = (folder / "README.md").read_text()
    result = json.loads((run.directory / "result.json").read_text())
    for split in ("val", "test"):
        n = len(run.parts.datasets["target"].rows[split])
        assert f"| {split} | {n} | {result[split]['accuracy']:.4f} |" in card
    assert "Run(path='start', reset='head', which='best')" in card
    assert "re-initialized" in card
    assert 'license: "CC0-1.0"' in card
    assert f"jax {jax.__version__}" in card
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in card
    assert str(run.directory.parent) not in card


def test_damaged_folders_are_named(digits, copy, tmp_path):
    with pytest.raises(UserError, match=r"no export folder: it holds no export\.json"):
        bundle.load(tmp_path)
    with pytest.raises(UserError, match="a run's directory: first `jaxtl export"):
        bundle.load(digits[0].directory)
    weights = copy / bundle.WEIGHTS
    content = weights.read_bytes()
    size = len(content)
    weights.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"bytes {size - 1}, but {size}"):
        bundle.load(copy)
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"parameters\.safetensors has sha256"):
        bundle.load(copy)
    weights.unlink()
    with pytest.raises(UserError, match=r"parameters\.safetensors is missing"):
        bundle.load(copy)
    (copy / bundle.METADATA).write_text("{")
    with pytest.raises(UserError, match=r"export\.json is damaged"):
        bundle.load(copy)


def test_a_program_that_this_jax_cannot_read_is_named(copy):
    (copy / bundle.PROGRAM).write_bytes(b"nonsense")
    files = json.loads((copy / bundle.METADATA).read_text())["files"]
    files[bundle.PROGRAM] = bundle.digest(copy / bundle.PROGRAM)
    edit(copy, files=files, versions={"jax": "9.9", "jaxtl": "7.0"})
    with pytest.raises(UserError, match=r"can't be read by jax .* \(jax 9\.9 wrote"):
        bundle.load(copy)
    edit(copy, format=2)
    with pytest.raises(UserError, match=r"format 2; this jaxtl reads up to 1: .* 7\.0"):
        bundle.load(copy)


@pytest.mark.parametrize("change", [0.25, np.nan])
def test_an_example_that_deviates_stops_the_load(copy, change):
    with np.load(copy / bundle.EXAMPLE) as file:
        stored = dict(file)
    stored["y.logits"][1, 2] += change
    np.savez_compressed(copy / bundle.EXAMPLE, **stored)
    files = json.loads((copy / bundle.METADATA).read_text())["files"]
    files[bundle.EXAMPLE] = bundle.digest(copy / bundle.EXAMPLE)
    edit(copy, files=files)
    size = "nan" if np.isnan(change) else "0.25"
    message = f"logits differ by up to {size} .* jax {re.escape(jax.__version__)} on"
    with pytest.raises(UserError, match=message):
        bundle.load(copy)


def test_inputs_that_do_not_fit_are_named(predictor):
    x = np.zeros((2, 8, 8, 1), np.uint8)
    for bad, message in (
        (x[..., 0], "shape (2, 8, 8); the exported model takes (n, 8, 8, 1), uint8"),
        (x[:0], "holds no examples"),
        (x / 16 + 0.5, "float64 with values from 0.5 to 0.5"),
        (x.astype(int) + 256, "int64 with values from 256 to 256"),
        (x.astype(str), "expected numbers (uint8)"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            predictor(bad)
    np.testing.assert_array_equal(predictor(x.astype(np.float64)), predictor(x))
