"""Names of the weights of CLIP's and SigLIP's towers in transformers."""

import dataclasses
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.models import block_layout, staged, vit_layout, weight_layout
from jaxtl.models.weight_layout import Rule, WeightLayout

PREDICTS = ("class", "embedding")  # of each tower
# Path of a part within a layer -> its name in the file.
LAYER_NAMES = {
    "layer": "encoder.layers.{}",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "mlp/in": "mlp.fc1",
    "mlp/out": "mlp.fc2",
    "mlp_norm": "layer_norm2",
}
VISION_NAMES = {
    **LAYER_NAMES,
    "token": "embeddings.class_embedding",
    "position": "embeddings.position_embedding.weight",
    "patch": "embeddings.patch_embedding",
    "patch_norm": "pre_layrnorm",  # so in the files
    "norm": "post_layernorm",
}
# Parts of a file of both towers that one of them does not read.
_PAIR = (r"logit_(scale|bias)",)
_HEADS = (r"(visual|text)_projection\.weight", r"classifier\.(weight|bias)")
_OTHERS = {"vision_model": r"text_model\..*", "text_model": r"vision_model\..*"}
# SigLIP's pooling of images, and its map of texts, where a classifier has none.
_POOL = r"((vision|text)_model\.)?head\..*"
# Places of tokens, which older files store.
BUFFERS = (r".*embeddings\.position_ids",)

HARMLESS = {
    "attention_dropout": "attention weights have no dropout here",
    "dropout": "transformers reads it nowhere",
    "initializer_factor": "spread of new weights; jaxtl's layers have their own",
}


def check_predict(model: Any) -> None:
    """Checks what a tower predicts.

    Raises:
      UserError: an unknown head; a number of outputs that a map to the space shared by
        images and texts does not have.
    """
    staged.check_option("predict", model.predict, PREDICTS)
    is_class = model.predict == "class"
    width = model.embedding or model.width
    if not is_class and model.outputs not in (None, width):
        raise UserError(
            f"{type(model).__name__}: predict='embedding' has {width} outputs, but "
            f"outputs={model.outputs} are asked for; a classifier has predict='class'."
        )


def vision_layout(model: Any, **colors: Any) -> WeightLayout:
    """The naming of an image tower, in a file of its own or of both towers."""
    head = "classifier" if model.predict == "class" else "visual_projection"
    layout = vit_layout.hf_layout(model, {"head/dense": head}, **colors)
    stage = getattr(model, "pool_stage", "")
    rules = _pool_rules(f"{model.root}.head", stage) if stage else []
    unused = () if stage else (_POOL,)
    layout = dataclasses.replace(layout, rules=(*layout.rules, *rules))
    return tower_layout(layout, model, unused)


def text_layout(model: Any) -> WeightLayout:
    """The naming of a text tower, in a file of its own or of both towers."""
    root, block = model.root, model.block(0)
    rules = [
        Rule(
            f"{root}.embeddings.{part}_embedding.weight", f"embeddings/{part}/embedding"
        )
        for part in ("token", "position")
    ]
    for i in range(model.layers):
        source = f"{root}.{LAYER_NAMES['layer'].format(i)}"
        rules += block_layout.block_rules(block, LAYER_NAMES, source, f"layer_{i}")
    rules += weight_layout.norm(f"{root}.final_layer_norm", "norm/norm")
    is_class = model.predict == "class"
    head = "classifier" if is_class else model.projection
    bias = is_class or model.projection_bias
    rules += weight_layout.linear(head, "head/dense", bias)
    layout = WeightLayout(tuple(rules), prefixes=("module.", f"{root}."))
    return tower_layout(layout, model, (_POOL,) if is_class else ())


def pair_layout(model: Any) -> WeightLayout:
    """The naming of both towers and of what scales their similarities."""
    towers = {"image_": model.image, "text_": model.text}
    layouts = {prefix: tower.layouts()["hf"] for prefix, tower in towers.items()}
    rules = [
        rule._replace(path=prefix + rule.path)
        for prefix, layout in layouts.items()
        for rule in layout.rules
    ]
    image = layouts["image_"]
    return WeightLayout(
        (*rules, *model.head_rules()),
        ignored=BUFFERS,
        unused=(_HEADS[-1],),
        prefixes=("module.",),
        stem=f"image_{image.stem}",
        mean=image.mean,
        std=image.std,
    )


def _pool_rules(source: str, path: str) -> list[Rule]:
    """Rules of the pooling by attention, which joins queries, keys and values."""
    rules = [Rule(f"{source}.probe", f"{path}/probe")]
    for i, part in enumerate(("query", "key", "value")):
        joined, leaf = f"{source}.attention.in_proj", f"{path}/attention/{part}"
        rules.append(Rule(f"{joined}_weight[{i}]", f"{leaf}/kernel", "linear"))
        rules.append(Rule(f"{joined}_bias[{i}]", f"{leaf}/bias"))
    return [
        *rules,
        *weight_layout.linear(f"{source}.attention.out_proj", f"{path}/attention/out"),
        *weight_layout.norm(f"{source}.layernorm", f"{path}/norm"),
        *weight_layout.linear(f"{source}.mlp.fc1", f"{path}/mlp/in"),
        *weight_layout.linear(f"{source}.mlp.fc2", f"{path}/mlp/out"),
    ]


def tower_layout(
    layout: WeightLayout, model: Any, unused: tuple[str, ...] = ()
) -> WeightLayout:
    """The layout of a tower's rules, which passes over what is not the tower's."""
    return dataclasses.replace(
        layout,
        ignored=BUFFERS,
        unused=(*_PAIR, *_HEADS, _OTHERS[model.root], *unused),
        renames=(),
        modules=(),
    )
