"""Freed memory is kept: steps take no page faults for their temporary memory."""

import os
import subprocess
import sys

import pytest

from jaxtl.core import allocator

# A program with 36 MB of temporary memory, and the least page faults of later calls.
# Some calls take a new block, as small blocks lie in what the last one freed.
PROGRAM = """
import resource
from jaxtl.core import allocator
print(allocator.keep_freed_memory())
import jax, jax.numpy as jnp
f = jax.jit(lambda x: jnp.sort(jnp.outer(x, x), 1).sum())
x = jnp.arange(3000.0)
def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
print(min([faults() for _ in range(16)][4:]))
"""


def outcome() -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of a call of the program."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = process.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_call_takes_no_page_faults_for_its_temporary_memory():
    kept, faults = outcome()
    if not kept:
        pytest.skip("there is no glibc here")
    assert faults < 1000  # 36 MB are 8,800 pages


@pytest.mark.parametrize(
    "variable", ["GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_TRIM_THRESHOLD_"]
)
def test_an_environment_that_configures_the_allocator_is_left_alone(
    monkeypatch, variable
):
    monkeypatch.setenv(variable, "")
    assert not allocator.keep_freed_memory.__wrapped__()


def test_systems_with_accelerators_are_left_alone(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(allocator.importlib.util, "find_spec", lambda name: name)
    assert not allocator.keep_freed_memory.__wrapped__()
