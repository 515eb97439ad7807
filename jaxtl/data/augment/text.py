"""Random changes to a batch of tokenized texts, pure, inside the compiled step.

Each is a frozen dataclass called with a key and {"input_ids", "attention_mask"} (and
"token_type_ids" of pairs), (batch, length) each; every text draws its own change.
Special tokens and padding stay what they are; texts are padded on the right. The
default ids are those of BERT's vocabularies; for others give
`special=tuple(tokenizer.special().values())`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError

# [PAD], [CLS] and [SEP] of BERT's English vocabularies, and [MASK].
SPECIAL_IDS = (0, 101, 102)
MASK_ID = 103


def words(x: dict, special: tuple[int, ...]) -> jax.Array:
    """Returns bools (batch, length): real tokens that are none of the special ones."""
    ids = x["input_ids"]
    mask = x.get("attention_mask", jnp.ones_like(ids)).astype(bool)
    return mask & ~jnp.isin(ids, jnp.asarray(special, ids.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OnWords:
    """What all share.

    Attributes:
      probability: that a word is changed.
      special: ids that are never touched, and never drawn.
    """

    probability: float = 0.1
    special: tuple[int, ...] = SPECIAL_IDS

    def __post_init__(self):
        if isinstance(self.special, list):
            object.__setattr__(self, "special", tuple(self.special))
        if not 0 <= self.probability <= 1:
            raise UserError(
                f"{type(self).__name__}.probability must lie in 0 to 1; got "
                f"{self.probability!r}."
            )

    def _chosen(self, key, x) -> jax.Array:
        if not isinstance(x, dict) or "input_ids" not in x:
            raise UserError(
                f"{type(self).__name__} needs tokenized texts, a dict with "
                f"'input_ids'; got {type(x).__name__}."
            )
        drawn = jax.random.bernoulli(key, self.probability, x["input_ids"].shape)
        return drawn & words(x, self.special)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordDropout(_OnWords):
    """Puts one id, [MASK] by default, in the place of some words.

    Attributes:
      probability: that a word is changed.
      special: ids that are never touched.
      to: the id; 100 is [UNK] in BERT's vocabularies.
    """

    to: int = MASK_ID

    def __call__(self, key: jax.Array, x: dict) -> dict:
        """Returns x with other ids."""
        chosen = self._chosen(key, x)
        return {**x, "input_ids": jnp.where(chosen, self.to, x["input_ids"])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordReplacement(_OnWords):
    """Puts words drawn from all words of the batch in the place of some.

    So frequent words come often: the unigram distribution of the batch. (UDA draws by
    TF-IDF, which needs the whole corpus.)

    Attributes:
      probability: that a word is changed.
      special: ids that are never touched, and never drawn.

    References:
      Xie et al., Unsupervised Data Augmentation for Consistency Training, NeurIPS 2020,
      section 2.2 (word replacing).
    """

    def __call__(self, key: jax.Array, x: dict) -> dict:
        """Returns x with other ids."""
        choosing, drawing = jax.random.split(key)
        chosen, ids = self._chosen(choosing, x), x["input_ids"]
        rank = jnp.cumsum(words(x, self.special).ravel())
        nth = jax.random.randint(drawing, ids.shape, 1, jnp.maximum(rank[-1], 1) + 1)
        drawn = ids.ravel()[jnp.searchsorted(rank, nth)]
        return {**x, "input_ids": jnp.where(chosen, drawn, ids)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordSwap(_OnWords):
    """Swaps some words with their right neighbours; no word moves by more than one.

    Attributes:
      probability: that a pair of neighbours is swapped. The pairs of a text don't
        overlap; a coin decides whether they begin at even or at odd places.
      special: ids that are never touched.
    """

    def __call__(self, key: jax.Array, x: dict) -> dict:
        """Returns x with ids in another order."""
        choosing, coin = jax.random.split(key)
        drawn, ids = self._chosen(choosing, x), x["input_ids"]
        parity = jax.random.bernoulli(coin, 0.5, (ids.shape[0], 1))
        place = jnp.arange(ids.shape[1])
        left = (place + parity) % 2 == 0
        both = words(x, self.special) & _next(words(x, self.special), False)
        first = drawn & left & both
        second = _before(first, False)
        swapped = jnp.where(first, _next(ids, 0), ids)
        return {**x, "input_ids": jnp.where(second, _before(ids, 0), swapped)}


def _next(values, end) -> jax.Array:
    return jnp.concatenate([values[:, 1:], jnp.full_like(values[:, :1], end)], 1)


def _before(values, start) -> jax.Array:
    return jnp.concatenate([jnp.full_like(values[:, :1], start), values[:, :-1]], 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordDeletion(_OnWords):
    """Takes some words out; the rest moves left and the mask becomes shorter.

    A text that would lose every word keeps its first.

    Attributes:
      probability: that a word is taken out.
      special: ids that are never touched.
      pad: id of the places that become free.
    """

    pad: int = 0

    def __call__(self, key: jax.Array, x: dict) -> dict:
        """Returns x, shorter texts in arrays of the same size."""
        chosen, every = self._chosen(key, x), words(x, self.special)
        bare = (chosen == every).all(1, keepdims=True)
        first = every & (jnp.cumsum(every, axis=1) == 1)
        mask = x.get("attention_mask", jnp.ones_like(x["input_ids"]))
        kept = mask.astype(bool) & ~(chosen & ~(bare & first))
        order = jnp.argsort(~kept, axis=1, stable=True)
        there = jnp.arange(kept.shape[1]) < kept.sum(1, keepdims=True)
        moved = {}
        for name, values in x.items():
            values = jnp.take_along_axis(values, order, axis=1)
            empty = self.pad if name == "input_ids" else 0
            moved[name] = jnp.where(there, values, jnp.asarray(empty, values.dtype))
        return {**moved, "attention_mask": there.astype(mask.dtype)}
