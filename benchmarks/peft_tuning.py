"""Time of a step of LoRA and of full fine-tuning, in jaxtl and in torch.

A BERT of MiniLM's size, the same weights and batch on both sides; LoRA of rank 8 on
queries and values, the head trained as well. The other side is torch with Hugging Face
PEFT (and plain torch for full fine-tuning), float32, AdamW, dropout off.

    python benchmarks/peft_tuning.py [--quick] [--json FILE]
"""

import copy
import sys

import jax
import models
import numpy as np
import peft as hf
import timing
import torch
import torch_models
from torch.nn import functional as F

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.pretrained import convert

RATE = 1e-3
TARGETS = r".*/attention/(query|value)"


def setup(pair: torch_models.Pair, y: np.ndarray, peft, frozen: bool) -> tl.Run:
    """Sets up jaxtl's run."""
    weights = convert.to_weights(pair.tensors, pair.layout)
    groups = {"head": 1.0, ".*": tl.FROZEN} if frozen else {".*": 1.0}
    return tl.setup(
        tl.Experiment(
            model=pair.ours,
            init=models.InMemory(weights),
            data=models.Batch(x=pair.x, y=y, task=pair.task),
            optim=tl.optim.AdamW(lr=RATE, groups=groups),
            peft=peft,
            batch=len(y),
            steps=10**6,
            monitor=None,
            cache="off",
        )
    )


def theirs(pair: torch_models.Pair, lora: bool):
    """(module, optimizer) of torch, with adapters of PEFT if `lora`."""
    module = copy.deepcopy(pair.theirs).train()
    if lora:
        config = hf.LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["query", "value"],
            modules_to_save=["classifier"],
        )
        module = hf.get_peft_model(module, config)
    train = [p for p in module.parameters() if p.requires_grad]
    return module, torch.optim.AdamW(train, RATE, fused=True)


def torch_step(pair: torch_models.Pair, module, adam, x, y):
    """A function that takes one step in torch."""

    def step():
        adam.zero_grad()
        F.cross_entropy(pair.logits(module, x), y).backward()
        adam.step()

    return step


def measure(pair: torch_models.Pair, rounds: int) -> list[timing.Row]:
    """Measures a row for each way of tuning."""
    size = len(jax.tree.leaves(pair.x)[0])
    y = np.random.default_rng(0).integers(0, torch_models.OUTPUTS, size)
    lora = tl.peft.LoRA(rank=8, alpha=16.0, select=TARGETS)
    runs = {
        "jaxtl, full": setup(pair, y, None, frozen=False),
        "jaxtl, LoRA": setup(pair, y, lora, frozen=True),
        "jaxtl, head alone": setup(pair, y, None, frozen=True),
    }
    x, labels = pair.in_torch(pair.x), torch.tensor(y)
    sides = {
        "torch, full": theirs(pair, lora=False),
        "torch + PEFT, LoRA": theirs(pair, lora=True),
    }
    works = {name: _ours(run) for name, run in runs.items()}
    for name, (module, adam) in sides.items():
        works[name] = torch_step(pair, module, adam, x, labels)
    clock = timing.alternate(works, rounds).clock
    rows = []
    for name in works:
        if name in runs:
            run = runs[name]
            trained = trees.size(run.state.trainable)
            optimizer_bytes = trees.nbytes(run.state.opt)
            total = trees.size(run.parts.model.base_params)
        else:
            trained, optimizer_bytes, total = _counted(pair, *sides[name])
        rows.append(
            {
                "tuning": name,
                "ms a step": 1e3 * sorted(clock[name])[rounds // 2],
                "× jaxtl, full": timing.ratio(clock, name, "jaxtl, full"),
                "trainable, %": 100 * trained / total,
                "optimizer, kB": optimizer_bytes / 1e3,
            }
        )
    return rows


def _ours(run: tl.Run):
    def step():
        run.dispatch(1)
        jax.block_until_ready(run.state)

    return step


def _counted(pair: torch_models.Pair, module, adam) -> tuple[int, int, int]:
    """(trained parameters, bytes of the optimizer's state, all parameters)."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    optimizer_bytes = sum(
        value.nbytes
        for state in adam.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    )
    return trained, optimizer_bytes, sum(p.numel() for p in pair.theirs.parameters())


def main(argv=None) -> list[list[timing.Row]]:
    args = timing.options(__doc__, argv)
    makers = torch_models.transformer(args.quick)
    pair = makers[0 if args.quick else 1]()
    rows = measure(pair, 3 if args.quick else 11)
    timing.report(f"peft_tuning: {pair.name}", [rows], args.json)
    return [rows]


if __name__ == "__main__":
    main(sys.argv[1:])
