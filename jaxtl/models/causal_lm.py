"""Causal language models: what GPT-2 and Llama share, and generation with a cache."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core import token_ids
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree, Tokens
from jaxtl.models import staged
from jaxtl.models.layers import sequences, transformer

PREDICTS = ("next", "class")


class _NextTokenHead(nn.Module):
    """Logits of the next token at each place, (batch, length, vocab).

    Attributes:
      vocab: number of token ids.
      embeddings: the embedding stage whose table is the kernel; None for a kernel of
        the head's own.
    """

    vocab: int
    embeddings: Any = None

    @nn.compact
    def __call__(self, tokens: Tokens, mode: staged.Mode) -> jax.Array:
        if self.embeddings is not None:
            return self.embeddings.token.attend(tokens.states)
        dense = nn.Dense(
            self.vocab, use_bias=False, kernel_init=transformer.INIT, name="dense"
        )
        return dense(tokens.states)


class _LastTokenHead(nn.Module):
    """An affine map of the last real token's state, (batch, outputs), without bias."""

    outputs: int

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: staged.Mode) -> jax.Array:
        x = sequences.last_state(x) if isinstance(x, Tokens) else x
        dense = nn.Dense(
            self.outputs, use_bias=False, kernel_init=transformer.INIT, name="dense"
        )
        return dense(x)


class CausalLM(staged.Staged):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      vocab: number of token ids.
      width: of the states.
      layers, heads: their numbers.
      context: largest number of tokens of a text.
      predict: "next" for a language model, whose head has `vocab` outputs whatever
        `outputs` is; "class" for a classifier on the last real token.
      tied: whether the language model's head is the embedding table.
      epsilon: of the norms.
      pad: id of padding, which a classifier's inputs are compared with; None for none.
    """

    vocab: int = 50_257
    width: int = 768
    layers: int = 12
    heads: int = 12
    context: int = 1024
    predict: str = "next"
    tied: bool = True
    epsilon: float = 1e-5
    pad: int | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        return ("embeddings", *layers, "norm", "head")

    @property
    def kv_shape(self) -> tuple[int, int]:
        """Heads and width per head of cached keys and values."""
        return self.heads, self.width // self.heads

    def reduction(self) -> Callable[[Any], Any] | None:
        return sequences.last_state if self.predict == "class" else None

    @property
    def padding(self) -> int | None:
        """The id that a classifier's inputs are padded with, None to go by the mask."""
        return self.pad if self.predict == "class" else None

    def check_inputs(self, x: Any, owner: str) -> None:
        super().check_inputs(x, owner)
        token_ids.check_last_tokens(x, self.padding, owner)

    def id_sizes(self) -> dict[str, int]:
        return sequences.id_sizes(self.vocab)

    def add_head(self) -> None:
        """Registers the head that `predict` names."""
        staged.check_option("predict", self.predict, PREDICTS)
        if self.predict == "class":
            head = _LastTokenHead(self.outputs)
        else:
            head = _NextTokenHead(self.vocab, self.embeddings if self.tied else None)
        self.add("head", head)

    def decode(
        self,
        ids: jax.Array,
        step: transformer.DecodingStep,
        caches: list[transformer.KeyValueCache],
    ) -> tuple[jax.Array, list[transformer.KeyValueCache]]:
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


