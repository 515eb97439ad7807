"""Masked-language modeling: predict words of a text that were hidden."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import PyTree, Tokens
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View

_EPSILON = 1e-12  # of the norm in BERT's head


def masked_words(
    key: jax.Array,
    ids: jax.Array,
    is_word: jax.Array,
    share: float | jax.Array,
    mask_id: int,
    vocab: int,
) -> tuple[jax.Array, jax.Array]:
    """Hides some words as BERT does: 80 % masked, 10 % other words, 10 % unchanged.

    Args:
      key: PRNG key.
      ids: (batch, length).
      is_word: (batch, length) bools; False for padding and special tokens.
      share: of the words that are chosen.
      mask_id: id of the mask token.
      vocab: number of ids that other words are drawn from.

    Returns:
      (The changed ids; bools, which words are chosen), (batch, length) each.

    References:
      Devlin et al., BERT, NAACL 2019, section 3.1 and appendix A.1.
    """
    keys = jax.random.split(key, 3)
    chosen = is_word & (jax.random.uniform(keys[0], ids.shape) < share)
    part = jax.random.uniform(keys[1], ids.shape)
    other = jax.random.randint(keys[2], ids.shape, 0, vocab, ids.dtype)
    changed = jnp.where(part < 0.8, mask_id, jnp.where(part < 0.9, other, ids))
    return jnp.where(chosen, changed, ids), chosen


def vocabulary_logits(params: PyTree, states: jax.Array, table: jax.Array) -> jax.Array:
    """BERT's head: an affine map, GELU, a norm, and the products with token vectors.

    Args:
      params: {"kernel", "bias", "scale", "shift", "output"}.
      states: (..., width).
      table: token vectors, (vocab, inner width).

    Returns:
      (..., vocab).
    """
    x = as_float32(states) @ params["kernel"] + params["bias"]
    x = jax.nn.gelu(x, approximate=False)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(variance + _EPSILON)
    x = x * params["scale"] + params["shift"]
    return x @ as_float32(table).T + params["output"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLanguageModel(Term):
    """Cross-entropy of words that were hidden from an encoder of texts.

    A model whose outputs are those of the vocabulary (`predict="mask"`) predicts with
    its own head; any other one with BERT's, which is then the term's own, tied to the
    model's token vectors. Mean over hidden words, in nats. Reports "accuracy" of them.

    Attributes:
      share: of the words of a text that are hidden.
      mask_id: id of the mask token; None takes the tokenizer's.
      stream: name of the stream; its labels are not used.

    References:
      Devlin, Chang, Lee, Toutanova, BERT, NAACL 2019; continued on a task's texts:
      Gururangan et al., Don't Stop Pretraining, ACL 2020.
    """

    trains_head: ClassVar[Any] = False

    weight: float | Schedule = traced(1.0)
    share: float = traced(0.15)
    mask_id: int | None = None
    stream: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        checks.number(setup, "share", self.share, 0.0, 1.0)
        x = next(iter(setup.batches(self.stream)))["x"]
        stages = setup.program.network.stages
        if not isinstance(x, dict) or getattr(x.get("input_ids"), "ndim", 0) != 2:
            raise UserError(
                f"terms.{setup.name}: MaskedLanguageModel hides words of tokenized "
                f"texts, and the stream {self.stream!r} has none."
            )
        table = _table(setup.params, stages)
        states = setup.features.get(_last_stage(setup))
        if table is None or not isinstance(states, Tokens):
            raise UserError(
                f"terms.{setup.name}: MaskedLanguageModel needs an encoder of "
                "texts with token vectors, such as tl.models.Bert; this model has the "
                f"stages {', '.join(stages)}."
            )
        mask = _mask_id(setup, self.mask_id)
        if not 0 <= mask < len(table):
            raise UserError(
                f"{checks.where(setup, 'mask_id')}={mask}: expected an id of the "
                f"model's {len(table)} token vectors."
            )

    def describe(self, setup: Setup) -> str:
        if _has_vocabulary(setup):
            return "hidden words are predicted by the model's own head"
        return "hidden words are predicted by a head of its own, tied to token vectors"

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        if _has_vocabulary(setup):
            return {}
        table: Any = _table(setup.params, setup.program.network.stages)
        rows = setup.features[_last_stage(setup)].states.shape[-1]
        columns = table.shape[1]
        return {
            "kernel": NORMAL(key, (rows, columns)),
            "bias": jnp.zeros(columns),
            "scale": jnp.ones(columns),
            "shift": jnp.zeros(columns),
            "output": jnp.zeros(len(table)),
        }

    def constants(self, setup: Setup) -> PyTree:
        special = () if setup.tokenizer is None else setup.tokenizer.special().values()
        table: Any = _table(setup.params, setup.program.network.stages)
        is_special = jnp.zeros(len(table), bool)
        return {
            "is_special": is_special.at[jnp.array([*special], int)].set(True),
            "mask_id": jnp.int32(_mask_id(setup, self.mask_id)),
        }

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        x, constants = context.batches[self.stream]["x"], context.constants
        ids, stages = x["input_ids"], context.program.network.stages
        is_real = x.get("attention_mask", jnp.ones_like(ids)).astype(bool)
        table: Any = _table(context.params, stages)
        keys = jax.random.split(context.key)
        changed, chosen = masked_words(
            keys[0],
            ids,
            is_real & ~constants["is_special"][ids],
            self.share,
            constants["mask_id"].astype(ids.dtype),
            len(table),
        )
        out = context.run({**x, "input_ids": changed}, key=keys[1])
        logits = out.logits
        if context.term_params:
            last = [n for n in stages if isinstance(out.features.get(n), Tokens)][-1]
            states = out.features[last].states
            logits = vocabulary_logits(context.term_params, states, table)
        log_p = losses.label_log_probabilities(logits, ids)
        weights = chosen.astype(log_p.dtype)
        hits = (jnp.argmax(logits, -1) == ids).astype(log_p.dtype)
        accuracy = jnp.sum(hits * weights) / jnp.maximum(jnp.sum(weights), 1)
        return -context.mean(log_p, weights), {"accuracy": accuracy}


def _table(params: PyTree, stages: tuple[str, ...]) -> jax.Array | None:
    """The model's token vectors, (vocab, width), None where it has none."""
    return trees.flatten(params).get(f"{stages[0]}/token/embedding")


def _last_stage(setup: Setup) -> str:
    """Name of the last stage whose output is a state of each token, "" for none."""
    stages = setup.program.network.stages
    names = [n for n in stages if isinstance(setup.features.get(n), Tokens)]
    return names[-1] if names else ""


def _has_vocabulary(setup: Setup) -> bool:
    """Whether the model's outputs are those of the vocabulary at each place."""
    stages = setup.program.network.stages
    table: Any = _table(setup.params, stages)
    shape: tuple[int, ...] = getattr(setup.features.get(stages[-1]), "shape", ())
    return len(shape) == 3 and shape[-1] == len(table)


def _mask_id(setup: Setup, mask_id: int | None) -> int:
    """The id of the mask token.

    Raises:
      UserError: there is none.
    """
    if mask_id is not None:
        return mask_id
    special = {} if setup.tokenizer is None else setup.tokenizer.special()
    masks = [i for name, i in special.items() if "mask" in name.lower()]
    if len(masks) != 1:
        raise UserError(
            f"{checks.where(setup, 'mask_id')}=None: the tokenizer has no mask token "
            f"(special tokens: {', '.join(special) or 'none'}); take one that does, "
            "such as BERT's, or name the id of a token that no text holds."
        )
    return masks[0]
