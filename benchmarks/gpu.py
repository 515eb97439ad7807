"""What does jaxtl do on one GPU: training speed, terms, grids, caches, bits, export?

Everything that only a GPU can show, in parts that each run in a process of their own
(so that peak memory is that of one part, and a part that fails costs no other):

  peaks      what the card reaches: a bfloat16 matrix product, a copy in its memory
  resnet, vit, bert, gpt2
             training steps in bfloat16 of ResNet-50, ViT-B/16, BERT-base and GPT-2,
             against torch eager and torch.compile on the same weights and batch
  jacobian   steps with JacobianDifference against a plain step
  grids      64 perceptrons and 16 small CNNs as one sweep, against a loop of runs
  cache      a head on a frozen ViT-B/16, with and without the cache of features
  resume     a run, the same run in a second process, and one that was interrupted:
             are the parameters the same bits?
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
import time

PARTS = (
    "peaks",
    "resnet",
    "vit",
    "bert",
    "gpt2",
    "jacobian",
    "grids",
    "cache",
    "resume",
    "export",
)
BUDGET = 480.0  # seconds; a part that would begin later is left out, and named
SHARE = ".45"  # of the GPU's memory that jax takes, so that torch finds some beside it


def run_part(name: str, arguments: argparse.Namespace) -> dict:
    """Runs a part in a process of its own.

    Args:
      name: one of PARTS.
      arguments: of the command line.

    Returns:
      {"rows": [{column: value}, …], "seconds": …}, or {"error": text, …}.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--part", name, "--json", str(out)]
        command += ["--quick"] if arguments.quick else []
        environment = {
            "XLA_PYTHON_CLIENT_MEM_FRACTION": SHARE,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **os.environ,
        }
        process = subprocess.run(
            command, capture_output=True, text=True, env=environment
        )
        seconds = round(time.perf_counter() - start, 1)
        if process.returncode or not out.exists():
            lines = (process.stderr or process.stdout).strip().splitlines()
            return {"error": "\n".join(lines[-25:]), "seconds": seconds}
        return {"rows": json.loads(out.read_text()), "seconds": seconds}


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
    for name in arguments.parts:
        if time.perf_counter() - start > arguments.budget:
            outcomes[name] = {"error": "left out: the time is over", "seconds": 0.0}
        else:
            outcomes[name] = run_part(name, arguments)
        _print(name, outcomes[name])
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
        print(timing.table(outcome["rows"]), flush=True)


if __name__ == "__main__":
    failed = ["error" in outcome for outcome in main().values()]
    sys.exit(any(failed))
