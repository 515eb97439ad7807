"""What the benchmarks share: alternated timing, the machine, tables, options."""

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

Row = dict[str, object]


def options(doc: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns what every benchmark is told: `quick` and the file for `json`."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write rows")
    return parser.parse_args(argv)


class Times(NamedTuple):
    """{name: seconds of each round}, by the clock and of processor time.

    A busy machine stretches the clock's and hardly the processor's; the latter counts
    all threads of this process and no waiting.
    """

    clock: dict[str, list[float]]
    cpu: dict[str, list[float]]


def alternate(works: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Times pieces of work in turn, A B A B …, so that a busy machine slows all alike.

    Args:
      works: name -> a function that returns when its work is done.
      rounds: times that each is measured, after one unmeasured call.
    """
    for work in works.values():
        work()
    times = Times({name: [] for name in works}, {name: [] for name in works})
    for turn in range(rounds):
        # Every other round runs backwards: no work always follows the same other one.
        for name in list(works)[:: -1 if turn % 2 else 1]:
            cpu, clock = time.process_time(), time.perf_counter()
            works[name]()
            times.clock[name].append(time.perf_counter() - clock)
            times.cpu[name].append(time.process_time() - cpu)
    return times


def ratio(times: Mapping[str, list[float]], name: str, against: str) -> float:
    """Returns the median over rounds of one work's time over another's."""
    return statistics.median(a / b for a, b in zip(times[name], times[against]))


def spread(times: Mapping[str, list[float]], name: str, against: str) -> str:
    """Returns the ratio's quartiles as text, "0.98–1.04"."""
    pairs = zip(times[name], times[against])
    low, _, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return f"{low:.2f}–{high:.2f}"


def machine() -> str:
    """Returns processor, cores, memory, system, versions and device as one line."""
    device = jax.devices()[0]
    return (
        f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, "
        f"{_memory()} GB, {platform.system()}, Python {platform.python_version()}, "
        f"jax {jax.__version__}, {device.platform} ({device.device_kind}), "
        f"load {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [
        li.partition(":")[2].strip() for li in lines if li.startswith("model name")
    ]
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
        held = {"title": title, "machine": machine(), "tables": tables}
        path.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")


def table(rows: list[Row]) -> str:
    """Returns rows of equal keys as a Markdown table, aligned."""
    cells = [list(rows[0]), *([_text(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [" | ".join(c.ljust(w) for c, w in zip(line, widths)) for line in cells]
    lines.insert(1, " | ".join("-" * w for w in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
