"""Compiler options: for CPU alone, never over the user's own, never unknown ones."""

import jax
import pytest

from jaxtl.core import compilation


@pytest.fixture
def fresh():
    """Forgets what was asked before, and again afterwards."""
    compilation.options.cache_clear()
    yield
    compilation.options.cache_clear()


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_other_platforms_are_left_as_they_are(platform):
    assert compilation.options(platform) == {}


def test_every_option_is_one_that_xla_takes():
    found = compilation.options("cpu")
    assert set(found) <= set(compilation._CPU)
    double = jax.jit(lambda x: 2 * x, compiler_options=found)
    assert double(1.5) == 3.0


def test_what_the_user_set_stays(fresh, monkeypatch):
    name = "xla_disable_hlo_passes"
    monkeypatch.setenv("XLA_FLAGS", f"--{name}=some-pass")
    assert name not in compilation.options("cpu")


def test_an_unknown_option_is_left_out(fresh, monkeypatch):
    monkeypatch.setitem(compilation._CPU, "xla_cpu_no_such_option", "1")
    assert "xla_cpu_no_such_option" not in compilation.options("cpu")