def generate(
    model: CausalLM,
    params: PyTree,
    prompts: Mapping[str, Any],
    tokens: int,
    *,
    temperature: float = 0.0,
    top: int | None = None,
    key: jax.Array | None = None,
    stop: int | None = None,
) -> jax.Array:
    """Continues texts, one token at a time, with cached keys and values.

    Args:
      model: with `predict="next"`.
      params: its parameters.
      prompts: {"input_ids", "attention_mask"} as for the model, padded on either side.
      tokens: number of tokens to add.
      temperature: 0 takes the most likely token; else logits / temperature are sampled.
      top: sample among this number of most likely tokens only.
      key: PRNG key, needed where temperature > 0.
      stop: id of the end; once a text has it, all its further tokens are this id.

    Returns:
      (batch, tokens) int32 ids, without the prompts.

    Raises:
      UserError: a model that does not predict the next token, a text that would become
        too long, a missing key, parameters of adapters or prompts.
    """
    ids, mask = sequences.token_inputs(prompts, model.id_sizes())
    if model.predict != "next":
        raise UserError(f"generate needs predict='next'; got {model.predict!r}.")
    sequences.check_length(ids.shape[1] + tokens, model.context)
    if temperature > 0 and key is None:
        raise UserError("generate with temperature > 0 needs key=jax.random.key(…).")
    if tokens < 1:
        raise UserError(f"tokens={tokens}: expected 1 or more to generate.")
    for stage, stage_params in params.items():
        if isinstance(stage_params, dict) and {"adapter", "prompt"} & set(stage_params):
            raise UserError(
                "generate runs the plain model and would ignore the adapter or prompt "
                f"in params[{stage!r}]; it can use LoRA, IA3, VeRA and prefixes."
            )
    key = jax.random.key(0) if key is None else key
    greedy = temperature == 0.0
    return _generate(
        model, params, ids, mask, tokens, greedy, top, stop, temperature, key
    )


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def _generate(
    model: CausalLM,
    params: PyTree,
    ids: jax.Array,
    mask: jax.Array,
    tokens: int,
    greedy: bool,
    top: int | None,
    stop: int | None,
    temperature: float,
    key: jax.Array,
) -> jax.Array:
    batch, length = ids.shape
    if model.dtype or model.param_dtype != "float32":
        params = staged.cast_tree(params, jnp.dtype(model.dtype or model.param_dtype))
    ids, mask = _padded_left(ids, mask)
    real = jnp.pad(mask, ((0, 0), (0, tokens)), constant_values=True)
    positions = sequences.token_positions(real)

    def logits_after(ids: jax.Array, index: jax.Array, caches: list) -> tuple:
        """Logits behind the new tokens, which are put at `index` of the caches."""
        new = jax.lax.dynamic_slice_in_dim(positions, index, ids.shape[1], 1)
        step = transformer.DecodingStep(index, real, new)
        logits, caches = model.apply(
            {"params": params}, ids, step, caches, method="decode"
        )
        return logits[:, -1], caches

    def pick(logits: jax.Array, key: jax.Array, ended: jax.Array) -> jax.Array:
        token = _sample(logits, greedy, top, temperature, key)
        return token if stop is None else jnp.where(ended, stop, token)

    def next_token(carry: tuple, t: jax.Array) -> tuple[tuple, jax.Array]:
        token, ended, caches = carry
        logits, caches = logits_after(token[:, None], length + t, caches)
        ended = ended | (token == stop) if stop is not None else ended
        token = pick(logits, jax.random.fold_in(key, t + 1), ended)
        return (token, ended, caches), token

    caches = _empty_caches(model, params, batch, length + tokens)
    logits, caches = logits_after(ids, jnp.int32(0), caches)
    ended = jnp.zeros(batch, bool)
    first = pick(logits, jax.random.fold_in(key, 0), ended)
    _, later = jax.lax.scan(next_token, (first, ended, caches), jnp.arange(tokens - 1))
    return jnp.concatenate([first[None], later]).T


def _padded_left(ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moves all padding to the left, so that every text ends at the same place."""
    shift = jnp.argmax(mask[:, ::-1], -1)
    ids, mask = (jax.vmap(jnp.roll)(x, shift) for x in (ids, mask))
    return ids, mask


def _empty_caches(
    model: CausalLM, params: PyTree, batch: int, length: int
) -> list[transformer.KeyValueCache]:
    """One cache per layer, in the dtype of the parameters."""
    dtype = jax.tree.leaves(params)[0].dtype
    zeros = jnp.zeros((batch, length, *model.kv_shape), dtype)
    return [transformer.KeyValueCache(zeros, zeros) for _ in range(model.layers)]


def _sample(
    logits: jax.Array, greedy: bool, top: int | None, temperature: float, key: jax.Array
) -> jax.Array:
    """One token id per text, (batch,) int32, from logits (batch, vocab)."""
    if greedy:
        return logits.argmax(-1).astype(jnp.int32)
    if top is not None:
        least = jax.lax.top_k(logits, top)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)
