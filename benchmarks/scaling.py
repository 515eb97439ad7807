"""Memory and communication of a training step on many devices, without any of them.

The step that jaxtl takes is compiled for virtual devices from shapes alone; no weight
is allocated and nothing runs. Sizes are XLA's own analysis of the program of one
device, and what it communicates is read from the compiled program. All layers are
compiled: a line through 2 and 4 layers misses temporary memory by up to 14 %.

    python benchmarks/scaling.py [--devices 8 64 512] [--json FILE]
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing

import jaxtl as tl
from jaxtl.core import compilation, sharding
from jaxtl.core.types import Source
from jaxtl.data import preprocess
from jaxtl.terms import losses
from jaxtl.terms.program import Program
from jaxtl.training import compiled_step, phase_program, step

GB = 1e9
ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1}
# A line of a compiled program: the results of an operation, its name, the rest.
_COLLECTIVE = re.compile(
    r"= (?P<results>.*?) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\((?P<rest>.*)"
)
# The size of a group of devices: [groups,size]<=[…] or {{0,1,…},…}.
_GROUP = re.compile(
    r"replica_groups=(?:\[\d+,(?P<size>\d+)\]|\{\{(?P<members>[\d,]+)\})"
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A model, what a device reads of it per step, and how it is spread.

    Attributes:
      name: in the table.
      model: `(layers) -> model`.
      layers: of the whole model.
      inputs: `(examples) -> (x, y)`, shapes of a batch.
      task: of the model.
      per_group: examples per step of a device, or of the `tensor` devices that share.
      is_sharded: whether parameters are split over all devices.
      tensor: over how many of them each layer is split; they share their examples.
    """

    name: str
    model: Callable[[int], Any]
    layers: int
    inputs: Callable[[int], Any]
    task: str
    per_group: int
    is_sharded: bool
    tensor: int = 1


def layouts() -> list[Layout]:
    """The rows of the table."""

    def vit(layers: int) -> Any:
        return tl.models.ViT(
            outputs=1000, width=1024, layers=layers, heads=16, hidden=4096
        )

    def llama(layers: int) -> Any:
        return tl.models.Llama(layers=layers, hidden=11_008, predict="next", remat=True)

    def images(count: int) -> tuple[Any, Any]:
        x = jax.ShapeDtypeStruct((count, 224, 224, 3), np.uint8)
        return x, jax.ShapeDtypeStruct((count,), np.int32)

    def texts(count: int) -> tuple[Any, Any]:
        tokens = jax.ShapeDtypeStruct((count, 2048), np.int32)
        x = {"input_ids": tokens, "attention_mask": tokens}
        return x, jax.ShapeDtypeStruct((count,), np.int32)

    rows = []
    for is_sharded in (False, True):
        kind = "FSDP" if is_sharded else "copies"
        rows += [
            Layout(
                f"ViT-L/16, {kind}", vit, 24, images, "classification", 32, is_sharded
            ),
            Layout(f"Llama-7B, {kind}", llama, 32, texts, "language", 1, is_sharded),
        ]
    name = "Llama-7B, FSDP × 8 tensor"
    return [*rows, Layout(name, llama, 32, texts, "language", 8, True, tensor=8)]


def step_sizes(layout: Layout, devices: int) -> dict[str, float]:
    """Bytes of one device's part of a step, by what they are.

    Args:
      layout: the model and how it is spread.
      devices: number of devices.
    """
    groups = devices // layout.tensor
    mesh = sharding.mesh(devices, groups if layout.is_sharded else 1, layout.tensor)
    examples = layout.per_group * groups
    program, state, fixed = _abstract(layout, examples, mesh)
    x, y = layout.inputs(examples)
    batch = {"x": x, "y": y, "row": y}
    data = {
        "target": jax.tree.map(lambda x: _with_sharding(x, sharding.batch(mesh)), batch)
    }
    compiled = _compile(program, state, fixed, data)
    memory = compiled.memory_analysis()
    counted = communicated(compiled.as_text())
    parameters = jax.tree.leaves(state.trainable)
    return {
        "parameters": sum(x.size for x in parameters),
        "state": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        **counted,
    }


