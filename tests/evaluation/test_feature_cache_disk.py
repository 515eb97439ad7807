"""Features on disk, written by several processes at once."""

import os
import pathlib
import subprocess
import sys

import numpy as np

import jaxtl as tl
from jaxtl.evaluation import feature_cache_disk

ROOT = pathlib.Path(tl.__file__).parents[1]
# Both processes begin each round together; the features of a round are the same.
WRITER = """
import pathlib, sys
import numpy as np
from jaxtl.evaluation import feature_cache_disk as disk

root, index = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for number in range(20):
    (root / f"ready-{number}-{index}").touch()
    while not (root / f"ready-{number}-{1 - index}").exists():
        pass
    features = np.full((500, 64), number, np.float32)
    stored, before = disk.read(root / "cache", f"key{number}")
    told = disk.write(root / "cache", f"key{number}", features, 2.0)
    (values, flops), after = disk.read(root / "cache", f"key{number}")
    assert (before, told, after, flops) == ("", "", "", 2.0), (before, told, after)
    assert np.array_equal(values, features)
    assert stored is None or np.array_equal(stored[0], features)
"""


def test_two_processes_write_the_same_entries_at_once(tmp_path):
    """One of them writes it, and both read it whole; neither is told of anything."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(index)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        for process in processes:
            _, told = process.communicate(timeout=200)
            assert process.returncode == 0, told[-2000:]
    finally:
        for process in processes:
            process.kill()
    names = {p.name for p in (tmp_path / "cache").iterdir()}
    assert names == {f"key{number}" for number in range(20)}, "no draft is left"
    (values, _), _ = feature_cache_disk.read(tmp_path / "cache", "key7")
    assert np.array_equal(values, np.full((500, 64), 7, np.float32))
