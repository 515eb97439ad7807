"""Tables of the keys of a config.json: honored, without effect, or refused by value.

Each family has one table. A key in no part of it is refused by name: what it would
change is not known.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtl.core import key_table
from jaxtl.core.errors import UserError, nearest
from jaxtl.models import config_values as values

_REQUIRED = object()


class Key(NamedTuple):
    """A key that decides a field of the model.

    Attributes:
      field: name of the model's field.
      read: `(key, value) -> the field's value`; raises UserError.
      default: the field's value where the key is missing; such a key must be there if
        it has none.
    """

    field: str
    read: Callable[[str, Any], Any]
    default: Any = _REQUIRED


class Only(NamedTuple):
    """Values of a key that are supported.

    Attributes:
      values: the values, null among them where it means one of them.
      otherwise: what another value would mean.
    """

    values: tuple[Any, ...]
    otherwise: str


@dataclasses.dataclass(frozen=True)
class ConfigTable:
    """What a family does with each key of its config.json.

    Attributes:
      family: the `model_type`, for messages.
      honored: key -> field of the model.
      read_by_family: keys that the family's `from_config` reads itself.
      harmless: key -> why none of its values changes what the model predicts.
      only: key -> the values that are supported.
      aliases: second name of a key -> the key.
      stem: of the names of transformers' classes, "" for none.
      predicts: what those have heads for: `predict` of the model, None for images.
      classes: `predict` -> class with another ending than the usual one.
      parts: key -> table of the configuration that it holds; a second key, with the
        ending "_dict", replaces it, as in transformers.
      inside: `predict` -> `model_type` of the configuration that holds this one where
        transformers has a model with such a head.
    """

    family: str
    honored: Mapping[str, Key]
    read_by_family: tuple[str, ...] = ()
    harmless: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only: Mapping[str, Only] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stem: str = ""
    predicts: tuple[str | None, ...] = ()
    classes: Mapping[str | None, str] = dataclasses.field(default_factory=dict)
    parts: "Mapping[str, ConfigTable]" = dataclasses.field(default_factory=dict)
    inside: Mapping[str | None, str] = dataclasses.field(default_factory=dict)

    def class_name(self, predict: str | None) -> str | None:
        """The class of transformers with a head for this, None where it has none."""
        if predict not in self.predicts:
            return None
        ending = _ENDINGS.get(predict, "")
        return self.classes.get(predict, f"{self.stem}{ending}")

    @functools.cached_property
    def all_harmless(self) -> Mapping[str, str]:
        """`harmless` with what has no effect in any family."""
        special = {*self.honored, *self.read_by_family, *self.only}
        return {
            k: v for k, v in {**_HARMLESS, **self.harmless}.items() if k not in special
        }

    @functools.cached_property
    def all_only(self) -> Mapping[str, Only]:
        """`only` with what is restricted in every family."""
        special = {*self.honored, *self.read_by_family, *self.harmless}
        return {k: v for k, v in {**_ONLY, **self.only}.items() if k not in special}

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """All keys of the table."""
        parts = (self.honored, self.read_by_family, self.aliases)
        held = (name for key in self.parts for name in (key, f"{key}_dict"))
        return frozenset(held).union(*parts, self.all_harmless, self.all_only)

    def part(self, config: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The configuration that a key of another one holds, {} for none.

        Raises:
          UserError: it is of another type, or no object.
        """
        where, expected = f"config.json of type {self.family!r}", self.parts[key].family
        # The second key counts, where both are there.
        names = [n for n in (f"{key}_dict", key) if config.get(n) is not None]
        if not names:
            return {}
        content = config[names[0]]
        if not isinstance(content, Mapping):
            shown = values.shown(content)
            raise UserError(f"{where}: {names[0]} is {shown}; expected an object.")
        kind = content.get("model_type") or expected
        if kind != expected:
            raise UserError(
                f"{where}: {names[0]} is of type {kind!r}; expected {expected!r}."
            )
        return dict(content)

    def fields(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The model's fields that a config.json decides.

        Raises:
          UserError: a key or a value that is not supported, a contradiction.
          KeyError: an entry that is missing.
        """
        config = self.without_aliases(config)
        self.check(config)
        fields = {}
        for name, (field, read, default) in self.honored.items():
            if config.get(name, default) is default and default is not _REQUIRED:
                fields[field] = default
            else:
                fields[field] = read(name, config[name])
        return fields

    def without_aliases(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The content with each key under its first name.

        Raises:
          UserError: a key with two values under its two names.
        """
        renamed = {k: v for k, v in config.items() if k not in self.aliases}
        for alias, name in self.aliases.items():
            if (
                alias in config
                and renamed.setdefault(name, config[alias]) != (config[alias])
            ):
                raise UserError(
                    f"config.json of type {self.family!r}: {alias} is "
                    f"{config[alias]!r} and {name}, another name of it, is "
                    f"{renamed[name]!r}; expected the same value."
                )
        return renamed

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises UserError for an unknown key, or one with an unsupported value.

        An unknown key that is null sets nothing and is passed over.
        """
        where = f"config.json of type {self.family!r}"
        for name, value in config.items():
            if name not in self.known and value is not None:
                advice = nearest(name, sorted(self.known))
                raise UserError(
                    f"{where}: the key {name!r} ({values.shown(value)}) is unknown"
                    f"{advice or ', and may change what the model computes.'}"
                )
        for name, (supported, otherwise) in self.all_only.items():
            if name in config and not key_table.is_among(config[name], supported):
                expected = " or ".join(map(values.shown, supported))
                raise UserError(
                    f"{where}: {name} {values.shown(config[name])} is not supported "
                    f"({otherwise}); expected {expected}."
                )
        code = [k for k in config.get("auto_map") or () if k in _MODEL_CODE]
        if code:
            raise UserError(
                f"{where}: auto_map names {values.shown(config['auto_map'][code[0]])}, "
                "code in the directory that defines another model; it is not run."
            )


# `predict` of a model, None for images -> ending of the class in transformers.
_ENDINGS = {
    "class": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
    "choice": "ForMultipleChoice",
    "mask": "ForMaskedLM",
    "next": "ForCausalLM",
    None: "ForImageClassification",
}

# Entries of auto_map that replace the model; others replace the tokenizer.
_MODEL_CODE = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)

_FORM = "the form of transformers' output objects"
_GENERATION = "generation; the arguments of generate decide"
_TASK = "the data and the experiment's task decide"
_ORIGIN = "a note on where the file comes from"
_MEMORY = "memory and speed of training in transformers"

# Keys of `transformers.PreTrainedConfig`, today's and those of older versions.
_HARMLESS = {
    **dict.fromkeys(
        (
            "model_type",
            "_name_or_path",
            "name_or_path",
            "_commit_hash",
            "transformers_version",
            "finetuning_task",
            "tokenizer_class",
            "keys_to_ignore_at_inference",
            "unsloth_version",
            "unsloth_fixed",
            "transformers.js_config",
            "language",
            "name",
        ),
        _ORIGIN,
    ),
    **dict.fromkeys(
        ("sbert_ce_default_activation_function", "sentence_transformers"),
        "what a cross-encoder of sentence-transformers applies to the logits",
    ),
    **dict.fromkeys(
        (
            "output_hidden_states",
            "output_attentions",
            "output_scores",
            "output_past",
            "return_dict",
            "use_return_dict",
            "return_dict_in_generate",
        ),
        _FORM,
    ),
    **dict.fromkeys(
        ("problem_type", "task_specific_params", "prefix"),
        _TASK,
    ),
    # read by `registry.head_outputs`, and by whoever names the outputs
    **dict.fromkeys(
        ("architectures", "id2label", "label2id", "num_labels", "_num_labels"),
        "read for the head and its class names",
    ),
    **dict.fromkeys(
        (
            "max_length",
            "min_length",
            "do_sample",
            "early_stopping",
            "num_beams",
            "num_beam_groups",
            "diversity_penalty",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "repetition_penalty",
            "length_penalty",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
            "bad_words_ids",
            "num_return_sequences",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "remove_invalid_values",
            "exponential_decay_length_penalty",
            "suppress_tokens",
            "begin_suppress_tokens",
            "decoder_start_token_id",
            "use_cache",
        ),
        _GENERATION,
    ),
    **dict.fromkeys(
        (
            "torchscript",
            "_flash_attn_2_enabled",
            "tf_legacy_loss",
            "xla_device",
            "gradient_checkpointing",
            "chunk_size_feed_forward",
            "attn_implementation",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_attn_implementation_internal",
            "_experts_implementation_internal",
            "experts_implementation",
        ),
        _MEMORY,
    ),
    **dict.fromkeys(
        ("dtype", "torch_dtype", "use_bfloat16"),
        "weights are cast to the model's param_dtype",
    ),
    **dict.fromkeys(
        (
            "bos_token_id",
            "eos_token_id",
            "eos_token_ids",
            "pad_token_id",
            "sep_token_id",
        ),
        "the tokenizer decides on special tokens",
    ),
    "auto_map": "entries that replace the model are refused by `ConfigTable.check`",
    "tie_word_embeddings": "there is no head of the vocabulary",
    "initializer_range": "spread of new weights; jaxtl's layers have their own",
}

_ONLY = {
    "is_decoder": Only((False, None), "a model that attends to earlier tokens alone"),
    "add_cross_attention": Only((False, None), "attention to another model's states"),
    "is_encoder_decoder": Only((False, None), "a model of an encoder and a decoder"),
    "tie_encoder_decoder": Only((False, None), "a model of an encoder and a decoder"),
    "cross_attention_hidden_size": Only((None,), "attention to another model's states"),
    "pruned_heads": Only(({}, [], None), "heads were removed from some layers"),
    "quantization_config": Only((None,), "the weights are stored quantized"),
    "compression_config": Only((None,), "the weights are stored compressed"),
    "per_layer_config": Only(({}, None), "layers that differ from each other"),
    "custom_pipelines": Only(({}, None), "code of the directory's own"),
}
