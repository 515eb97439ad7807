"""The notebooks run from start to end, and what is stored of them is fit to be read."""

import ast
import importlib.util
import json
import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
NEEDED = ("nbclient", "nbformat", "ipykernel")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
# Besides jaxtl, what a reader may be expected to know.
LIBRARIES = {"jax", "flax", "numpy", "matplotlib", "sklearn"}
# Modules beside `tl`: studies of runs, and statistics of results.
ROOMS = {"jaxtl.analysis", "jaxtl.results.statistics"}
STANDARD = {"collections", "dataclasses", "os", "pathlib", "tempfile"}
ABSOLUTE = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|opt|usr|var|work|Users|mnt)\b")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# Half a minute of processor time each: the first and the last run in every test, and
# between them they use runs, comparisons, models, data sources, terms and sweeps.
QUICK = ("01_quickstart", "06_your_own_model_and_data")
each_to_run = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.stem,
            marks=() if path.stem in QUICK else pytest.mark.slow,
        )
        for path in NOTEBOOKS
    ],
)


def cells(path, kind):
    """Returns [(text, cell)] of one kind."""
    stored = json.loads(path.read_text())["cells"]
    return [("".join(c["source"]), c) for c in stored if c["cell_type"] == kind]


def outputs(path):
    return [out for _, cell in cells(path, "code") for out in cell["outputs"]]


def test_all_notebooks_are_here():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@each_to_run
def test_it_runs_from_start_to_end(path, tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("JAXTL_FAST", "1")
    # Nearly all of its time is compiling.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(ROOT.parent / ".jax_cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    source = str(ROOT.parent)
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, *filter(None, [known])]))
    book = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources=place
    ).execute()
    found = [out for cell in book.cells for out in cell.get("outputs", ())]
    said = "".join(out.text for out in found if out.get("name") == "stderr")
    assert "Warning" not in said, said
    assert list(tmp_path.iterdir()) == [], "it writes into the reader's folder"


@each
def test_outputs_are_stored_without_errors(path):
    run = [cell["execution_count"] for _, cell in cells(path, "code")]
    assert run == list(range(1, len(run) + 1)), "run it anew, from the first cell"
    kinds = {out["output_type"] for out in outputs(path)}
    assert "error" not in kinds
    assert {"display_data", "execute_result"} & kinds, "it shows neither table nor plot"
    assert any("image/png" in out.get("data", {}) for out in outputs(path))
    assert not any(out.get("name") == "stderr" for out in outputs(path))


@each
def test_nothing_names_the_machine(path):
    book = json.loads(path.read_text())
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}
    for cell in book["cells"]:
        for out in cell.get("outputs", ()):
            data = dict(out.get("data", {}))
            data.pop("image/png", None)
            text = json.dumps([data, out.get("text", "")], ensure_ascii=False)
            assert not ABSOLUTE.search(text), ABSOLUTE.search(text)
        assert not ABSOLUTE.search("".join(cell["source"]))


@each
def test_it_has_text_between_its_code(path):
    texts = [text for text, _ in cells(path, "markdown")]
    assert texts[0].startswith("# ")
    assert len(texts) >= 6
    assert sum(len(text.split()) for text in texts) > 250


@each
def test_it_can_be_shortened_by_one_line(path):
    lines = [
        line for text, _ in cells(path, "code") for line in text.splitlines() if line
    ]
    assert sum("JAXTL_FAST" in line for line in lines) == 1
    assert 'FAST = bool(os.environ.get("JAXTL_FAST"))' in lines


@each
def test_it_uses_the_public_api_alone(path):
    tree = ast.parse("\n\n".join(text for text, _ in cells(path, "code")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                assert alias.name == "jaxtl" or top in LIBRARIES | STANDARD, alias.name
        elif isinstance(node, ast.ImportFrom):
            top = node.module.split(".")[0]
            assert top in LIBRARIES | STANDARD or node.module in ROOMS, node.module
            assert not any(alias.name.startswith("_") for alias in node.names)
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), f"private: {node.attr}"
        if isinstance(node, ast.Attribute) and _is_name(node.value, "tl"):
            import jaxtl

            assert node.attr in jaxtl.__all__, f"tl.{node.attr} is not public"


def _is_name(node, name):
    return isinstance(node, ast.Name) and node.id == name
