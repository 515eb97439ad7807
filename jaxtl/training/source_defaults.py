"""What the data of an experiment take from its model and its pretrained weights.

These are the size of images that have several, and the tokenizer of texts that name
none.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, TypeGuard

from jaxtl.data.dataset import Data
from jaxtl.data.sources.squad import SQuAD
from jaxtl.data.text_columns import TextData
from jaxtl.data.tokenizer import TOKENIZER, Tokenizer, as_tokenizer
from jaxtl.data.tokenizer import stored as stored_tokenizer
from jaxtl.data.tokenizer_training import MOST_PIECES
from jaxtl.pretrained.weights_tokenizer import tokenizer_of_weights
from jaxtl.training.experiment import Experiment


def framing(exp: Experiment) -> Mapping[str, Any]:
    """The framing of images that a run stored, or that the model needs; {} for none."""
    stored: dict[str, Any] = getattr(exp.init, "stored_preprocess", dict)()
    side = getattr(exp.model, "size", None)
    if isinstance(side, int) and stored.get("size") not in ([side, side], (side, side)):
        return {"size": (side, side), "shortest": side}
    return {name: stored.get(name) for name in ("size", "shortest", "resample")}


def with_tokenizers(data_of: dict[str, Data], exp: Experiment) -> dict[str, Data]:
    """Texts without a tokenizer with that of the target, or of the weights.

    A vocabulary that is trained is at most that of the model.
    """
    unnamed = {name: data for name, data in data_of.items() if _lacks_tokenizer(data)}
    if not unnamed:
        return data_of
    named = getattr(data_of["target"], "tokenizer", None)
    shared = tokenizer_of_weights(exp.init) if named is None else as_tokenizer(named)
    sizes: dict[str, int] = getattr(exp.model, "id_sizes", dict)()
    most = min(sizes.get("input_ids", MOST_PIECES), MOST_PIECES)
    replaced = {
        name: dataclasses.replace(
            data,
            default_tokenizer=data.default_tokenizer or shared,
            vocab=data.vocab or most,
        )
        for name, data in unnamed.items()
    }
    return {**data_of, **replaced}


def with_separate_pairs(data_of: dict[str, Data], model: Any) -> dict[str, Data]:
    """Pairs of texts as the model reads them: tokenized at once, or each by itself."""
    if not getattr(model, "READS_PAIRS", False):
        return data_of
    return {name: separate_pairs(data) for name, data in data_of.items()}


def separate_pairs(data: Data) -> Data:
    """Data whose pairs of texts are tokenized each by itself, unless they say."""
    if not isinstance(data, TextData) or data.separate is not None:
        return data
    if getattr(data, "pair", None) is None:
        return data
    return dataclasses.replace(data, separate=True)


def _lacks_tokenizer(data: Data) -> TypeGuard[TextData]:
    """Whether data are texts that name no tokenizer."""
    return isinstance(data, TextData) and data.reads_texts() and data.tokenizer is None


def with_tokenizer(data: Data, tokenizer: Tokenizer | None) -> Data:
    """Texts that name no tokenizer with one; other data are as they were."""
    if not _lacks_tokenizer(data):
        return data
    return dataclasses.replace(data, default_tokenizer=tokenizer)


def with_run_tokenizer(data: Data, directory: pathlib.Path) -> Data:
    """Texts that name no tokenizer with the one that a run stored, if it did.

    Windows of contexts are as long as that tokenizer's texts.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        return data
    stored = stored_tokenizer(path)
    return with_model_context(with_tokenizer(data, stored), stored.max_length)


def with_model_context(data: Data, tokens: int | None) -> Data:
    """Windows of contexts, if they name no length, with the most that a model reads."""
    if not isinstance(data, SQuAD) or data.max_length is not None:
        return data
    return dataclasses.replace(data, model_context=data.model_context or tokens)


def run_tokenizer(data: Data, directory: pathlib.Path) -> Tokenizer | None:
    """The tokenizer that the texts of a run were read by; None for other data.

    Runs of earlier versions do not store it; theirs is the one that the data name.
    """
    if (directory / TOKENIZER).is_file():
        return stored_tokenizer(directory / TOKENIZER)
    named = getattr(data, "tokenizer", None)
    return None if named is None else as_tokenizer(named)
