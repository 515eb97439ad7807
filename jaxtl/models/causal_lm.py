"""Causal language models: their embeddings, layers, heads and weight layout."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core import token_ids
from jaxtl.core.tensor_rules import TensorRules
from jaxtl.core.types import Tokens
from jaxtl.models import block_layout, staged, tensor_layout, weight_layout
from jaxtl.models.layers import attention, sequences, transformer
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.embeddings import DecoderEmbeddings, EmbeddingOptions
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.weight_layout import Rule, WeightLayout

PREDICTS = ("next", "class", "token", "span")
_OF_TOKENS = ("token", "span")


class _NextTokenHead(nn.Module):
    """Logits of the next token at each place, (batch, length, vocab).

    Attributes:
      vocab: number of token ids.
      embeddings: the embedding stage whose table is the kernel; None for a kernel of
        the head's own.
      softcap: c of c · tanh(logit / c); None for plain logits.
    """

    vocab: int
    embeddings: Any = None
    softcap: float | None = None

    @nn.compact
    def __call__(self, tokens: Tokens, mode: staged.Mode) -> jax.Array:
        if self.embeddings is not None:
            logits = self.embeddings.token.attend(tokens.states)
        else:
            dense = Dense(self.vocab, use_bias=False, kernel_init=NORMAL, name="dense")
            logits = dense(tokens.states)
        if self.softcap is None:
            return logits
        return self.softcap * jnp.tanh(logits / self.softcap)


class _ClassHead(nn.Module):
    """An affine map of states: of the last real token, without bias, or of each token.

    Attributes:
      outputs: width.
      each: whether each token has outputs, (batch, length, outputs), with a bias.
      dropout: rate before it.
    """

    outputs: int
    each: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: staged.Mode) -> jax.Array:
        if isinstance(x, Tokens):
            x = x.states if self.each else sequences.last_state(x)
        x = staged.Dropout(self.dropout, name="dropout")(x, mode)
        return Dense(
            self.outputs, use_bias=self.each, kernel_init=NORMAL, name="dense"
        )(x)


class CausalLM(staged.Staged):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    A family gives its layers (`block`), its embeddings and the names of its weights.

    Attributes:
      vocab: number of token ids.
      width: of the states.
      layers, heads: their numbers.
      context: largest number of tokens of a text.
      predict: "next" for a language model, whose head has `vocab` outputs whatever
        `outputs` is; "class" for a classifier on the last real token; "token" for
        outputs of each token; "span" for the logits of an answer's first and last
        token, (batch, length, 2) whatever `outputs` is.
      tied: whether the language model's head is the embedding table.
      epsilon: of the norms.
      pad: id of padding, which a classifier's inputs are compared with; None for none.
      head_dropout: before the outputs of each token.
    """

    READS: ClassVar[str] = "texts"
    PREDICTS: ClassVar[tuple[str, ...]] = PREDICTS

    vocab: int = 50_257
    width: int = 768
    layers: int = 12
    heads: int = 12
    context: int = 1024
    predict: str = "next"
    tied: bool = True
    epsilon: float = 1e-5
    pad: int | None = None
    head_dropout: float = 0.1

    # Names of the weights in transformers: "root" of all but the heads; "layer" with
    # a place for its number; parts of a layer by path; "next", "class" and "token" for
    # the heads.
    names: ClassVar[Mapping[str, str]]
    # Root of all but the head of spans, "" for that of the others.
    span_root: ClassVar[str] = ""
    # Of the kernels in files.
    transform: ClassVar[str] = "linear"
    # Kind of the norms, a key of `norms.NORMS`.
    norm_kind: ClassVar[str] = "layer"
    # (pattern, replacement) of names that other versions of transformers wrote.
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    # Tensors that no pass reads.
    buffers: ClassVar[tuple[str, ...]] = (r".*rotary_emb\.inv_freq",)

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        return ("embeddings", *layers, "norm", "head")

    def block(self, layer: int) -> transformer.Block:
        """What the layer of this index computes."""
        raise TypeError(f"{type(self).__name__} does not define its layers")

    def embedding_options(self, **options: Any) -> EmbeddingOptions:
        """What the first stage computes."""
        return EmbeddingOptions(
            vocab=self.vocab,
            width=self.width,
            context=self.context,
            pad=self.padding,
            **options,
        )

    @property
    def final_kind(self) -> str:
        """Kind of the norm in the stage before the head, "" for none."""
        return self.norm_kind

    @property
    def final_width(self) -> int | None:
        """Width of the projection in the stage before the head, None for none."""
        return None

    @property
    def final_softcap(self) -> float | None:
        """c of c · tanh(logit / c) in the language model's head, None for none."""
        return None

    def setup(self) -> None:
        staged.check_option("predict", self.predict, self.PREDICTS)
        self.add("embeddings", DecoderEmbeddings(self.embedding_options()))
        for i in range(self.layers):
            block = self.block(i)
            if block.head_width is None:
                transformer.check_heads(self.width, self.heads)
            transformer.check_heads(self.heads * 2, self.heads, block.kv_heads)
            self.add(f"layer_{i}", transformer.TransformerLayer(block))
        final = transformer.FinalNorm(self.epsilon, self.final_kind, self.final_width)
        self.add("norm", final)
        if self.predict == "next":
            table = self.embeddings if self.tied else None
            head = _NextTokenHead(self.vocab, table, self.final_softcap)
        else:
            outputs = 2 if self.predict == "span" else self.outputs
            dropout = self.head_dropout if self.predict == "token" else 0.0
            head = _ClassHead(outputs, self.predict in _OF_TOKENS, dropout)
        self.add("head", head)

    @property
    def kv_shape(self) -> tuple[int, int]:
        """Heads and width per head of cached keys and values."""
        block = self.block(0)
        size = block.head_width or self.width // self.heads
        return block.kv_heads or self.heads, size

    def reduction(self) -> Callable[[Any], Any] | None:
        return sequences.last_state if self.predict == "class" else None

    @property
    def padding(self) -> int | None:
        """The id that a classifier's inputs are padded with, None to go by the mask."""
        return self.pad if self.predict == "class" else None

    def tensor_rules(self) -> TensorRules:
        vocabulary = [("embeddings/token/embedding", 0)]
        if self.predict == "next" and not self.tied:
            vocabulary.append(("head/dense/kernel", 1))
        blocks = map(self.block, range(self.layers))
        return tensor_layout.transformer_rules(blocks, vocabulary)

    def check_inputs(self, x: Any, owner: str) -> None:
        super().check_inputs(x, owner)
        token_ids.check_last_tokens(x, self.padding, owner)

    def id_sizes(self) -> dict[str, int]:
        return sequences.id_sizes(self.vocab)

    def decode(
        self,
        ids: jax.Array,
        step: attention.DecodingStep,
        caches: list[attention.KeyValueCache],
    ) -> tuple[jax.Array, list[attention.KeyValueCache]]:
        """Runs new tokens against the caches.

        Args:
          ids: (batch, new) int32.
          step: their position in the cache.
          caches: one per layer.

        Returns:
          Logits (batch, new, vocab) in float32, and the new caches.
        """
        mask = jnp.ones(ids.shape, bool)
        states, new_caches = self.embeddings.embed(ids, step.positions), []
        for i, cache in enumerate(caches):
            layer = getattr(self, f"layer_{i}")
            states, cache = layer.run(states, mask, staged.Mode(), step, cache)
            new_caches.append(cache)
        tokens = self.norm(Tokens(states, mask), staged.Mode())
        return self.head(tokens, staged.Mode()).astype(jnp.float32), new_caches

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": layout(self, self.names)}


