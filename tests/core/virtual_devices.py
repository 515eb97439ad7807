"""Scripts on several virtual devices of the CPU, and trees of numbers compared."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(script: str, count: int, folder: pathlib.Path, **variables: str) -> dict:
    """Runs a script that writes `out.json` to a folder, and reads that.

    Args:
      script: Python; its first argument is the folder.
      count: number of devices.
      folder: for all that it writes.
      **variables: of its environment.
    """
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "out.json").read_text())


def assert_near(actual, expected):
    """Compares trees of numbers to float tolerance."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert_near(actual[name], expected[name])
    elif expected and isinstance(expected, list):
        for a, b in zip(actual, expected, strict=True):
            assert_near(a, b)
    else:
        assert actual == pytest.approx(expected, rel=2e-3, abs=2e-4)
