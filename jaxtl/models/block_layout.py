"""Rules of the weights of transformer layers, from the names of their parts."""

from collections.abc import Mapping

from jaxtl.models.layers import norms
from jaxtl.models.layers.transformer import Block
from jaxtl.models.weight_layout import Rule

_NAMES = {"scale": "weight", "bias": "bias"}


def block_rules(
    block: Block,
    names: Mapping[str, str],
    source: str,
    path: str,
    transform: str = "linear",
) -> list[Rule]:
    """Rules of all leaves of a layer.

    Args:
      block: what the layer computes.
      names: path of a part within the layer -> its name in the file.
      source: name of the layer in the file.
      path: of the layer in the tree.
      transform: of the kernels, a key of `weight_layout.TRANSFORMS`.
    """
    rules = []
    for part, has_bias in block.kernels().items():
        # "qkv[0]": the first of the parts that a tensor joins, see `WeightLayout`.
        name, bracket, number = f"{source}.{names[part]}".partition("[")
        place = bracket + number
        kernel = Rule(f"{name}.weight{place}", f"{path}/{part}/kernel", transform)
        rules.append(kernel)
        rules += [Rule(f"{name}.bias{place}", f"{path}/{part}/bias")] * has_bias
    for part, kind in block.norms().items():
        rules += norm_rules(kind, f"{source}.{names[part]}", f"{path}/{part}")
    for part in block.leaves():
        rules.append(Rule(f"{source}.{names[part]}", f"{path}/{part}"))
    return rules


def norm_rules(kind: str, source: str, path: str) -> list[Rule]:
    """Rules of a norm of this kind, a key of `norms.NORMS`."""
    return [
        Rule(f"{source}.{_NAMES[leaf]}", f"{path}/{leaf}")
        for leaf in norms.LEAVES[kind]
    ]
