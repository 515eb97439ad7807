"""The command that the workers of a grid are started with."""

import pathlib
import types

import pytest

from jaxtl.cli import grid, main


@pytest.mark.parametrize("options", [[], ["--trust"]])
def test_workers_are_trusted_as_the_sweep_is(options):
    args = main.parse(["sweep", "a.py", "seed=0,1", "--workers", "2", *options])
    sweep = types.SimpleNamespace(folder=pathlib.Path("out"))
    worker = main.parse(grid._command(args, sweep))
    assert worker.trust == bool(options)
    assert worker.overrides == ["seed=0,1"]
