"""What a step of each method costs, in operations and memory of the compiled program.

XLA counts the floating-point operations of the compiled training step and the bytes of
its temporary arrays; both are divided by those of the plain step of the same network on
the same batch of 32 (each stream has as many). Nothing is timed, so that the figures
are the same on a busy machine. Methods have their default settings unless
`method_cost_groups.py` says otherwise; outputs of teachers and of frozen stages are
cached, as is the default. XLA counts the body of a loop once: `loops` says
that a step has one which the plain step lacks, so that its operations are at least
those; of a condition, such as that of work which is due every k steps, it counts the
branch of more operations.

    python benchmarks/method_costs.py [FAMILY …] [--json docs/builder/method_costs.json]
"""

import argparse
import json
import pathlib
import sys
import tempfile
from typing import Any

import jax
import method_cost_groups
import timing

import jaxtl as tl


def cost(exp: tl.Experiment) -> dict[str, Any]:
    """Operations, temporary bytes and loops of an experiment's compiled step."""
    steps = tl.setup(exp).compile()
    loops = max(d.call.as_text().count(" while(") for d in steps.dispatches.values())
    return {"flops": steps.flops, "bytes": steps.temp_bytes, "loops": loops}


def family_rows(name: str, only: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The rows of a family's methods.

    Args:
      name: of the family, a namespace of `jaxtl`.
      only: names of the methods; () for all.

    Returns:
      "family.Method" -> the network, the plain step, and the factors of both counts.
    """
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        groups = method_cost_groups.FAMILIES[name](pathlib.Path(folder))
        for group in groups:
            methods = {m: e for m, e in group.methods.items() if not only or m in only}
            plain = cost(group.experiment) if methods else {}
            for method, exp in methods.items():
                step = cost(exp)
                rows[f"{name}.{method}"] = {
                    "network": group.network,
                    "plain": group.plain,
                    "flops": _rounded(step["flops"] / plain["flops"]),
                    "temporary": _rounded(step["bytes"] / plain["bytes"]),
                    "loops": step["loops"] > plain["loops"],
                }
    return rows


def _rounded(value: float) -> float:
    """The number with three significant digits."""
    return float(f"{value:.3g}")


def write(path: pathlib.Path, rows: dict[str, dict[str, Any]]) -> None:
    """Writes rows into a JSON file; rows of other methods there stay."""
    stored = json.loads(path.read_text())["methods"] if path.exists() else {}
    content = {
        "counted": f"XLA for {jax.default_backend()}, jax {jax.__version__}",
        "batch": method_cost_groups.BATCH,
        "methods": dict(sorted({**stored, **rows}.items())),
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main(argv: list[str] | None = None) -> dict[str, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    families = sorted(method_cost_groups.FAMILIES)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="default: all")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write rows")
    args = parser.parse_args(argv)
    for name in args.families:
        if name not in families:
            parser.error(f"FAMILY {name!r}: expected one of {', '.join(families)}")
    # Nothing runs: LLVM's optimizations, which change neither count, would take time.
    jax.config.update("jax_disable_most_optimizations", True)
    rows: dict[str, dict[str, Any]] = {}
    for name in args.families or families:
        rows |= family_rows(name)
        if args.json:
            write(args.json, rows)
    print(timing.table([{"method": method, **row} for method, row in rows.items()]))
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
