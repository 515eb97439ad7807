"""Names of the weights of vision transformers in transformers and in timm."""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import block_layout, weight_layout
from jaxtl.models.weight_layout import Rule, WeightLayout

# Path -> name, "layer" with a place for its number; below "layer" of the parts of one.
HF_NAMES = {
    "token": "embeddings.cls_token",
    "distillation": "embeddings.distillation_token",
    "position": "embeddings.position_embeddings",
    "register": "embeddings.register_tokens",
    "mask": "embeddings.mask_token",
    "patch": "embeddings.patch_embeddings.projection",
    "relative": "encoder.relative_position_bias.relative_position_bias_table",
    "layer": "encoder.layer.{}",
    "attention/query": "attention.attention.query",
    "attention/key": "attention.attention.key",
    "attention/value": "attention.attention.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "layernorm_before",
    "mlp/in": "intermediate.dense",
    "mlp/out": "output.dense",
    "mlp_norm": "layernorm_after",
    "norm": "layernorm",
    "head/dense": "classifier",
}
TIMM_NAMES = {
    "token": "cls_token",
    "distillation": "dist_token",
    "position": "pos_embed",
    "register": "reg_token",
    "mask": "mask_token",
    "patch": "patch_embed.proj",
    "layer": "blocks.{}",
    "attention/query": "attn.qkv[0]",
    "attention/key": "attn.qkv[1]",
    "attention/value": "attn.qkv[2]",
    "attention/out": "attn.proj",
    "attention_norm": "norm1",
    "attention_scale/scale": "ls1.gamma",
    "mlp/in": "mlp.fc1",
    "mlp/out": "mlp.fc2",
    "mlp_norm": "norm2",
    "mlp_scale/scale": "ls2.gamma",
    "norm": "norm",
    "head/dense": "head",
    "head/distilled": "head_dist",
}
# The class token of ViTModel's pooler is not what the classifier reads; the token and
# the decoder of masked image modeling have no use here.
_UNUSED = (
    r"(\w+\.)?pooler\.dense\.(weight|bias)",
    r"decoder\.0\.(weight|bias)",
    r"lm_head\.(weight|bias)",
)
_MASK = r"(\w+\.)?embeddings\.mask_token"
# Names within the models of transformers 5, whose files keep the older ones.
_NEW_NAMES = (
    (r"^((?:module\.)?(?:\w+\.)?)layers\.", r"\1encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.down_proj\.", ".mlp.weights_out."),
)
_NEW_MLP_NAMES = (
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
# And the reverse, older ones to newer ones; DINOv2 keeps the names of its layers.
_MODULES = (
    (r"\.attention\.attention\.query(?=\.|$)", ".attention.q_proj"),
    (r"\.attention\.attention\.key(?=\.|$)", ".attention.k_proj"),
    (r"\.attention\.attention\.value(?=\.|$)", ".attention.v_proj"),
    (r"\.attention\.output\.dense(?=\.|$)", ".attention.o_proj"),
    (r"\.mlp\.weights_out(?=\.|$)", ".mlp.down_proj"),
)
_MODULES_OF_VIT = (
    *_MODULES,
    (r"(\.\d+)\.intermediate\.dense(?=\.|$)", r"\1.mlp.fc1"),
    (r"(\.\d+)\.output\.dense(?=\.|$)", r"\1.mlp.fc2"),
    (r"^(\w+)\.encoder\.layer\.", r"\1.layers."),
)


def hf_layout(
    model: Any, names: Mapping[str, str] | None = None, **colors: Any
) -> WeightLayout:
    """The naming of transformers.

    Args:
      model: a `vit.ViT` or one of its kin.
      names: further names than the model's.
      **colors: the fields mean and std.
    """
    names, root = {**model.names, **(names or {})}, f"{model.root}."
    has_old_mlp = names["mlp/in"] == HF_NAMES["mlp/in"]
    has_mask = "mask" in model.embedding_leaves()
    return WeightLayout(
        tuple(_rules(model, names, root)),
        ignored=(r".*relative_position_index",),
        unused=_UNUSED + (_MASK,) * (not has_mask),
        prefixes=("module.", root),
        renames=_NEW_NAMES + _NEW_MLP_NAMES * has_old_mlp,
        modules=_MODULES_OF_VIT if has_old_mlp else _MODULES,
        stem="embeddings/patch/kernel",
        **(colors or weight_layout.HALVES),
    )


def timm_layout(model: Any, **colors: Any) -> WeightLayout:
    """The naming of timm, which joins queries, keys and values."""
    names = TIMM_NAMES
    if model.block(0).gated:
        names = names | {"mlp/gate": "mlp.fc1[0]", "mlp/in": "mlp.fc1[1]"}
    return WeightLayout(
        tuple(_rules(model, names, "")),
        unused=(r"mask_token",),
        prefixes=("module.", "model."),
        stem="embeddings/patch/kernel",
        **(colors or weight_layout.HALVES),
    )


def _rules(model: Any, names: Mapping[str, str], root: str) -> list[Rule]:
    """Rules of all leaves, from the names of the parts behind `root`."""
    options = model.embedding_options()
    bias = options.get("bias", True)
    rules = weight_layout.conv(root + names["patch"], "embeddings/patch", bias)
    if options.get("epsilon") is not None:
        rules += weight_layout.norm(root + names["patch_norm"], "embeddings/norm")
    for part in model.embedding_leaves():
        rules.append(
            Rule(root + names[part], f"embeddings/{part}", model.shape_of(part))
        )
    if model.has_relative:
        rules.append(Rule(root + names["relative"], "embeddings/relative/table"))
    for i in range(model.layers):
        source = root + names["layer"].format(i)
        rules += block_layout.block_rules(model.block(i), names, source, f"layer_{i}")
    rules += weight_layout.norm(root + names["norm"], "norm/norm")
    for part in model.head_maps:
        source, path = names[f"head/{part}"], f"head/{part}"
        rules += weight_layout.linear(source, path, model.head_bias)
    return rules
