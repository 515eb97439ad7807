"""How transformers are split over devices, layer by layer.

The first map of each part (queries, keys and values; into the feed-forward part) is
split by its outputs, the second by its inputs. So a device computes whole heads and
whole hidden features, and the devices add up their outputs once for each part in the
forward pass, and once in the backward pass.

References:
  Shoeybi et al.: Megatron-LM, arXiv:1909.08053, section 3.
"""

from collections.abc import Iterable

from jaxtl.core.tensor_rules import TensorRules
from jaxtl.models.layers.transformer import Block

_BY_OUTPUTS = (("kernel", 1), ("bias", 0))
_BY_INPUTS = (("kernel", 0),)


def transformer_rules(
    blocks: Iterable[Block], vocabulary: Iterable[tuple[str, int]] = ()
) -> TensorRules:
    """The rules of a model with the stages `layer_0`, `layer_1` …

    Args:
      blocks: of its layers.
      vocabulary: (path of a leaf, its axis of token ids) of the tables and heads.
    """
    axes, counts = dict[str, int](), dict[str, set[int]]()
    for block in blocks:
        axes |= _block_axes(block)
        for name in ("heads", "kv_heads", "hidden"):
            counts.setdefault(name, set()).add(getattr(block, name) or block.heads)
    return TensorRules(
        (*((rf"layer_\d+/{p}", axis) for p, axis in axes.items()), *vocabulary),
        tuple((name, n) for name, values in counts.items() for n in sorted(values)),
    )


def _block_axes(block: Block) -> dict[str, int]:
    """Path of a leaf of a layer -> the axis that is split.

    A joint projection to queries, keys and values one behind another, or to both
    factors of a gate, is copied: equal parts of it are not parts of the heads.
    """
    joint = {"mlp/gate_in"} | ({"attention/qkv"} if block.fused == "parts" else set())
    axes = {}
    for path in block.kernels().keys() - joint:
        rows = _BY_INPUTS if path.endswith("/out") else _BY_OUTPUTS
        axes |= {f"{path}/{leaf}": axis for leaf, axis in rows}
    return axes
