"""Training steps of whole networks, in jaxtl and in torch: parts of `gpu.py`."""

import concurrent.futures
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import gpu_profile
import jax
import jax.numpy as jnp
import models
import numpy as np
import timing
import torch
import torch_models
import transformers
from gpu_profile import advance
from torch.nn import functional as F
from torch.utils import flop_counter

import jaxtl as tl
from jaxtl.models import bert, gpt2, precision, resnet, vit
from jaxtl.pretrained import convert

SIDE = 224  # of an image
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 9
RATE = 1e-4


def wait_for_turn() -> None:
    """Waits until `gpu.py` lets this process, and no other, take times."""
    if not sys.stdin.isatty():
        print("READY", flush=True)
        sys.stdin.readline()


def rounds(quick: bool) -> int:
    """Number of measurements of each way."""
    return 2 if quick else ROUNDS


def _wait_for_torch() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _peak_memory() -> float:
    """Peak memory of jax on the device so far, in GB; NaN where it is not counted."""
    counts = jax.devices()[0].memory_stats() or {}
    return counts.get("peak_bytes_in_use", float("nan")) / 1e9


def product_rate(size: int) -> float:
    """TFLOP/s of a bfloat16 product of two (size, size) matrices, median of 20."""
    a, b = (
        jax.random.normal(jax.random.key(k), (size, size), jnp.bfloat16) for k in (0, 1)
    )
    product = jax.jit(jnp.matmul)
    seconds = timing.alternate(
        {"product": lambda: product(a, b).block_until_ready()}, 20
    )
    return 2 * size**3 / statistics.median(seconds.clock["product"]) / 1e12


def _image_pair(
    name: str, kind: str, family: Any, config: Any, shape: tuple[int, int]
) -> torch_models.Pair:
    batch, side = shape
    x = torch_models.images(batch, side)
    outputs = config.num_labels
    return torch_models.hugging_face(
        f"{name}, {side}²", kind, family, config, x, outputs=outputs
    )


def resnet_pair(quick: bool) -> torch_models.Pair:
    """ResNet-50 in jaxtl and in transformers."""
    depths = (1, 1, 1, 1) if quick else (3, 4, 6, 3)
    config = transformers.ResNetConfig(num_labels=1000, depths=depths)
    kind, shape = "ResNetForImageClassification", (2, 64) if quick else (256, SIDE)
    return _image_pair("ResNet-50", kind, resnet, config, shape)