def layout(model: CausalLM, names: Mapping[str, str]) -> WeightLayout:
    """The layout with these names, see `CausalLM.names`."""
    is_own_root = model.predict == "span" and names is model.names
    names = {"span": "qa_outputs", **names}
    root = (model.span_root if is_own_root else "") or names["root"]
    embeddings = model.embedding_options()
    table = f"{root}{names['embeddings/token']}.weight"
    rules = [Rule(table, "embeddings/token/embedding")]
    if embeddings.positions:
        source = f"{root}{names['embeddings/position']}.weight"
        rules.append(Rule(source, "embeddings/position/embedding"))
    if embeddings.inner_width is not None:
        source = f"{root}{names['embeddings/project']}"
        rules += weight_layout.linear(source, "embeddings/project", bias=False)
    for i in range(model.layers):
        source = root + names["layer"].format(i)
        rules += block_layout.block_rules(
            model.block(i), names, source, f"layer_{i}", model.transform
        )
    if model.final_kind:
        source = root + names["norm/norm"]
        rules += block_layout.norm_rules(model.final_kind, source, "norm/norm")
    if model.final_width is not None:
        source = root + names["norm/project"]
        rules += weight_layout.linear(source, "norm/project", bias=False)
    copies = {}
    if model.predict == "next" and model.tied:
        copies = {f"{names['next']}.weight": "embeddings/token/embedding"}
    else:
        each = model.predict in _OF_TOKENS
        rules += weight_layout.linear(names[model.predict], "head/dense", bias=each)
    # Heads of other tasks, and attention to another model's states.
    others = [names[head] for head in PREDICTS if head in names]
    unused = [rf"{name}\.(weight|bias)" for name in others]
    unused += [
        r"(classifier|(model\.|transformer\.)?qa_outputs)\.(weight|bias)",
        r"multiple_choice_head\..*",
        r".*\.(crossattention|ln_cross_attn)\..*",
    ]
    return WeightLayout(
        tuple(rules),
        ignored=model.buffers,
        unused=tuple(unused),
        prefixes=("module.", *_prefixes(names["root"]), "transformer."),
        renames=model.renames,
        copies=copies,
    )


def _prefixes(root: str) -> list[str]:
    """The parts of a root that a file may have or lack: "a.", "b." of "a.b."."""
    return [f"{part}." for part in root.split(".") if part]
