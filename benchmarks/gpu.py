"""What does jaxtl do on one GPU: training speed, terms, grids, caches, bits, export?

Everything that only a GPU can show, in parts that each run in a process of their own
(so that peak memory is that of one part, and a part that fails costs no other). What
has not ended after `--budget` seconds, 480 if nothing is said, is named:

  peaks      what the card reaches: a bfloat16 matrix product, a copy in its memory
  resnet, vit, bert, gpt2
             training steps in bfloat16 of ResNet-50, ViT-B/16, BERT-base and GPT-2,
             against torch eager and torch.compile on the same weights and batch, and
             the operations that take most of jaxtl's step
  attention  one layer's attention by XLA, cuDNN and Pallas
  jacobian   steps with JacobianDifference against a plain step
  grids      64 perceptrons and 16 small CNNs as one sweep, against a loop of runs
  cache      a head on a frozen ViT-B/16, with and without the cache of features
  bits       a run, the same run in a second process, and one that was interrupted:
             are the parameters the same bits, and what does that cost?
  export     an exported model on the GPU against the same program on the CPU

    python benchmarks/gpu.py [--quick] [--json FILE] [--parts resnet vit …]

It needs torch and transformers and no network. Without a GPU only `--quick` makes
sense: it runs every part with tiny sizes.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

# The networks of a group are prepared side by side, which saves minutes of compiling.
NETWORKS = (("gpt2", "bert"), ("vit", "resnet"))
# These wait for their turn once they have imported their libraries.
OTHERS = ("bits", "grids", "attention", "jacobian", "cache", "export")
GROUPS = (("peaks",), *NETWORKS, OTHERS)
PARTS = tuple(name for group in GROUPS for name in group)
BUDGET = 480.0  # seconds; what has not ended then is stopped or left out, and named


class _Part:
    """A part in a process of its own.

    Attributes:
      seconds: from its start to its end, of a part that only waited from its turn.
      rows: its table, None if it failed.
      error: the end of what it printed if it failed, "" otherwise.
    """

    def __init__(self, name: str, quick: bool, folder: str, beside: int = 1):
        """Starts it.

        Args:
          name: of the part.
          quick: whether sizes are tiny.
          folder: for its table and for what it prints.
          beside: number of parts that compile at the same time.
        """
        cores = len(os.sched_getaffinity(0))
        self.name = name
        self.out = pathlib.Path(folder) / f"{name}.json"
        self.log = (pathlib.Path(folder) / f"{name}.log").open("w+")
        self.start = time.perf_counter()
        command = [sys.executable, __file__, "--part", name, "--json", str(self.out)]
        self.process = subprocess.Popen(
            command + ["--quick"] * quick,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "TF_CPP_MIN_LOG_LEVEL": "2",
                # torch.compile starts that many processes, each of which imports torch.
                "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, cores // max(1, beside))),
                **os.environ,
            },
        )

    def wait_until_ready(self) -> None:
        """Waits until it has compiled all that it will time, or failed."""
        for line in self.process.stdout:
            if line.startswith("READY"):
                return

    def finish(self, deadline: float) -> dict:
        """Lets it take its times; {"rows" or "error": …, "seconds": …}.

        Args:
          deadline: of `time.perf_counter`, at which it is killed from outside.
        """
        if self.name in OTHERS:
            self.start = time.perf_counter()
        try:
            self.process.communicate("go\n")
        except BrokenPipeError:
            self.process.wait()
        seconds = round(time.perf_counter() - self.start, 1)
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        if self.process.returncode and time.perf_counter() >= deadline:
            return {"error": "stopped: the time is over", "seconds": seconds}
        if self.process.returncode or not self.out.exists():
            return {"error": "\n".join(lines[-25:]), "seconds": seconds}
        return {"rows": json.loads(self.out.read_text()), "seconds": seconds}


def outcomes_of_parts(
    names: Sequence[str], quick: bool, deadline: float
) -> Iterator[tuple[str, dict]]:
    """Yields each part and its {"rows" or "error": …, "seconds": …} once it is known.

    Networks of a group are prepared side by side and take their times one by one. The
    other parts import their libraries meanwhile.

    Args:
      names: of the parts.
      quick: whether sizes are tiny.
      deadline: of `time.perf_counter`, at which parts that have not ended are killed
        and after which none begins.
    """
    parts: dict[str, _Part] = {}

    def stop() -> None:
        for part in list(parts.values()):
            part.process.kill()

    timer = threading.Timer(max(0.0, deadline - time.perf_counter()), stop)
    timer.daemon = True
    timer.start()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for group in GROUPS:
                group = [name for name in group if name in names]
                if time.perf_counter() < deadline:
                    # The others begin with the first network, after the card's peaks.
                    early = OTHERS if group != ["peaks"] else ()
                    for name in (*group, *(n for n in early if n in names)):
                        if name not in parts:
                            parts[name] = _Part(name, quick, folder, len(group))
                    for name in group:
                        parts[name].wait_until_ready()
                for name in group:
                    if time.perf_counter() < deadline:
                        yield name, parts[name].finish(deadline)
                    else:
                        error = "left out: the time is over"
                        yield name, {"error": error, "seconds": 0.0}
        finally:
            timer.cancel()
            stop()


def main(argv=None) -> dict[str, dict]:
    """Runs the parts, prints a table of each, and returns {part: its outcome}."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write rows")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        import gpu_parts

        rows = gpu_parts.PARTS[arguments.part](arguments.quick)
        arguments.json.write_text(json.dumps(rows, ensure_ascii=False))
        return {}
    start, outcomes = time.perf_counter(), {}
    deadline = start + arguments.budget
    for name, outcome in outcomes_of_parts(arguments.parts, arguments.quick, deadline):
        outcomes[name] = outcome
        _print(name, outcome)
        if arguments.json:
            arguments.json.write_text(json.dumps(outcomes, indent=1))
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return outcomes


def _print(name: str, outcome: dict) -> None:
    import timing

    print(f"\n## {name} ({outcome['seconds']} s)\n", flush=True)
    if "error" in outcome:
        print(outcome["error"], flush=True)
    else:
        rows = outcome["rows"]
        for title, table in (rows if isinstance(rows, dict) else {"": rows}).items():
            print(f"### {title}\n\n" * bool(title) + timing.table(table), flush=True)


if __name__ == "__main__":
    failed = ["error" in outcome for outcome in main().values()]
    sys.exit(any(failed))
