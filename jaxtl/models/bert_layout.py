"""Names of encoders' weights in transformers."""

from typing import Any

from jaxtl.models import block_layout, weight_layout
from jaxtl.models.weight_layout import Rule, WeightLayout

# Path -> name; "layer" has a place for its number. "classifier" is the affine map of a
# head without an inner layer, "inner" and "outer" are the maps of one with it.
BERT_NAMES = {
    "embeddings/token": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/segment": "embeddings.token_type_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "layer": "encoder.layer.{}",
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/in": "intermediate.dense",
    "mlp/out": "output.dense",
    "mlp_norm": "output.LayerNorm",
    "pooler": "pooler.dense",
    "classifier": "classifier",
    "inner": "classifier.dense",
    "outer": "classifier.out_proj",
}
# Heads of other tasks, and attention to another model, have no place here.
_UNUSED = (
    r"cls\..*",
    r"lm_head\..*",
    r"qa_outputs\..*",
    r"(vocab_\w+|sequence_summary|sop_classifier\.classifier|predictions)\..*",
    r"(discriminator_predictions|generator_predictions|generator_lm_head)\..*",
    r".*\.crossattention\..*",
)
# TensorFlow's names of the norms, as in the published files of bert-base-uncased.
_OLD_NAMES = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)


def encoder_layout(model: Any) -> WeightLayout:
    """The naming of transformers, for `bert.Bert` and its kin."""
    names, root = model.names, f"{model.root}."
    rules = _embedding_rules(model)
    for i in range(model.layers):
        source, path = root + model.layer_name(i), f"layer_{i}"
        if model.source_layer(i) == i:
            rules += block_layout.block_rules(model.block(), names, source, path)
    unused = list(_UNUSED)
    if model.has_pooler:
        rules += weight_layout.linear(root + names["pooler"], "pooler/dense")
    else:
        unused.append(rf"({root})?pooler\.(dense\.)?(weight|bias)")
    parts = {"inner": "head/inner", "outer": "head/dense"}
    parts = parts if model.inner else {"classifier": "head/dense"}
    for part, path in parts.items():
        rules += weight_layout.linear(names[part], path)
    # Names of a head that predicts something else.
    sources = {names[part] for part in parts}
    others = {names[part] for part in ("classifier", "inner", "outer")} - sources
    unused += [rf"{name}\.(weight|bias)" for name in sorted(others)]
    return WeightLayout(
        tuple(rules),
        ignored=(r".*position_ids", r".*token_type_ids"),
        unused=tuple(unused),
        prefixes=("module.", root),
        renames=_OLD_NAMES,
        optional=("pooler",) * model.has_pooler,
    )


def _embedding_rules(model: Any) -> list[Rule]:
    """Rules of the first stage."""
    names, root = model.names, f"{model.root}."
    tables = (
        ["token", "position", "segment"] if model.segments else ["token", "position"]
    )
    tables += ["relative"] if model.has_relative else []
    rules = [
        Rule(f"{root}{names[f'embeddings/{t}']}.weight", f"embeddings/{t}/embedding")
        for t in tables
    ]
    rules += weight_layout.norm(root + names["embeddings/norm"], "embeddings/norm")
    if model.inner_width is not None:
        source = root + names["embeddings/project"]
        rules += weight_layout.linear(source, "embeddings/project")
    return rules
