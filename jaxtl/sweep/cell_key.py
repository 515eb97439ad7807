"""Keys of a sweep's cells: hashes of experiments, the same in every process."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtl.core import serialization
from jaxtl.training.experiment import Experiment

# id -> (object, its JSON or hash). It keeps the objects alive, so that no other object
# gets an id that is in use here.
_BY_ID: dict[int, tuple[Any, Any]] = {}


def experiment_digest(exp: Experiment) -> str:
    """A hash of an experiment's settings, 16 hexadecimal digits."""
    content = serialization.identity(type(exp), serialization.to_json(exp))
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cell_key(
    variant: str,
    base: Experiment,
    changes: Sequence[tuple[str, Any]],
    labels: Mapping[str, Any],
) -> str:
    """The identity of a cell, 20 hexadecimal digits: equal for equal experiments.

    Args:
      variant: name of the experiment that the cell changes.
      base: that experiment.
      changes: (path, value); of several changes of one path the last one counts.
      labels: of the cell.
    """
    last = dict(changes)
    values = [[path, _as_json(last[path])] for path in sorted(last)]
    text = json.dumps([variant, _once_per_object(base, experiment_digest), values])
    if '"type": "object"' in text:
        # Such objects are written with a name at best; the labels tell them apart.
        text += str(labels)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _as_json(value: Any) -> Any:
    """A value as JSON, the same in every process; 1 and 1.0 are equal."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)
    return _once_per_object(value, serialization.to_json)


def _once_per_object(value: Any, function: Callable[[Any], Any]) -> Any:
    """Computes `function(value)` at the first call for an object."""
    if id(value) not in _BY_ID:
        _BY_ID[id(value)] = value, function(value)
    return _BY_ID[id(value)][1]
