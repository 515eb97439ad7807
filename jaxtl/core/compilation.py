"""Compilation: options that are faster than XLA's defaults, and one store of programs.

On CPU jax 0.10 gives matrix products and convolutions to YNNPACK; Eigen's train a
ResNet-20 a fifth faster and a LeNet a quarter faster. XLA also removes optimization
barriers before it fuses, which would disable `models.layers.fusion_barrier`.
`benchmarks/models.py` measures the effect.

Compiled functions are kept for the whole process by `cached` and `cached_jit`.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax

from jaxtl.core import config, devices

# LLVM's strongest optimizations do not pay for a program that runs once: drawing a
# ResNet-20's weights compiles in a fraction of the time without them, to the same bits.
_ONCE = {"xla_backend_optimization_level": 1}
# The atomic additions of some GPU kernels take another order in every run: without them
# a run repeats to the bit, in one process or in two.
_GPU: dict[str, Any] = {"xla_gpu_exclude_nondeterministic_ops": True}
_CPU: dict[str, Any] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander,optimization-barrier-expander",
}


@functools.cache
def options(platform: str) -> dict[str, Any]:
    """The `compiler_options` for jax.jit on a platform.

    Args:
      platform: "cpu", "cuda", …

    Returns:
      {} on TPU. Options that $XLA_FLAGS sets, and options that the installed
      XLA does not have, are left out.
    """
    settings = {"cpu": _CPU, "gpu": _GPU, "cuda": _GPU, "rocm": _GPU}
    return _allowed(settings.get(platform, {}))


def default_options() -> dict[str, Any]:
    """The `options` for the device that a computation on one device uses."""
    return options(devices.first().platform)


@functools.cache
def _once(platform: str) -> dict[str, str]:
    return _allowed(_ONCE) if platform == "cpu" else {}


def once() -> dict[str, str]:
    """The `compiler_options` for a program that runs once, on that device."""
    return _once(devices.first().platform)


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


def _known(name: str, value: Any) -> bool:
    trivial = jax.jit(lambda x: x).lower(0.0)
    try:
        trivial.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep(folder: Any) -> None:
    """Caches compiled programs in a folder for later processes, unless one is set."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


# Results of `cached` that a process keeps. A sweep of a thousand programs in one
# process would fill the memory otherwise.
MAX_ENTRIES = 512


@dataclasses.dataclass
class _Entry:
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    value: Any = None
    complete: bool = False


_entries: dict[tuple[Callable[..., Any], Hashable], _Entry] = {}
_entries_lock = threading.Lock()


def cached(owner: Callable[..., Any], key: Hashable, build: Callable[[], Any]) -> Any:
    """Calls `build`, or returns its earlier result for an equal owner and key.

    One store serves the whole process. Beyond `MAX_ENTRIES` results the least recently
    used one is dropped. Threads that need the same result wait for the one that builds
    it; threads that need different results do not wait for each other.

    Args:
      owner: the function that the result belongs to; keys of different owners never
        meet, and `stored` selects by it.
      key: all that `build` depends on.
      build: compiles a function, without arguments.
    """
    with _entries_lock:
        entry = _entries.pop((owner, key), None) or _Entry()
        _entries[owner, key] = entry  # a dict keeps the order of insertion
        while len(_entries) > MAX_ENTRIES:
            del _entries[next(iter(_entries))]
    with entry.lock:
        if not entry.complete:
            entry.value, entry.complete = build(), True
        return entry.value


def cached_jit(
    function: Callable[..., Any],
    *static: Any,
    options: dict[str, str] | None = None,
) -> Callable[..., Any]:
    """`jax.jit` of `function(*static, ...)`, once for equal static arguments.

    Args:
      function: a function of a module; a function made anew for each call would be
        compiled anew as well.
      *static: its leading arguments, configurations or hashable values. They are
        compared by `config.key`, and a `functools.partial` by its parts.
      options: `compiler_options` of `jax.jit`.

    Returns:
      A compiled function of the remaining arguments.
    """
    key = (tuple(_key(value) for value in static), str(options))

    def build() -> Callable[..., Any]:
        return jax.jit(functools.partial(function, *static), compiler_options=options)

    return cached(function, key, build)


def _key(value: Any) -> Hashable:
    if not isinstance(value, functools.partial):
        return config.key(value)
    return (value.func, config.key(value.args), config.key(value.keywords))


def shapes(tree: Any) -> Hashable:
    """A key of a tree of arrays: its structure, and each array's shape and dtype."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, str(x.dtype)) for x in leaves)


def stored(owner: Callable[..., Any] | None = None) -> list[Any]:
    """The results of `cached` that are kept now, least recently used first.

    Args:
      owner: whose results; None takes those of all. That of `cached_jit` is `function`.
    """
    with _entries_lock:
        entries = list(_entries.items())
    return [
        entry.value
        for (function, _), entry in entries
        if entry.complete and owner in (None, function)
    ]


def clear() -> None:
    """Drops all results of `cached`."""
    with _entries_lock:
        _entries.clear()


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
