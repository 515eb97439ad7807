"""The program of an exported model: its forward pass for any batch and platform."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, describe_error
from jaxtl.core.types import PyTree
from jaxtl.data import lazy_array, preprocess
from jaxtl.data.dataset import CONTRASTIVE, MULTITASK, QUESTION_ANSWERING
from jaxtl.export.predictor import SINGLE_INPUT
from jaxtl.models.bi_encoder import POOLING
from jaxtl.models.precision import compute_in
from jaxtl.terms.losses import predictions_of_tasks
from jaxtl.training.load_model import TrainedModel
from jaxtl.training.stored_network import input_specs

_PLATFORMS = ("cpu", "cuda", "tpu")
_EXAMPLE_ROWS = 4


class ExportedProgram(NamedTuple):
    """The exported program with its example.

    Attributes:
      program: exported for all platforms, with a free batch size.
      inputs: {name: (rows, …)}, the example.
      outputs: {name: (rows, …)}, of the example.
      origin: where the example is from, for the card.
    """

    program: jax.export.Exported
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    origin: str


def export_program(trained: TrainedModel) -> ExportedProgram:
    """Exports a model's program, and runs it on an example.

    Raises:
      UserError: the model does not export with a free batch size, or it is one of
        pairs.
    """
    if trained.task == CONTRASTIVE:
        raise UserError(
            f"the model of {trained.directory} compares images with texts and predicts "
            "nothing of one file; from Python, tl.load_model(run).config has "
            "encode_image and encode_text."
        )
    inputs, origin = _example(trained)
    weights = jax.device_put(weights_by_path(trained))
    call = functools.partial(_forward, trained)
    # Platforms differ in their default precision of float32 (TF32, three bfloat16):
    # the highest is the one that all of them have.
    with jax.default_matmul_precision("highest"), _without_source_paths():
        outputs = jax.device_get(jax.jit(call)(weights, inputs))
        specs = input_specs(trained.meta, jax.export.symbolic_shape("batch")[0])
        # A partial has no name, and a new lambda shares no cached trace.
        jitted = jax.jit(lambda weights, inputs: call(weights, inputs))
        try:
            program = jax.export.export(jitted, platforms=_PLATFORMS)(weights, specs)
        except Exception as error:
            raise UserError(
                f"the model of {trained.directory} can't be exported with a free batch "
                f"size for {', '.join(_PLATFORMS)}: {describe_error(error)}."
            ) from error
    return ExportedProgram(program, inputs, outputs, origin)


def weights_by_path(trained: TrainedModel) -> dict[str, np.ndarray]:
    """The weights of a model: "params/…" and "stats/…" -> array."""
    tree = {"params": trained.params, "stats": trained.stats}
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(tree).items()}


def _forward(
    trained: TrainedModel,
    weights: Mapping[str, jax.Array],
    inputs: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """The exported function: outputs for a batch in stored units.

    Args:
      trained: compiled in, except for its weights.
      weights: path -> array.
      inputs: {name: (batch, …)}.

    Returns:
      "logits" and "probabilities", softmax for classification and sigmoid for
      multilabel; "outputs" for regression, and for several tasks, each as it
      would be alone. (batch, outputs) each, float32. Of questions
      (batch, length, 2), softmax over the tokens. Of a model that compares pairs of
      texts, "embeddings" (batch, 2, width) as well.
    """
    structure = {"params": trained.params, "stats": trained.stats}
    tree = trees.map_with_path(lambda path, _: weights[path], structure)
    x: PyTree = inputs[SINGLE_INPUT] if trained.meta["single"] else inputs
    x = preprocess.apply(trained.preprocess, x)
    network = compute_in(trained.network, trained.dtype)
    logits, features, _ = network.apply(tree["params"], tree["stats"], x)
    task = trained.task
    if POOLING in trained.network.stages:
        return {"outputs": logits, "embeddings": features[POOLING]}
    if task == "regression":
        return {"outputs": logits}
    if task == MULTITASK:
        outputs = predictions_of_tasks(logits, trained.class_names)
        return {"logits": logits, "outputs": outputs}
    if task == QUESTION_ANSWERING:
        return {"logits": logits, "probabilities": jax.nn.softmax(logits, axis=1)}
    squash = jax.nn.sigmoid if task == "multilabel" else jax.nn.softmax
    return {"logits": logits, "probabilities": squash(logits)}


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
    """Keeps paths of source files out of the exported program."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, name)
    jax.config.update(name, ".*")
    try:
        yield
    finally:
        jax.config.update(name, before)


def _example(trained: TrainedModel) -> tuple[dict[str, np.ndarray], str]:
    """A few inputs in stored units, real ones if there are data; and their origin."""
    specs = input_specs(trained.meta, _EXAMPLE_ROWS)
    if trained.dataset is not None:
        rows = trained.dataset.rows
        split = next(s for s in ("val", "test", "train") if len(rows.get(s, ())))
        first = rows[split][:_EXAMPLE_ROWS]
        x = lazy_array.gather(trained.dataset.x, first)
        x = x if isinstance(x, dict) else {SINGLE_INPUT: x}
        inputs = {name: np.asarray(v, specs[name].dtype) for name, v in x.items()}
        return inputs, f"the first {len(first)} rows of {split}"
    rng, inputs = np.random.default_rng(0), {}
    for name, spec in specs.items():
        x = rng.uniform(0, trained.preprocess.scale, spec.shape)
        # Whole numbers in a dict are tokens and masks, of which 0 and 1 always exist.
        high = 2 if not trained.meta["single"] else trained.preprocess.scale + 1
        if not jnp.issubdtype(spec.dtype, jnp.floating):
            x = rng.integers(0, int(min(high, 256)), spec.shape)
        inputs[name] = x.astype(spec.dtype)
    return inputs, "random, since the data could not be read"
