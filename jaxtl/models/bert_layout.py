"""Names of encoders' weights in transformers."""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import block_layout, weight_layout
from jaxtl.models.weight_layout import Rule, WeightLayout

# Path -> name; "layer" has a place for its number. "classifier" is the affine map of a
# head of texts or tokens without an inner layer, "inner" and "outer" are the maps of
# one with it, "span" is that of spans, "mask/…" are the parts of a head of the
# vocabulary.
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
    "span": "qa_outputs",
    "mask/inner": "cls.predictions.transform.dense",
    "mask/norm": "cls.predictions.transform.LayerNorm",
    "mask/dense": "cls.predictions.decoder",
    "mask/bias": "cls.predictions.bias",
}
ROBERTA_HEAD = {
    "mask/inner": "lm_head.dense",
    "mask/norm": "lm_head.layer_norm",
    "mask/dense": "lm_head.decoder",
    "mask/bias": "lm_head.bias",
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
_HEADS = ("classifier", "inner", "outer", "vocabulary")
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
            rules += block_layout.block_rules(model.block(i), names, source, path)
    if model.final_kind:
        source = root + names["norm/norm"]
        rules += block_layout.norm_rules(model.final_kind, source, "norm/norm")
    unused = [*_UNUSED, *(rf"{names[n]}\.(weight|bias)" for n in _HEADS if n in names)]
    if model.has_pooler:
        rules += weight_layout.linear(model.pooler_name, "pooler/dense")
    else:
        unused.append(rf"({root})?pooler\.(dense\.)?(weight|bias)")
    head, copies, duplicates = _head_rules(model)
    return WeightLayout(
        tuple(rules + head),
        ignored=(r".*position_ids", r".*token_type_ids"),
        unused=tuple(unused),
        prefixes=("module.", root),
        renames=_OLD_NAMES,
        copies=copies,
        duplicates=duplicates,
        optional=("pooler",) * model.has_pooler,
    )


def head_names(
    names: Mapping[str, str], predict: str, has_inner: bool
) -> dict[str, str]:
    """Parts of a head ("inner", "norm", "dense", "bias") -> their names.

    Args:
      names: of all parts of the model.
      predict: what the head predicts.
      has_inner: whether a head of texts has an inner layer.
    """
    if predict in ("mask", "next"):
        parts = ("inner", "norm", "dense", "bias")
        return {part: names[f"mask/{part}"] for part in parts}
    if predict == "span":
        return {"dense": names["span"]}
    if has_inner:
        return {"inner": names["inner"], "dense": names["outer"]}
    return {"dense": names["classifier"]}


def _head_rules(model: Any) -> tuple[list[Rule], dict[str, str], dict[str, str]]:
    """Rules of the head, and `WeightLayout.copies` and `.duplicates` of it."""
    options, names = model.head_options(), model.head_names
    rules, dense = [], names["dense"]
    if options.inner:
        bias = options.inner_bias
        rules += weight_layout.linear(names["inner"], "head/inner", bias)
    if options.norm:
        rules += block_layout.norm_rules(options.norm, names["norm"], "head/norm")
    bias = names.get("bias", f"{dense}.bias")
    if not options.tied:
        rules += weight_layout.linear(dense, "head/dense", options.bias)
        separate = bias != f"{dense}.bias"
        return rules, {}, {bias: "head/dense/bias"} if separate else {}
    copies = {f"{dense}.weight": "embeddings/token/embedding"}
    if options.bias:
        rules.append(Rule(bias, "head/bias"))
        if bias != f"{dense}.bias":
            copies[f"{dense}.bias"] = "head/bias"
    return rules, copies, {}


def _embedding_rules(model: Any) -> list[Rule]:
    """Rules of the first stage."""
    names, root = model.names, f"{model.root}."
    tables = ["token"] + ["position"] * model.has_positions
    tables += ["segment"] * bool(model.segments)
    tables += ["relative"] if model.has_relative else []
    rules = [
        Rule(f"{root}{names[f'embeddings/{t}']}.weight", f"embeddings/{t}/embedding")
        for t in tables
    ]
    source, kind = root + names["embeddings/norm"], model.embeddings_kind
    rules += block_layout.norm_rules(kind, source, "embeddings/norm")
    if model.inner_width is not None:
        source, bias = root + names["embeddings/project"], not model.projects_first
        rules += weight_layout.linear(source, "embeddings/project", bias)
    return rules
