"""Shared parts of the benchmarks: alternated timing, the machine, tables, options."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from jaxtl.core import devices

Row = dict[str, object]


def options(doc: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the options of all benchmarks: `quick`, and the file of `json`."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write rows")
    return parser.parse_args(argv)


class Times(NamedTuple):
    """{name: seconds of each round}, wall time and processor time.

    A busy machine prolongs wall time and hardly processor time, which counts all
    threads of this process and no waiting.
    """

    clock: dict[str, list[float]]
    cpu: dict[str, list[float]]


def alternate(works: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Times functions in turn, A B A B …, so that a busy machine slows all equally.

    Args:
      works: name -> a function that returns when its work is done.
      rounds: number of measurements of each, after one call that is not measured.
    """
    for work in works.values():
        work()
    times = Times({name: [] for name in works}, {name: [] for name in works})
    for number in range(rounds):
        # Every second round is reversed, so that no work always follows the same one.
        for name in list(works)[:: -1 if number % 2 else 1]:
            cpu, clock = time.process_time(), time.perf_counter()
            works[name]()
            times.clock[name].append(time.perf_counter() - clock)
            times.cpu[name].append(time.process_time() - cpu)
    return times


def ratio(times: Mapping[str, list[float]], name: str, against: str) -> float:
    """Median over rounds of one work's time divided by another's."""
    return statistics.median(a / b for a, b in zip(times[name], times[against]))


def spread(times: Mapping[str, list[float]], name: str, against: str) -> str:
    """The quartiles of the ratio as text, "0.98–1.04"."""
    pairs = zip(times[name], times[against])
    low, _, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return f"{low:.2f}–{high:.2f}"


def machine() -> str:
    """Processor, usable cores, memory, system, versions and device in one line."""
    device = jax.devices()[0]
    return (
        f"{platform.machine()}, {_processor()}, {devices.core_count()} usable cores, "
        f"{_memory()} GB, {platform.system()}, Python {platform.python_version()}, "
        f"jax {jax.__version__}, {device.platform} ({device.device_kind}), "
        f"load {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def report(
    title: str, tables: Sequence[list[Row]], path: pathlib.Path | None = None
) -> None:
    """Prints the machine and Markdown tables; writes both as JSON if asked."""
    print(f"{title}\n{machine()}")
    for rows in tables:
        print(f"\n{table(rows)}")
    if path is not None:
        content = {"title": title, "machine": machine(), "tables": tables}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def table(rows: list[Row]) -> str:
    """Formats rows of equal keys as an aligned Markdown table."""
    cells = [list(rows[0]), *([_text(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [" | ".join(c.ljust(w) for c, w in zip(line, widths)) for line in cells]
    lines.insert(1, " | ".join("-" * w for w in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