def vit_pair(quick: bool) -> torch_models.Pair:
    """ViT-B/16 in jaxtl and in transformers."""
    config = transformers.ViTConfig(
        num_labels=1000,
        image_size=32 if quick else SIDE,
        num_hidden_layers=1 if quick else 12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    kind, shape = "ViTForImageClassification", (2, 32) if quick else (128, SIDE)
    return _image_pair("ViT-B/16", kind, vit, config, shape)


def _text_pair(
    name: str, kind: str, family: Any, config: Any, shape: tuple[int, int], **fields
) -> torch_models.Pair:
    x = torch_models.text(*shape, config.vocab_size)
    label = f"{name}, length {shape[1]}"
    return torch_models.hugging_face(label, kind, family, config, x, **fields)


def bert_pair(quick: bool) -> torch_models.Pair:
    """BERT-base in jaxtl and in transformers."""
    config = transformers.BertConfig(
        num_labels=10,
        num_hidden_layers=1 if quick else 12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    kind, shape = "BertForSequenceClassification", (2, 16) if quick else (64, 256)
    return _text_pair("BERT-base", kind, bert, config, shape, outputs=10)


def gpt2_pair(quick: bool) -> torch_models.Pair:
    """GPT-2 in jaxtl and in transformers."""
    config = transformers.GPT2Config(
        n_layer=1 if quick else 12, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    shape = (2, 16) if quick else (8, 1024)
    return _text_pair("GPT-2", "GPT2LMHeadModel", gpt2, config, shape, task="language")


class TorchStep:
    """A training step of torch: autocast to bfloat16, fused AdamW.

    Attributes:
      compile_seconds: time of the first step.
      peak: peak memory of three steps in GB, NaN on CPU.
      flops: floating-point operations of a step, as torch counts them; 0 if compiled.
    """

    def __init__(self, pair: torch_models.Pair, y: np.ndarray, compiled: bool):
        module = pair.theirs.train().to(DEVICE)
        x = pair.in_torch(pair.x)
        if isinstance(x, dict):
            self.x = {k: v.to(DEVICE) for k, v in x.items()}
        else:
            module = module.to(memory_format=torch.channels_last)
            self.x = x.to(DEVICE, memory_format=torch.channels_last)
        self.y, self.pair, self.module = torch.tensor(y).to(DEVICE), pair, module
        self.adam = torch.optim.AdamW(
            module.parameters(), RATE, weight_decay=0.01, fused=True
        )
        self.loss = torch.compile(self._loss) if compiled else self._loss
        start = time.perf_counter()
        self.take(1)
        self.compile_seconds = time.perf_counter() - start
        self.peak = self._peak()
        self.flops = 0 if compiled else self._flops()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()

    def _loss(self):
        x = self.x
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = self.pair.logits(self.module, x)
        if self.pair.task == "classification":
            return F.cross_entropy(logits.float(), self.y)
        # The next token of every token that has one; -100 leaves padding out.
        is_token = x["attention_mask"][:, 1:] > 0
        targets = torch.where(is_token, x["input_ids"][:, 1:], -100)
        return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten())

    def take(self, count: int) -> None:
        for _ in range(count):
            self.adam.zero_grad()
            self.loss().backward()
            self.adam.step()
        _wait_for_torch()

    def _flops(self) -> int:
        with flop_counter.FlopCounterMode(display=False) as counter:
            self.take(1)
        return counter.get_total_flops()

    def _peak(self) -> float:
        if DEVICE == "cpu":
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        self.take(3)
        return torch.cuda.max_memory_allocated() / 1e9


def experiment(pair: torch_models.Pair, y: np.ndarray, **fields: Any) -> tl.Experiment:
    """The experiment of a pair's network; `fields` take the place of its own."""
    language = pair.task == "language"
    task = tl.losses.NextToken() if language else tl.losses.CrossEntropy()
    return tl.Experiment(
        **{
            "model": pair.ours,
            "init": models.InMemory(convert.to_weights(pair.tensors, pair.layout)),
            "data": models.Batch(x=pair.x, y=y, task=pair.task),
            "terms": {"task": task},
            "optim": tl.optim.AdamW(lr=RATE, weight_decay=0.01),
            "batch": len(y),
            "steps": 10**6,
            "monitor": None,
            "dtype": "bfloat16",
            **fields,
        }
    )


def _torch_logits(pair: torch_models.Pair) -> np.ndarray:
    """torch's logits of two examples in float32 on the CPU."""
    with torch.inference_mode():
        return np.asarray(pair.logits(pair.theirs.eval(), pair.in_torch(_few(pair))))


def _few(pair: torch_models.Pair) -> Any:
    return jax.tree.map(lambda a: a[:2], pair.x)


def _logits_apart(
    pair: torch_models.Pair,
    network: tl.Network,
    weights: tuple[Any, Any],
    expected: np.ndarray,
) -> tuple[float, float]:
    """max |difference| / max |logit| to the logits of `_torch_logits`.

    Args:
      pair: of the networks.
      network: jaxtl's.
      weights: its parameters and statistics, those of torch's network.
      expected: torch's logits.

    Returns:
      That of jaxtl in float32, and that of jaxtl in bfloat16 as it trains.
    """
    few, apart = _few(pair), []
    for form in (network, precision.compute_in(network, "bfloat16")):
        with jax.default_matmul_precision("highest"):
            apply = jax.jit(lambda *a, form=form: form.apply(*a).logits)
            actual = np.asarray(apply(*weights, few))
        if pair.task == "language":
            is_token = few["attention_mask"].astype(bool)
            actual, reference = actual[is_token], expected[is_token]
        else:
            reference = expected
        apart.append(float(np.abs(actual - reference).max() / np.abs(reference).max()))
    return apart[0], apart[1]


def train_network(
    make: Callable[[bool], torch_models.Pair], quick: bool
) -> dict[str, list[timing.Row]]:
    """The row of one network: jaxtl, torch eager and torch.compile in turn.

    Returns:
      {"": the row, "jaxtl's step": its operations}.
    """
    torch.set_float32_matmul_precision("high")
    pair = make(quick)
    size = len(jax.tree.leaves(pair.x)[0])
    is_text = isinstance(pair.x, dict)
    y = np.arange(size) % 10 if pair.task == "classification" else np.zeros(size, int)
    run = tl.setup(experiment(pair, y))
    expected = _torch_logits(pair)
    # A step donates its state, so the comparison reads copies.
    weights = jax.device_get((run.params, run.state.stats))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiled = pool.submit(TorchStep, pair, y, True)
        start = time.perf_counter()
        advance(run, 1)
        compile_seconds = time.perf_counter() - start
        advance(run, 3)
        ours_peak = _peak_memory()
        # These two programs compile beside torch.compile, which takes longest.
        apart, apart_half = _logits_apart(pair, run.network, weights, expected)
    # Both train the same module, so the second begins when the first has compiled.
    theirs = {"eager": TorchStep(pair, y, False)}
    try:
        theirs["compiled"] = compiled.result()
    except Exception as error:  # no compiler for inductor on this machine
        print(f"torch.compile: {type(error).__name__}: {error}", file=sys.stderr)
    wait_for_turn()
    count = 1 if quick else 5
    ways: dict[str, Callable[[], object]] = {"jaxtl": lambda: advance(run, count)}
    ways |= {k: functools.partial(v.take, count) for k, v in theirs.items()}
    times = timing.alternate(ways, rounds(quick)).clock
    per_step = {k: statistics.median(v) / count for k, v in times.items()}
    units = size * (pair.x["input_ids"].shape[1] if is_text else 1)
    row: timing.Row = {
        "network": pair.name,
        "batch": size,
        "logits apart": apart,
        "in bfloat16": apart_half,
        "unit": "tokens/s" if is_text else "images/s",
        **{name: round(units / seconds) for name, seconds in per_step.items()},
    }
    for name in theirs:
        row[f"× {name}"] = round(timing.ratio(times, name, "jaxtl"), 2)
        row[f"quartiles, {name}"] = timing.spread(times, name, "jaxtl")
    teraflops = theirs["eager"].flops / per_step["jaxtl"] / 1e12
    row["share of the product's rate"] = teraflops / product_rate(
        256 if quick else 8192
    )
    row["compiling, s"] = compile_seconds
    if "compiled" in theirs:
        row["torch.compile, s"] = theirs["compiled"].compile_seconds
    row |= {"peak, GB": ours_peak, "eager's peak, GB": theirs["eager"].peak}
    return {"": [row], "jaxtl's step": gpu_profile.operations(run)}