def _abstract(layout: Layout, examples: int, mesh: Any) -> tuple[Any, ...]:
    """(program, state, fixed) of a model as shapes with their shardings."""
    network = layout.model(layout.layers).pure()
    pre = preprocess.Preprocess(scale=1 / 255 if layout.task == "classification" else 1)
    example = jax.eval_shape(
        functools.partial(preprocess.apply, pre), layout.inputs(1)[0]
    )
    params, stats = jax.eval_shape(network.init, jax.random.key(0), example)
    everything = jax.tree.map(lambda _: True, params)
    terms = {"task": losses.for_task(layout.task)}
    optimizer = tl.optim.AdamW(lr=1e-3, groups={".*": 1.0})
    program = Program(
        network=network,
        base_mask=everything,
        trainable_mask=everything,
        train_stages=network.stages,
        task=layout.task,
        outputs=1000,
        batch_sizes={"target": examples},
        preprocess={"target": pre},
        terms=terms,
        optimizer=optimizer,
        labels={"model": jax.tree.map(lambda _: ".*", params), "peft": {}, "terms": {}},
        host_streams=("target",),
        mesh=mesh,
    )
    hypers = {
        "terms": phase_program.traced(terms),
        "peft": phase_program.traced(None),
        "average": phase_program.traced(None),
        "optim": phase_program.traced(optimizer),
        "first": jnp.int32(0),
        "span": jnp.int32(1000),
        "steps": jnp.int32(1000),
        "seed": jnp.uint32(0),
        "term_starts": {},
    }
    one = dataclasses.replace(program, mesh=sharding.mesh())
    state = jax.eval_shape(
        functools.partial(step.initial_state, one), params, stats, {}, {}, {}, hypers
    )
    shardings = sharding.leaf_shardings(state, mesh, program.tensor_rules)
    state = jax.tree.map(_with_sharding, state, shardings)
    frozen = jax.tree.map(lambda _: None, params)
    return program, state, step.Fixed(frozen, Source())


def _with_sharding(x: Any, placement: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)


def _compile(program: Any, state: Any, fixed: Any, data: Any) -> Any:
    """The compiled step, its state donated as in training."""
    _, single = compiled_step.measured(program, state, fixed, data)
    lowered = jax.jit(single, donate_argnums=0).lower(state, fixed, data)
    # Machine code is never run; sizes are decided before it is made.
    return lowered.compile(
        {**compilation.options("cpu"), "xla_backend_optimization_level": 0}
    )


def communicated(text: str) -> dict[str, float]:
    """Bytes that the collective operations of a compiled program combine or move.

    A ring of n devices sends (n − 1)/n of a result to gather it and twice that to
    reduce it.

    Args:
      text: the program of one device, as XLA prints it.

    Returns:
      {"reduced": bytes of the results of all-reduce and reduce-scatter, "gathered":
      of all-gather and the others, "sent": by a device}.
    """
    totals = {"reduced": 0.0, "gathered": 0.0, "sent": 0.0}
    for match in _COLLECTIVE.finditer(text):
        size = sum(
            ITEM_BYTES.get(kind, 4) * _product(shape)
            for kind, shape in _SHAPE.findall(match["results"])
        )
        is_reduced = match["name"] in ("all-reduce", "reduce-scatter")
        totals["reduced" if is_reduced else "gathered"] += size
        n = _group_size(match["rest"])
        totals["sent"] += (2 if is_reduced else 1) * size * (n - 1) / n
    return totals


def _group_size(rest: str) -> int:
    """The number of devices that take part in an operation together."""
    match = _GROUP.search(rest)
    if match is None:
        return jax.device_count()
    return int(match["size"] or len(match["members"].split(",")))


def _product(shape: str) -> int:
    product = 1
    for size in filter(None, shape.split(",")):
        product *= int(size)
    return product


def rows(devices: int) -> list[dict[str, Any]]:
    """The rows of the table for a number of devices, which this process must have."""
    table = []
    for layout in layouts():
        sizes = step_sizes(layout, devices)
        table.append(_row(layout.name, devices, sizes))
        print(table[-1], file=sys.stderr, flush=True)
    return table


def _row(name: str, devices: int, sizes: dict[str, float]) -> dict[str, Any]:
    names = {
        "state": "state, GB",
        "temporary": "temporary, GB",
        "reduced": "reduced, GB",
        "gathered": "gathered, GB",
        "sent": "sent by a device, GB",
    }
    return {
        "model": name,
        "devices": devices,
        "parameters, M": round(sizes["parameters"] / 1e6),
        **{title: sizes[size] / GB for size, title in names.items()},
    }


def _elsewhere(devices: int) -> list[dict[str, Any]]:
    """Rows of a process with so many virtual devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environ = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "--here", str(devices)]
    output = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> list[list[dict[str, Any]]]:
    """Prints the tables, and writes them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write rows")
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(rows(args.here)))
        return []
    tables = [[row for devices in args.devices for row in _elsewhere(devices)]]
    timing.report("Memory and communication of a step", tables, args.json)
    return tables


if __name__ == "__main__":
    main()
