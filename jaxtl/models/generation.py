"""Continuation of texts by causal language models, with cached keys and values."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.models import staged
from jaxtl.models.causal_lm import CausalLM
from jaxtl.models.layers import attention, sequences


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
    if not hasattr(model, "decode"):
        raise UserError(
            f"generate runs decoders alone; {type(model).__name__} is an encoder."
        )
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
    ids, mask = _padded_left(ids, mask)
    ended, parts = jnp.zeros(len(ids), bool), []
    for i, number in enumerate(_parts(model, mask, tokens)):
        part_key = jax.random.fold_in(key, tokens + i) if i else key
        options = (number, greedy, top, stop, temperature, part_key)
        parts.append(_generate(model, params, ids, mask, ended, *options))
        ids = jnp.concatenate([ids, parts[-1]], 1)
        mask = jnp.pad(mask, ((0, 0), (0, number)), constant_values=True)
        ended = (parts[-1] == stop).any(1) if stop is not None else ended
    return jnp.concatenate(parts, 1)


def _parts(model: CausalLM, mask: jax.Array, tokens: int) -> list[int]:
    """Numbers of tokens after each of which the texts are read anew.

    LongRoPE has other frequencies for texts beyond its `rope_context`, and so other
    states of all their tokens.
    """
    context = getattr(model, "rope_context", 0)
    within = context + 1 - int(mask.sum(1).max()) if context else 0
    return [within, tokens - within] if 0 < within < tokens else [tokens]


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7, 8))
def _generate(
    model: CausalLM,
    params: PyTree,
    ids: jax.Array,
    mask: jax.Array,
    ended: jax.Array,
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
    real = jnp.pad(mask, ((0, 0), (0, tokens)), constant_values=True)
    positions = sequences.token_positions(real)

    def logits_after(ids: jax.Array, index: jax.Array, caches: list) -> tuple:
        """Logits behind the new tokens, which are put at `index` of the caches."""
        new = jax.lax.dynamic_slice_in_dim(positions, index, ids.shape[1], 1)
        step = attention.DecodingStep(index, real, new)
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
) -> list[attention.KeyValueCache]:
    """One cache per layer, in the dtype of the parameters."""
    dtype = jax.tree.leaves(params)[0].dtype
    zeros = jnp.zeros((batch, length, *model.kv_shape), dtype)
    return [attention.KeyValueCache(zeros, zeros) for _ in range(model.layers)]


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
