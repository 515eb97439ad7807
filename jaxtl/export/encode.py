"""Embeddings of texts by a model that compares pairs of them."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data.tokenizer import Tokenizer
from jaxtl.export import bundle
from jaxtl.export.predictor import BATCH, Predictor, embeddings_of_texts
from jaxtl.models.bi_encoder import POOLING
from jaxtl.models.precision import compute_in
from jaxtl.training.load_model import TrainedModel, load_model
from jaxtl.training.source_defaults import run_tokenizer


def encode(model: Any, texts: Sequence[str]) -> np.ndarray:
    """Computes the embedding of each text, as `models.BiEncoder` compares them.

    Args:
      model: the directory of a run or of an export, or what `tl.setup`,
        `tl.load_model` or `export.bundle.load` returned.
      texts: n ≥ 1 texts.

    Returns:
      (n, width) float32.

    Raises:
      UserError: a model of another kind, or no texts.
    """
    if isinstance(model, str | os.PathLike):
        is_export = (pathlib.Path(model) / bundle.METADATA).exists()
        model = bundle.load(model) if is_export else load_model(model)
    if isinstance(model, Predictor):
        return model.encode(texts)
    evaluated, weights = model.evaluation_model(), model.weights()
    if POOLING not in evaluated.network.stages:
        raise UserError(
            "encode: the model gives no embeddings of texts; it must be a "
            "tl.models.BiEncoder, or the predict='similarity' of pretrained weights."
        )
    network = compute_in(evaluated.network, evaluated.dtype)
    apply = jax.jit(lambda weights, x: network.apply(*weights, x, stop=POOLING).logits)
    tokenizer = _tokenizer(model)

    def embeddings(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        return np.asarray(apply(weights, tokenizer.separately(first, second)))

    return embeddings_of_texts(embeddings, texts, BATCH)


def _tokenizer(model: Any) -> Tokenizer:
    """The tokenizer that a run's texts were read by."""
    if isinstance(model, TrainedModel):
        tokenizer = run_tokenizer(model.data, model.directory)
    else:
        tokenizer = model.datasets["target"].tokenizer
    if tokenizer is None:
        raise UserError("encode: the run read token ids and has no tokenizer.")
    return tokenizer
