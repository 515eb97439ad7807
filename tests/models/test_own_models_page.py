"""The examples of docs/own_models.md run."""

import importlib.util
import pathlib
import re

import jaxtl as tl

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "own_models.md"


def test_every_example_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # One step of each: the evaluation at the end has tests of its own.
    monkeypatch.setattr(tl, "train", lambda run: run.step())
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {"__name__": "own_models"}
    for block in blocks:
        if "equinox" in block and importlib.util.find_spec("equinox") is None:
            continue  # an extra
        exec(compile(block, str(PAGE), "exec"), names)
