"""Memory of a LoRA step on a Llama whose base is float32, bfloat16, int8 or nf4.

LoRA of rank 8 on every projection of a random network, AdamW. Arguments are what the
compiled step reads (base, δ, optimizer state, batch), temporaries what it needs besides
at its peak, both by XLA's analysis of the compiled program.

    python benchmarks/quantized_bases.py [--quick] [--json FILE]
"""

import sys
from typing import Any

import jax
import models
import numpy as np
import timing

import jaxtl as tl
from jaxtl.core import tree as trees

# Name of a row -> settings of the model, settings of LoRA.
BASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {}),
    "float32, remat": ({"remat": True}, {}),
    "bfloat16": ({"param_dtype": "bfloat16"}, {}),
    "bfloat16, remat": ({"param_dtype": "bfloat16", "remat": True}, {}),
    "int8": ({}, {"base": "int8"}),
    "nf4": ({}, {"base": "nf4"}),
    "nf4, double": ({}, {"base": "nf4", "double_quantization": True}),
}


def setup(name: str, *, quick: bool) -> tl.Run:
    """Sets the run of one row up."""
    of_model, of_peft = BASES[name]
    width, layers = (64, 2) if quick else (512, 8)
    length, batch = (16, 2) if quick else (128, 4)
    model = tl.models.Llama(
        vocab=1000,
        width=width,
        layers=layers,
        heads=8,
        kv_heads=4,
        hidden=width * 5 // 2,
        context=length,
        predict="class",
        **of_model,
    )
    rng = np.random.default_rng(0)
    x = {
        "input_ids": rng.integers(0, 1000, (batch, length)).astype(np.int32),
        "attention_mask": np.ones((batch, length), np.int32),
    }
    return tl.setup(
        tl.Experiment(
            model=model,
            data=models.Batch(x=x, y=np.arange(batch) % 2, task="classification"),
            peft=tl.peft.LoRA(select=r"layer_\d+/(attention|mlp)", **of_peft),
            batch=batch,
            steps=10**6,
            monitor=None,
            cache="off",
        )
    )


def measure(*, quick: bool) -> list[timing.Row]:
    """Measures a row for each base."""
    runs = {name: setup(name, quick=quick) for name in BASES}
    memory = {
        name: run.compile().at(0).call.memory_analysis() for name, run in runs.items()
    }
    rounds = 2 if quick else 5
    clock = timing.alternate({n: _work(r) for n, r in runs.items()}, rounds).clock
    total = {
        name: m.argument_size_in_bytes + m.temp_size_in_bytes
        for name, m in memory.items()
    }
    return [
        {
            "base": name,
            "base, MB": trees.nbytes(run.fixed.frozen) / 1e6,
            "arguments, MB": memory[name].argument_size_in_bytes / 1e6,
            "temporary, MB": memory[name].temp_size_in_bytes / 1e6,
            "both, × float32": total[name] / total["float32"],
            "ms a step": 1e3 * sorted(clock[name])[rounds // 2],
            "× float32": timing.ratio(clock, name, "float32"),
        }
        for name, run in runs.items()
    ]


def _work(run: tl.Run):
    def step():
        run.dispatch(1)
        jax.block_until_ready(run.state)

    return step


def main(argv=None) -> list[list[timing.Row]]:
    args = timing.options(__doc__, argv)
    rows = measure(quick=args.quick)
    timing.report("quantized_bases", [rows], args.json)
    return [rows]


if __name__ == "__main__":
    main(sys.argv[1:])
