"""Ranges of integer inputs: the token ids and token types that a model has rows for.

A lookup beyond a table is NaN in jax, so ids are compared with the tables where a model
meets its data.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core.errors import UserError

# Rows that are compared at a time, of arrays that are read from disk.
_ROWS = 65_536

# Input -> what its values number.
_TABLES = {
    "input_ids": "ids in its vocabulary",
    "token_type_ids": "token types",
    "attention_mask": "values of a mask (0 for padding, 1 for tokens)",
}


def check_ids(x: Any, sizes: Mapping[str, int], owner: str) -> None:
    """Raises UserError for an integer input with a value that a model has no row for.

    Args:
      x: a dict of arrays (n, ...), of which those in `sizes` are compared; anything
        else, and what is traced, is passed over.
      sizes: input -> number of its values.
      owner: whose inputs they are, for the message.
    """
    for name, size in sizes.items():
        values = x.get(name) if isinstance(x, Mapping) else None
        if values is None or isinstance(values, jax.core.Tracer):
            continue
        for start in range(0, len(values), _ROWS):
            rows = np.asarray(values[start : start + _ROWS])
            wrong = (rows < 0) | (rows >= size) | (rows != np.floor(rows))
            if wrong.any():
                row = int(np.argwhere(wrong)[0][0])
                raise UserError(
                    f"{owner}: {name} holds {rows[wrong][0]} in row {start + row}, but "
                    f"the model has {size:,} {_TABLES[name]}, whole numbers from 0 to "
                    f"{size - 1:,}; use the tokenizer of the model's own weights."
                )


def check_last_tokens(x: Any, pad: int | None, owner: str) -> None:
    """Raises UserError where ids and mask disagree on the last token of a text.

    transformers' classifiers of GPT-2 and Llama read the last token whose id is not
    that of padding, jaxtl's the last one that the mask has.

    Args:
      x: {"input_ids", "attention_mask"} (n, length) each; what is traced, or no such
        dict, is passed over.
      pad: id of padding; None compares nothing.
      owner: whose inputs they are, for the message.
    """
    ids = x.get("input_ids") if isinstance(x, Mapping) else None
    if pad is None or ids is None or isinstance(ids, jax.core.Tracer):
        return
    masks = x.get("attention_mask")
    for start in range(0, len(ids), _ROWS):
        rows = np.asarray(ids[start : start + _ROWS])
        mask = np.ones(rows.shape, bool)
        if masks is not None:
            mask = np.asarray(masks[start : start + _ROWS]).astype(bool)
        last = [part[:, ::-1].argmax(1) for part in (mask, rows != pad)]
        wrong = np.flatnonzero(last[0] != last[1])
        if len(wrong):
            row = wrong[0]
            place, by_id = (rows.shape[1] - 1 - int(part[row]) for part in last)
            raise UserError(
                f"{owner}: the last token of row {start + row} is at place {place} by "
                f"its attention_mask, at {by_id} by the ids, of which {pad} "
                "(pad_token_id) is padding; pad with that id, or build the model with "
                "pad=None to go by the mask."
            )


def check_holds(x: Any, token: int, owner: str) -> None:
    """Raises UserError where a text lacks the token whose state stands for it.

    Args:
      x: {"input_ids", "attention_mask"} (n, length) each, all real without the mask;
        what is traced, or no such dict, is passed over.
      token: its id.
      owner: whose inputs they are, for the message.
    """
    ids = x.get("input_ids") if isinstance(x, Mapping) else None
    if ids is None or isinstance(ids, jax.core.Tracer):
        return
    masks = x.get("attention_mask")
    for start in range(0, len(ids), _ROWS):
        is_token = np.asarray(ids[start : start + _ROWS]) == token
        if masks is not None:
            is_token &= np.asarray(masks[start : start + _ROWS]).astype(bool)
        wrong = np.flatnonzero(~is_token.any(1))
        if len(wrong):
            raise UserError(
                f"{owner}: the text in row {start + wrong[0]} lacks the end-of-text "
                f"token {token} (eos_token_id), whose state stands for the text; use "
                f"the tokenizer of the model's own weights, or build the model with "
                "end= set to the id that ends your texts."
            )


def check_vocabulary(tokens: int, vocab: int, owner: str) -> None:
    """Raises UserError for a tokenizer with more ids than a model has.

    Args:
      tokens: ids of the tokenizer.
      vocab: ids of the model.
      owner: whose tokenizer it is, for the message.
    """
    if tokens > vocab:
        raise UserError(
            f"{owner}: the tokenizer has {tokens:,} ids, but the model's vocabulary "
            f"has {vocab:,}; use the tokenizer of the model's own weights, or build "
            f"the model with vocab={tokens}."
        )
