"""Random changes to a batch of tokenized texts: pure functions, for the compiled step.

Each is a frozen dataclass called with a key and {"input_ids", "attention_mask"} (and
"token_type_ids" of pairs), (batch, length) each; the changes of the texts are
independent. Special tokens and padding are never changed; texts are padded on the
right. The default ids are those of BERT's vocabularies; for others give
`special=tuple(tokenizer.special().values())`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError

# [PAD], [CLS] and [SEP] of BERT's English vocabularies, and [MASK].
SPECIAL_IDS = (0, 101, 102)
_MASK_ID = 103


def _is_word(x: dict[str, jax.Array], special: tuple[int, ...]) -> jax.Array:
    """Bools (batch, length): True for tokens that are neither padding nor special."""
    ids = x["input_ids"]
    mask = x.get("attention_mask", jnp.ones_like(ids)).astype(bool)
    return mask & ~jnp.isin(ids, jnp.asarray(special, ids.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WordAugmentation:
    """Base class: draws the words that are changed.

    Attributes:
      probability: that a word is changed.
      special: ids that are never changed, and never drawn.
    """

    # Of images with texts it gets all inputs, where other operations get the image.
    of_texts: ClassVar[bool] = True

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

    def _draw_words(self, key: jax.Array, x: dict[str, jax.Array]) -> jax.Array:
        """Draws the words to change, bools (batch, length)."""
        if not isinstance(x, dict) or "input_ids" not in x:
            raise UserError(
                f"{type(self).__name__} needs tokenized texts, a dict with "
                f"'input_ids'; got {type(x).__name__}."
            )
        drawn = jax.random.bernoulli(key, self.probability, x["input_ids"].shape)
        return drawn & _is_word(x, self.special)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordDropout(_WordAugmentation):
    """Replaces some words by one id, [MASK] by default.

    Attributes:
      probability: that a word is changed.
      special: ids that are never changed.
      to: the new id; 100 is [UNK] in BERT's vocabularies.
    """

    to: int = _MASK_ID

    def __call__(self, key: jax.Array, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Replaces ids of x; the mask is unchanged."""
        dropped = self._draw_words(key, x)
        return {**x, "input_ids": jnp.where(dropped, self.to, x["input_ids"])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordReplacement(_WordAugmentation):
    """Replaces some words by words drawn from all words of the batch.

    New words follow the unigram distribution of the batch, so frequent words are drawn
    often. (UDA draws by TF-IDF, which needs the whole corpus.)

    Attributes:
      probability: that a word is changed.
      special: ids that are never changed, and never drawn.

    References:
      Xie et al., Unsupervised Data Augmentation for Consistency Training, NeurIPS 2020,
      section 2.2 (word replacing).
    """

    def __call__(self, key: jax.Array, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Replaces ids of x; the mask is unchanged."""
        position_key, word_key = jax.random.split(key)
        replaced, ids = self._draw_words(position_key, x), x["input_ids"]
        # The number of words up to each token: word k is the first token of rank k.
        rank = jnp.cumsum(_is_word(x, self.special).ravel())
        drawn = jax.random.randint(word_key, ids.shape, 1, jnp.maximum(rank[-1], 1) + 1)
        new_ids = ids.ravel()[jnp.searchsorted(rank, drawn)]
        return {**x, "input_ids": jnp.where(replaced, new_ids, ids)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordSwap(_WordAugmentation):
    """Swaps some words with their right neighbors; no word moves by more than one.

    Attributes:
      probability: that a pair of neighbors is swapped. The pairs of a text don't
        overlap; a coin flip decides whether they start at even or at odd positions.
      special: ids that are never changed.
    """

    def __call__(self, key: jax.Array, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Swaps ids of x; the mask is unchanged."""
        word_key, parity_key = jax.random.split(key)
        drawn, ids = self._draw_words(word_key, x), x["input_ids"]
        parity = jax.random.bernoulli(parity_key, 0.5, (ids.shape[0], 1))
        is_left = (jnp.arange(ids.shape[1]) + parity) % 2 == 0
        is_word = _is_word(x, self.special)
        first = drawn & is_left & is_word & _shift_left(is_word, False)
        second = _shift_right(first, False)
        swapped = jnp.where(first, _shift_left(ids, 0), ids)
        return {**x, "input_ids": jnp.where(second, _shift_right(ids, 0), swapped)}


def _shift_left(values: jax.Array, fill: int | bool) -> jax.Array:
    return jnp.concatenate([values[:, 1:], jnp.full_like(values[:, :1], fill)], 1)


def _shift_right(values: jax.Array, fill: int | bool) -> jax.Array:
    return jnp.concatenate([jnp.full_like(values[:, :1], fill), values[:, :-1]], 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordDeletion(_WordAugmentation):
    """Deletes some words; later words move left and the mask becomes shorter.

    A text that would lose all of its words keeps the first.

    Attributes:
      probability: that a word is deleted.
      special: ids that are never changed.
      pad: id of the positions that become free.
    """

    pad: int = 0

    def __call__(self, key: jax.Array, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Shortens the texts of x in arrays of the same size."""
        deleted, is_word = self._draw_words(key, x), _is_word(x, self.special)
        loses_all = (deleted == is_word).all(1, keepdims=True)
        is_first = is_word & (jnp.cumsum(is_word, axis=1) == 1)
        mask = x.get("attention_mask", jnp.ones_like(x["input_ids"]))
        stays = mask.astype(bool) & ~(deleted & ~(loses_all & is_first))
        order = jnp.argsort(~stays, axis=1, stable=True)
        new_mask = jnp.arange(stays.shape[1]) < stays.sum(1, keepdims=True)
        shortened = {}
        for name, values in x.items():
            values = jnp.take_along_axis(values, order, axis=1)
            fill = self.pad if name == "input_ids" else 0
            fill = jnp.asarray(fill, values.dtype)
            shortened[name] = jnp.where(new_mask, values, fill)
        return {**shortened, "attention_mask": new_mask.astype(mask.dtype)}
