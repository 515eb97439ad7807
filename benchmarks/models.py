"""How fast are the networks next to torch's, and what does reading weights cost?

Every network is made in torch, its weights are read into ours, and the logits of both
are compared first. Then the forward pass in evaluation mode (compiled, against torch in
inference mode) and a training step (what `tl.train` dispatches, against forward,
backward and torch's fused AdamW) take turns on the same batch, on this CPU, with as
many threads as there are cores for both. Reading is that of a file of 400 MB, in a
fresh process each time, against transformers.
"""

import dataclasses
import gc
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import jax
import numpy as np
import timing
import torch
import torch_models
from in_memory import InMemory
from torch.nn import functional as F

import jaxtl as tl
from jaxtl.core import compilation, devices
from jaxtl.data.dataset import Data, Table
from jaxtl.pretrained import convert

LR = 1e-3
TARGETS = {"ResNet-20": 0.8, "LeNet": 1.0}  # torch's time over ours, of a step
LOADING_TARGET = 1.3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Data):
    """One batch as a data set, so that every step trains on all of it."""

    x: Any
    y: np.ndarray
    task: str
    val: float = 0
    test: float = 0

    def read(self) -> Table:
        return Table(x=self.x, y=self.y, task=self.task)


def setup(pair: torch_models.Pair, y: np.ndarray) -> tl.Run:
    """Sets up jaxtl's run with the weights of torch's network."""
    language = pair.task == "language"
    return tl.setup(
        tl.Experiment(
            model=pair.ours,
            init=InMemory(convert.to_weights(pair.tensors, pair.layout)),
            data=Batch(x=pair.x, y=y, task=pair.task),
            terms={
                "task": tl.losses.NextToken() if language else tl.losses.CrossEntropy()
            },
            optim=tl.optim.AdamW(lr=LR, weight_decay=0.01),
            batch=len(y),
            steps=10**6,
            monitor=None,
        )
    )


def torch_step(pair: torch_models.Pair, x, y):
    """A function that takes one training step in torch."""
    module = pair.theirs.train()
    adam = torch.optim.AdamW(module.parameters(), LR, weight_decay=0.01, fused=True)

    def loss():
        logits = pair.logits(module, x)
        if pair.task == "classification":
            return F.cross_entropy(logits, y)
        # The next token of every token that has one, without padding.
        is_token = x["attention_mask"][:, 1:] > 0
        return F.cross_entropy(
            logits[:, :-1][is_token], x["input_ids"][:, 1:][is_token]
        )

    def step():
        adam.zero_grad()
        loss().backward()
        adam.step()

    return step


def forwards(pair: torch_models.Pair, run: tl.Run, x):
    """({name: forward pass}, max |difference of logits| / max |logit|)."""
    network, params, stats = run.network, run.params, run.state.stats
    apply = jax.jit(
        lambda p, s, x: network.apply(p, s, x).logits,
        compiler_options=compilation.default_options(),
    )
    ours = jax.device_put(pair.x)
    module = pair.theirs.eval()

    def theirs():
        with torch.inference_mode():
            return pair.logits(module, x)

    expected, actual = theirs().numpy(), np.asarray(apply(params, stats, ours))
    if isinstance(pair.x, dict) and pair.task == "language":
        # The outputs of padding are undefined.
        is_token = pair.x["attention_mask"].astype(bool)
        expected, actual = expected[is_token], actual[is_token]
    scale = np.abs(expected).max()
    if np.ptp(expected, axis=0).max() < 0.01 * scale:
        raise RuntimeError(f"{pair.name}: every example has the same logits.")
    works = {
        "jaxtl": lambda: apply(params, stats, ours).block_until_ready(),
        "torch": theirs,
    }
    return works, float(np.abs(actual - expected).max() / scale)


