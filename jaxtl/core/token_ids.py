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
