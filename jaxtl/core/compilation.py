"""Compilation: options that are faster than XLA's defaults, and caches of programs.

On CPU jax 0.10 gives matrix products and convolutions to YNNPACK; Eigen's train a
ResNet-20 a fifth faster and a LeNet a quarter faster. XLA also removes optimization
barriers before it fuses, which would disable `models.layers.fusion_barrier`.
`benchmarks/models.py` measures the effect.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

# LLVM's strongest optimizations do not pay for a program that runs once: drawing a
# ResNet-20's weights compiles in a fraction of the time without them, to the same bits.
_ONCE = {"xla_backend_optimization_level": 1}
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander,optimization-barrier-expander",
}


@functools.cache
def options(platform: str | None = None) -> dict[str, str]:
    """The `compiler_options` for jax.jit on a platform.

    Args:
      platform: "cpu", "cuda", …; None takes the default device's.

    Returns:
      {} on accelerators. Options that $XLA_FLAGS sets, and options that the installed
      XLA does not have, are left out.
    """
    platform = platform or jax.default_backend()
    return _allowed(_CPU) if platform == "cpu" else {}


@functools.cache
def once() -> dict[str, str]:
    """The `compiler_options` for a program that runs once, on the default device."""
    return _allowed(_ONCE) if jax.default_backend() == "cpu" else {}


@functools.cache
def single(platform: str) -> dict[str, str]:
    """The `options` for a program that uses one core of a CPU.

    They suit processes that run one program per core, where threads inside each
    program slow the others down.
    """
    settings = options(platform)
    if platform != "cpu":
        return settings
    return {**settings, **_allowed({"xla_cpu_multi_thread_eigen": False})}


def _allowed(settings: dict) -> dict:
    flags = os.environ.get("XLA_FLAGS", "")
    return {k: v for k, v in settings.items() if k not in flags and _known(k, v)}


def _known(name: str, value) -> bool:
    trivial = jax.jit(lambda x: x).lower(0.0)
    try:
        trivial.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep(folder) -> None:
    """Caches compiled programs in a folder for later processes, unless one is set."""
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
