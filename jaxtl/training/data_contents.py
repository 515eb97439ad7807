"""What the files of an experiment's data held, so that results of one table agree.

The runs of a study or a sweep are trained one after the other, on several days and by
several processes. Their numbers can be compared only if all read the same contents.
"""

import hashlib
import json
from collections.abc import Mapping

from jaxtl.core import serialization
from jaxtl.core.errors import DataChanged
from jaxtl.data.dataset import Data, Dataset
from jaxtl.data.preparation import SPLIT_OPTIONS

Contents = dict[str, str]  # `_source_key` of a data set -> its fingerprint
# Values whose JSON does not say what they are: two of them may look the same.
_OPAQUE = ('"type": "array"', '"type": "object"')


def contents(sources: Mapping[str, Data], datasets: Mapping[str, Dataset]) -> Contents:
    """The fingerprint of each data set by what it was read from.

    Args:
      sources: stream -> its data, as of `inputs.sources`.
      datasets: stream -> the data set that was read; others are left out.
    """
    keys = {name: _source_key(data) for name, data in sources.items()}
    return {
        key: datasets[name].fingerprint
        for name, key in keys.items()
        if key is not None and name in datasets
    }


def check(folder: object, stored: Mapping[str, str], current: Contents) -> None:
    """Raises DataChanged where a data set holds something else than it did before.

    Args:
      folder: of the study or sweep, for the message.
      stored: contents that its runs were measured on.
      current: contents now.
    """
    if any(stored.get(key, value) != value for key, value in current.items()):
        raise DataChanged(
            f"the data have changed since runs of {folder} were measured on them, and "
            "numbers of both would stand in one table. Restore the data, or choose "
            "another --out (--overwrite runs everything again)."
        )


def _source_key(data: Data) -> str | None:
    """Hash of the options that decide what is read; None for arrays in memory."""
    stored = serialization.to_json(data)
    options = {k: v for k, v in stored.items() if k not in SPLIT_OPTIONS}
    text = json.dumps(options, sort_keys=True, default=str)
    if any(mark in text for mark in _OPAQUE):
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:16]
