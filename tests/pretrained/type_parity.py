"""What the comparisons of types with transformers share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.models.weight_layout import WeightLayout
from jaxtl.pretrained import convert

COUNTERS = "num_batches_tracked"  # not in our trees, and read by no pass


def configurations_of(row: Any) -> list[dict]:
    """Configurations of a row that have every value of every option among them.

    Args:
      row: its `base`, `options` and, where keys vary together, `groups`.
    """
    number = max(len(values) for values in row.options.values())
    configs = [dict(row.base) for _ in range(number + 1)]
    follows = {key: group[0] for group in getattr(row, "groups", ()) for key in group}
    places = {key: i for i, key in enumerate(row.options)}
    for key, values in row.options.items():
        shift = places[follows.get(key, key)]
        if len(values) == 1:  # beside the usual value
            configs[1 + shift % number][key] = values[0]
            continue
        for i, config in enumerate(configs):
            # Options move against each other, so that they meet in many pairs.
            place = i if i < len(values) else i + (i * shift) // number
            config[key] = values[place % len(values)]
    return configs


def difference(got: Any, want: Any, real: Any = ...) -> float:
    """The largest difference, in units of the largest value where that is above 1."""
    got, want = np.asarray(got)[real], np.asarray(want)[real]
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))


def gradient_difference(
    theirs: Any, layout: WeightLayout, ours: Mapping[str, Any]
) -> float:
    """The largest difference of gradients, in units of the largest one above 1.

    Args:
      theirs: transformers' model behind its backward pass.
      layout: of our parameters.
      ours: gradients of all of them, a tree.
    """
    torch = pytest.importorskip("torch")
    loading = pytest.importorskip("transformers.core_model_loading")
    tensors = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in theirs.named_parameters()
    }
    # by the names of files, which join and name some tensors otherwise
    tensors = loading.revert_weight_conversion(theirs, tensors)
    tensors = {name: x.detach().numpy() for name, x in tensors.items()}
    want = trees.flatten(convert.to_weights(tensors, layout).params)
    got = trees.flatten(ours)
    assert set(want) == set(got)
    scale = max(1.0, max(np.abs(np.asarray(g)).max() for g in want.values()))
    return max(
        float(np.abs(got[path] - np.asarray(g)).max() / scale)
        for path, g in want.items()
    )


def loaded_again(theirs: Any, folder: Any, unread: Any = ()) -> Any:
    """transformers' model of what we wrote: the same tensors, bit for bit.

    Args:
      theirs: the model that was read.
      folder: where it was written.
      unread: names of tensors that no pass of the library reads.
    """
    torch = pytest.importorskip("torch")
    again, info = type(theirs).from_pretrained(folder, output_loading_info=True)
    assert not [name for name in info["missing_keys"] if COUNTERS not in name]
    assert not info["unexpected_keys"]
    tensors = theirs.state_dict()
    for name, tensor in again.state_dict().items():
        if COUNTERS not in name and name not in unread:
            assert torch.equal(tensor, tensors[name]), name
    return again.eval()