def measure(pair: torch_models.Pair, rounds: int) -> timing.Row:
    """Measures one network's row of the table."""
    size = len(jax.tree.leaves(pair.x)[0])
    y = np.arange(size) % torch_models.OUTPUTS
    y = y if pair.task == "classification" else np.zeros(size, np.int32)
    run, x = setup(pair, y), pair.in_torch(pair.x)
    works, difference = forwards(pair, run, x)
    forward = timing.alternate(works, rounds)

    def step():
        run.dispatch(1)
        jax.block_until_ready(run.state)

    works = {"jaxtl": step, "torch": torch_step(pair, x, torch.tensor(y))}
    steps = timing.alternate(works, rounds)

    def ms(times, name):
        return 1e3 * statistics.median(times.clock[name])

    return {
        "network": pair.name,
        "logits apart": difference,
        "forward, ms": ms(forward, "jaxtl"),
        "torch's": ms(forward, "torch"),
        "forward, ×": timing.ratio(forward.clock, "torch", "jaxtl"),
        "step, ms": ms(steps, "jaxtl"),
        "torch's ": ms(steps, "torch"),
        "step, ×": timing.ratio(steps.clock, "torch", "jaxtl"),
        "quartiles": timing.spread(steps.clock, "torch", "jaxtl"),
        "target": f"≥ {target}" if (target := TARGETS.get(family(pair))) else "",
    }


def family(pair: torch_models.Pair) -> str:
    """A pair's name without the sizes."""
    return pair.name.split(",")[0].split(" ")[0]


PEAK = """
import json, re, sys, time
def peak():  # in MB; that of getrusage starts from the parent's
    match = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
    return int(match[1]) * 1.024 / 1e3
def report(start, before):
    print(json.dumps([time.perf_counter() - start, peak() - before]))
"""
READERS = {
    "jaxtl": """
import jax, jax.numpy as jnp, jaxtl as tl
from jaxtl.pretrained import match
weights = tl.pretrained.FromHub(sys.argv[1])
model = weights.model(outputs=2)
x = {k: jnp.ones((1, 8), jnp.int32) for k in ("input_ids", "attention_mask")}
shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
jnp.zeros(1).block_until_ready()
before, start = peak(), time.perf_counter()
jax.block_until_ready(match.match(*shapes, weights.read_for(model))[0])
report(start, before)
""",
    "transformers": """
import torch, transformers
from transformers import BertForSequenceClassification as Bert
transformers.logging.disable_progress_bar()
before, start = peak(), time.perf_counter()
model = Bert.from_pretrained(sys.argv[1])
sum(float(p.detach().sum()) for p in model.parameters())  # reads the mapped file
report(start, before)
""",
}


def bert_directory(folder: pathlib.Path, quick: bool) -> float:
    """Writes BERT-base with random weights by transformers; returns the file's MB."""
    from transformers import BertConfig, BertForSequenceClassification

    small = {"num_hidden_layers": 1, "vocab_size": 512} if quick else {}
    config = BertConfig(num_labels=2, **small)
    BertForSequenceClassification(config).save_pretrained(folder)
    return (folder / "model.safetensors").stat().st_size / 1e6


def loading(quick: bool, rounds: int) -> list[timing.Row]:
    """The table of reading weights: seconds, and peak memory above the start."""
    measured: dict[str, list] = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        size = bert_directory(pathlib.Path(folder), quick)
        gc.collect()
        for _ in range(rounds):
            for name, code in READERS.items():
                command = [sys.executable, "-c", PEAK + code, folder]
                process = subprocess.run(command, capture_output=True, text=True)
                if process.returncode:
                    raise RuntimeError(process.stderr)
                measured[name].append(json.loads(process.stdout.splitlines()[-1]))
    rows = []
    for name, pairs in measured.items():
        seconds, peak = (statistics.median(values) for values in zip(*pairs))
        rows.append(
            {
                "reader": name,
                "file, MB": size,
                "seconds": seconds,
                "peak, MB": peak,
                "of the file": peak / size,
                "target": f"≤ {LOADING_TARGET}" if name == "jaxtl" else "",
            }
        )
    return rows


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    torch.set_num_threads(devices.core_count())
    rows = []
    for make in torch_models.pairs(options.quick):
        rows.append(measure(make(), 3 if options.quick else 15))
        gc.collect()
    read = loading(options.quick, 1 if options.quick else 5)
    title = f"jaxtl's networks against torch {torch.__version__}"
    timing.report(title, [rows, read], options.json)
    return [rows, read]


if __name__ == "__main__":
    main()
