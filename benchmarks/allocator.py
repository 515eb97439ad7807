"""What does it save to keep the memory that a step has freed?

Training steps of some networks in two processes that take turns: one keeps freed
memory, as jaxtl does on CPUs, the other has glibc's default settings.

    python benchmarks/allocator.py [--quick] [--json FILE]
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

ROUNDS = 9
# Leaves glibc's default in place: its value is eight arenas a core.
DEFAULTS = {"MALLOC_ARENA_MAX": str(8 * (os.cpu_count() or 1))}
NAMES = ("LeNet", "ResNet-20", "ViT 6 × 192", "BERT 6 × 384", "CNN 16–32")

COUNTS = {"LeNet": 10, "CNN 16–32": 50}  # steps of a round, of others 2


def _experiment(name: str):
    """The experiment of a network, on one batch of noise."""
    import models
    import numpy as np

    import jaxtl as tl

    batch = 32 if name.startswith(("ViT", "BERT", "CNN")) else 128
    rng = np.random.default_rng(0)
    if name.startswith("BERT"):
        network = tl.models.Bert(layers=6, width=384, heads=12, hidden=1536)
        x = {
            "input_ids": rng.integers(5, 30_522, (batch, 64)).astype(np.int32),
            "attention_mask": np.ones((batch, 64), np.int32),
        }
    elif name == "LeNet":
        network = tl.models.CNN(widths=(32, 48), units=100)
        x = rng.normal(size=(batch, 28, 28, 1)).astype(np.float32)
    elif name.startswith("CNN"):
        network = tl.models.CNN(widths=(16, 32))
        x = rng.normal(size=(batch, 28, 28, 1)).astype(np.float32)
    else:
        x = rng.normal(size=(batch, 32, 32, 3)).astype(np.float32)
        network = tl.models.ResNet(depth=20)
        if name.startswith("ViT"):
            network = tl.models.ViT(
                size=32, patch=4, layers=6, width=192, heads=3, hidden=768
            )
    return tl.Experiment(
        model=network,
        data=models.Batch(x=x, y=np.arange(batch) % 10, task="classification"),
        optim=tl.optim.AdamW(lr=1e-4),
        batch=batch,
        steps=10**6,
        monitor=None,
    )


def _serve(name: str, count: int) -> None:
    """Takes `count` steps for each line that it reads; prints what a step cost."""
    from jaxtl.core import allocator

    allocator.keep_freed_memory()  # as the command line does, before numpy has threads
    import jax

    import jaxtl as tl

    run = tl.setup(_experiment(name))

    def advance() -> None:
        run.dispatch(count)
        jax.block_until_ready(run.state)

    advance()
    print(run.compile().temp_bytes, flush=True)
    for _ in sys.stdin:
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        cpu, clock = time.process_time(), time.perf_counter()
        advance()
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages
        print(clock / count, cpu / count, pages / count, flush=True)


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """The row of a network: `count` steps a round."""
    import timing

    ways = {"default": DEFAULTS, "kept": {}}
    command = [sys.executable, __file__, "--serve", name, str(count)]
    processes = {
        way: subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        for way, variables in ways.items()
    }
    temporary = {w: int(p.stdout.readline()) for w, p in processes.items()}
    figures: dict[str, list[list[float]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in list(ways)[:: -1 if number % 2 else 1]:
            processes[way].stdin.write("\n")
            processes[way].stdin.flush()
            line = processes[way].stdout.readline()
            figures[way].append(list(map(float, line.split())))
    for process in processes.values():
        process.communicate()
    clock, cpu, pages = (
        {way: [values[i] for values in rows] for way, rows in figures.items()}
        for i in range(3)
    )
    return {
        "network": name,
        "temporary, MB": round(temporary["kept"] / 1e6),
        "page faults a step": round(statistics.median(pages["default"])),
        "kept: page faults": round(statistics.median(pages["kept"])),
        "ms a step": 1e3 * statistics.median(clock["default"]),
        "kept: ms": 1e3 * statistics.median(clock["kept"]),
        "ratio": timing.ratio(clock, "kept", "default"),
        "quartiles": timing.spread(clock, "kept", "default"),
        "of CPU time": timing.ratio(cpu, "kept", "default"),
    }


def main(argv=None):
    """Prints the table; returns its rows in a list."""
    import timing

    options = timing.options(__doc__, argv)
    names, rounds = (NAMES[:1], 2) if options.quick else (NAMES, ROUNDS)
    rows = [measure(n, COUNTS.get(n, 2), rounds) for n in names]
    timing.report("steps that keep freed memory", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        _serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
