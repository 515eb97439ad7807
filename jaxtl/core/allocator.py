"""Memory that a program frees is kept for the next one, on CPUs.

XLA allocates the temporary memory of a program at each call, and glibc returns so large
a block to the system at its end. The next step then takes a page fault for each 4 kB of
it: 12,600 for a LeNet, two fifths of its time, and 76,000 for a ViT of 6 × 192, a fifth
of its own. A step that needs a few MB takes longer, 1.27 of its time for a small CNN,
as all threads share one arena (`python benchmarks/allocator.py`).
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys

# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEPT_BYTES = 2**31 - 1
_VARIABLES = ("GLIBC_TUNABLES", "LD_PRELOAD")


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process keep up to 2 GB of freed memory; returns whether it does.

    Called before any library has threads, as the command line does, it holds for blocks
    of any size; later for those up to 64 MB, unless a thread shares the arena of the
    first one. Nothing changes on systems without glibc, where jax has plugins
    of accelerators (threads that decode images there are better off with memory of
    their own), and where the environment configures the allocator: `MALLOC_…_`,
    `GLIBC_TUNABLES`, `LD_PRELOAD`.
    """
    is_configured = any(
        name in _VARIABLES or name.startswith("MALLOC_") for name in os.environ
    )
    if sys.platform != "linux" or is_configured or not _is_cpu_alone():
        return False
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return False
        # One arena, since those of threads take blocks of 64 MB at most; no block of
        # its own mapping; and the end of the heap stays.
        settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT_BYTES))
        for setting in settings:
            library.mallopt(*setting)
        return True
    return False


def _is_cpu_alone() -> bool:
    """Whether jax will find no accelerator, as it has no plugin or may open none."""
    if os.environ.get("JAX_PLATFORMS", "").lower() == "cpu":
        return True
    names = ("jax_plugins", "libtpu")
    return not any(importlib.util.find_spec(name) for name in names)
