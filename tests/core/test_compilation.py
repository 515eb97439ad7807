"""Compiler options: for CPU alone, never over the user's own, never unknown ones."""

import functools
import time
from concurrent import futures

import jax
import pytest

from jaxtl.core import compilation

pytestmark = pytest.mark.usefixtures("all_optimizations")


@pytest.fixture
def fresh():
    """Forgets what was asked before, and again afterwards."""
    compilation.options.cache_clear()
    yield
    compilation.options.cache_clear()


def test_a_tpu_is_left_as_it_is():
    assert compilation.options("tpu") == {}


@pytest.mark.parametrize("platform", ["gpu", "cuda", "rocm"])
def test_a_gpu_runs_no_kernel_whose_sums_take_another_order_each_time(
    platform, monkeypatch
):
    option = "xla_gpu_exclude_nondeterministic_ops"
    assert compilation.options(platform) == {option: True}
    compilation.options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", f"--{option}=false")
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


def scaled(factor: float, settings: dict, x):
    return factor * x + settings["offset"]


def test_equal_static_arguments_share_one_compiled_function():
    compilation.clear()
    first = compilation.cached_jit(scaled, 2.0, {"offset": 1.0})
    assert compilation.cached_jit(scaled, 2.0, {"offset": 1.0}) is first
    assert first(3.0) == 7.0
    other = compilation.cached_jit(scaled, 2.0, {"offset": 0.0})
    assert other(3.0) == 6.0
    assert compilation.stored(scaled) == [first, other]
    compilation.cached_jit(scaled, 2.0, {"offset": 1.0})
    assert compilation.stored() == [other, first], "the last used is the last"
    compilation.clear()
    assert compilation.stored() == []


def test_partial_functions_are_compared_by_their_parts():
    def apply(function, x):
        return function(x)

    partials = [
        functools.partial(scaled, 2.0, {"offset": offset}) for offset in (1.0, 1.0, 2.0)
    ]
    calls = [compilation.cached_jit(apply, partial) for partial in partials]
    assert calls[0] is calls[1]
    assert [call(1.0) for call in calls] == [3.0, 3.0, 4.0]


def test_the_least_recently_used_result_is_dropped(monkeypatch):
    compilation.clear()
    monkeypatch.setattr(compilation, "MAX_ENTRIES", 2)
    for key in (1, 2, 1, 3):
        compilation.cached(scaled, key, lambda key=key: key)
    assert compilation.stored(scaled) == [1, 3]
    compilation.clear()


def test_threads_build_a_result_once():
    compilation.clear()
    built = []

    def build():
        time.sleep(0.05)
        built.append(1)
        return len(built)

    with futures.ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda _: compilation.cached(scaled, "key", build), range(8))
        )
    assert results == [1] * 8
    compilation.clear()


def test_a_failed_build_is_tried_again():
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        compilation.cached(scaled, "key", fail)
    assert compilation.stored(scaled) == []
    assert compilation.cached(scaled, "key", lambda: 5) == 5
    compilation.clear()
