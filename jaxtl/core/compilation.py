"""Compiler options that are faster than XLA's defaults.

On CPU jax 0.10 hands matrix products and convolutions to YNNPACK. Eigen's train faster:
by a fifth a ResNet-20, by a quarter a LeNet. And XLA takes optimization barriers away
before it fuses, which voids `models.fence`. `benchmarks/models.py` measures the sum.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

# LLVM's best is a waste on what runs once: drawing a ResNet-20's weights compiles in
# a fraction of the time, to the same bits.
_ONCE = {"xla_backend_optimization_level": 1}
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander,optimization-barrier-expander",
}


@functools.cache
def options(platform: str | None = None) -> dict[str, str]:
    """Returns `compiler_options` for jax.jit.

    Args:
      platform: "cpu", "cuda", …; None takes the default device's.

    Returns:
      {} elsewhere than on CPU. What $XLA_FLAGS sets stays as it is, and what the
      installed XLA does not know is left out.
    """
    platform = platform or jax.default_backend()
    return _allowed(_CPU) if platform == "cpu" else {}


@functools.cache
def once() -> dict[str, str]:
    """Returns `compiler_options` for what runs once, on the default device."""
    return _allowed(_ONCE) if jax.default_backend() == "cpu" else {}


@functools.cache
def single(platform: str) -> dict[str, str]:
    """Returns `options` for a program that keeps to one core of a CPU.

    Where every core has a program of its own, threads inside each are in the way.
    """
    found = options(platform)
    if platform != "cpu":
        return found
    return {**found, **_allowed({"xla_cpu_multi_thread_eigen": False})}


def _allowed(found: dict) -> dict:
    flags = os.environ.get("XLA_FLAGS", "")
    return {k: v for k, v in found.items() if k not in flags and _known(k, v)}


def _known(name: str, value) -> bool:
    trivial = jax.jit(lambda x: x).lower(0.0)
    try:
        trivial.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep(folder) -> None:
    """Keeps compiled programs in a folder for later processes, if nothing else does."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


class Recent(dict):
    """A dict of compiled programs that lets go of its oldest entries.

    A sweep of a thousand programs in one process would fill the memory otherwise.

    Args:
      most: entries kept.
    """

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __setitem__(self, key, value) -> None:
        super().__setitem__(key, value)
        while len(self) > self.most:
            del self[next(iter(self))]


def has_convolution(function: Callable[..., Any], *args: Any) -> bool:
    """Whether a function, traced for these arguments, computes a convolution.

    Both XLA's convolution and the primitives of `models/layers/conv.py` are named
    conv_….
    """
    return _has_convolution(jax.make_jaxpr(function)(*args).jaxpr)


def _has_convolution(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith("conv_"):
            return True
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value) and _has_convolution(getattr(value, "jaxpr", value)):
                return True
    return False


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
