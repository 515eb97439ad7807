"""Tensors of EfficientNet in the naming of transformers, timm and lukemelas."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtl.models import weight_layout
from jaxtl.models.layers import inverted_residual
from jaxtl.models.layers.inverted_residual import BlockForm
from jaxtl.models.weight_layout import WeightLayout

# Of the colors that TensorFlow's Lite models are trained with.
_LITE = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
# Of the published models. No tensor shows strides, nor activations, which other models
# of timm with the same names have otherwise (MnasNet, with other kernels).
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
# EfficientNet's, and those of MobileNet v2, which is else as Lite.
_KERNELS = ((3, 3, 5, 3, 5, 5, 3), (3, 3, 3, 3, 3, 3, 3))


class _Names(NamedTuple):
    """How a library names the layers.

    Attributes:
      block: of a block; {n} is its number, {i} its stage and {b} its place in it.
      parts: of the parts of a block: convolution and BatchNorm.
      plain: likewise of a block that does not expand.
      squeeze: of the squeeze-and-excitation and its two layers.
      stem, top: convolution and BatchNorm.
      head: of the affine map.
      prefixes: leading parts of names that a file may have or lack.
    """

    block: str
    parts: Mapping[str, tuple[str, str]]
    plain: Mapping[str, tuple[str, str]]
    squeeze: tuple[str, str, str]
    stem: tuple[str, str]
    top: tuple[str, str]
    head: str
    prefixes: tuple[str, ...] = ("module.",)


_HF_PARTS = {
    "depthwise": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
    "project": ("projection.project_conv", "projection.project_bn"),
}
_LUKEMELAS_PARTS = {
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
_NAMES = {
    "hf": _Names(
        "efficientnet.encoder.blocks.{n}",
        {"expand": ("expansion.expand_conv", "expansion.expand_bn"), **_HF_PARTS},
        _HF_PARTS,
        ("squeeze_excite", "reduce", "expand"),
        ("efficientnet.embeddings.convolution", "efficientnet.embeddings.batchnorm"),
        ("efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn"),
        "classifier",
        ("module.", "efficientnet."),
    ),
    "timm": _Names(
        "blocks.{i}.{b}",
        {
            "expand": ("conv_pw", "bn1"),
            "depthwise": ("conv_dw", "bn2"),
            "project": ("conv_pwl", "bn3"),
        },
        {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")},
        ("se", "conv_reduce", "conv_expand"),
        ("conv_stem", "bn1"),
        ("conv_head", "bn2"),
        "classifier",
    ),
    "lukemelas": _Names(
        "_blocks.{n}",
        {"expand": ("_expand_conv", "_bn0"), **_LUKEMELAS_PARTS},
        _LUKEMELAS_PARTS,
        ("", "_se_reduce", "_se_expand"),
        ("_conv_stem", "_bn0"),
        ("_conv_head", "_bn1"),
        "_fc",
    ),
}


def layouts(
    stages: Sequence[Sequence[BlockForm]], padding: str
) -> dict[str, WeightLayout]:
    """All layouts of a model with these blocks and this padding."""
    is_lite = padding == "same" and not stages[0][0].squeezed
    colors = _LITE if is_lite else weight_layout.IMAGENET
    return {name: _layout(names, stages, colors) for name, names in _NAMES.items()}


def _layout(
    names: _Names, stages: Sequence[Sequence[BlockForm]], colors: Mapping[str, Any]
) -> WeightLayout:
    rules, number = inverted_residual.conv_norm_rules(*names.stem, "stem"), 0
    for i, forms in enumerate(stages):
        for b, form in enumerate(forms):
            rules += inverted_residual.block_rules(
                names.block.format(n=number, i=i, b=b),
                f"stage{i + 1}/block{b}",
                names.plain if form.expanded is None else names.parts,
                names.squeeze if form.squeezed else None,
            )
            number += 1
    rules += inverted_residual.conv_norm_rules(*names.top, "top")
    rules += weight_layout.linear(names.head, "head/dense")
    return WeightLayout(
        tuple(rules),
        ignored=(weight_layout.COUNTERS,),
        prefixes=names.prefixes,
        stem="stem/conv/kernel",
        **colors,
    )


def fields_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Fields of the published EfficientNet with these tensors, None for others.

    Args:
      shapes: of a file in timm's naming or lukemelas'.
    """
    names = _NAMES["lukemelas" if "_fc.weight" in shapes else "timm"]
    ends = (names.stem[0], names.top[0], names.head)
    if not all(f"{name}.weight" in shapes for name in ends):
        return None
    blocks = _blocks(names, shapes)
    firsts = [0] + [
        n for n in range(1, len(blocks)) if blocks[n].width != blocks[n - 1].width
    ]
    if len(firsts) != len(_STRIDES):
        return None
    stem, top, head = (shapes[f"{name}.weight"] for name in ends)
    inside = (stem[0], *(blocks[n - 1].width for n in firsts[1:]))
    squeezed = blocks[0].squeezed
    kernels = tuple(blocks[n].kernel for n in firsts)
    expansions = tuple(
        (blocks[n].expanded or width) // width for n, width in zip(firsts, inside)
    )
    if kernels not in _KERNELS or expansions != _EXPANSIONS:
        return None
    return {
        "outputs": head[0],
        "width": stem[0],
        "widths": tuple(blocks[n].width for n in firsts),
        "sizes": tuple(b - a for a, b in zip(firsts, [*firsts[1:], len(blocks)])),
        "kernels": kernels,
        "expansions": expansions,
        "squeeze": squeezed / stem[0],
        "activation": "silu" if squeezed else "relu6",
        "top_width": top[0],
    }


def _blocks(names: _Names, shapes: Mapping[str, tuple[int, ...]]) -> list[BlockForm]:
    """Widths and kernels of all blocks in order, by their tensors."""
    blocks: list[BlockForm] = []
    i = b = 0
    while True:
        source = names.block.format(n=len(blocks), i=i, b=b)
        expands = f"{source}.{names.parts['project'][0]}.weight" in shapes
        expands &= f"{source}.{names.parts['expand'][0]}.weight" in shapes
        part = names.parts if expands else names.plain
        depthwise, project = (
            shapes.get(f"{source}.{part[name][0]}.weight")
            for name in ("depthwise", "project")
        )
        if depthwise is None or project is None:
            if b == 0 or names.block.count("{n}"):
                return blocks
            i, b = i + 1, 0
            continue
        owner = ".".join(filter(None, (source, names.squeeze[0], names.squeeze[1])))
        squeezed = shapes.get(f"{owner}.weight", (0,))[0]
        expanded = depthwise[0] if expands else None
        blocks.append(BlockForm(project[0], expanded, depthwise[2], squeezed=squeezed))
        b += 1
