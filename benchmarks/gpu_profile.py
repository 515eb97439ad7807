"""Where a step's time goes on the device, by operation: a part of `gpu.py`."""

import collections
import pathlib
import tempfile

import jax
import timing

import jaxtl as tl

STEPS = 3
MOST = 16  # rows of a table


def advance(run: tl.Run, steps: int) -> None:
    """Takes steps and waits until they are done."""
    run.dispatch(steps)
    jax.block_until_ready(run.state)


def operations(run: tl.Run) -> list[timing.Row]:
    """The operations that take most of a compiled run's step, from jax's profiler.

    Returns:
      Rows with milliseconds a step, the share of all operations, the number of calls
      a step, XLA's name, and the line of the program that it came from.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            advance(run, STEPS)
        path = next(pathlib.Path(folder).rglob("*.xplane.pb"))
        planes = jax.profiler.ProfileData.from_file(str(path)).planes
        seconds: collections.Counter[str] = collections.Counter()
        calls: collections.Counter[str] = collections.Counter()
        origins: dict[str, str] = {}
        for plane in planes:
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    # Events that are no operation (calls of the host) have no hlo_op;
                    # a module's line repeats the time of its operations.
                    if "hlo_op" not in stats or "XLA Modules" in line.name:
                        continue
                    name = str(stats["hlo_op"])
                    seconds[name] += event.duration_ns / 1e9
                    calls[name] += 1
                    origins[name] = str(stats.get("tf_op") or stats.get("name") or "")
    total = sum(seconds.values()) or 1.0
    return [
        {
            "operation": name,
            "ms a step": 1e3 * value / STEPS,
            "share": value / total,
            "calls a step": calls[name] / STEPS,
            "from": origins[name][-60:],
        }
        for name, value in seconds.most_common(MOST)
    ]
