"""Causal language models: what GPT-2 and Llama share, and generation with a cache."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Tokens
from jaxtl.models import staged
from jaxtl.models.layers import transformer

PREDICTS = ("next", "class")


class _NextTokenHead(nn.Module):
    """Logits of the next token at each place, (batch, length, vocab).

    Attributes:
      vocab: number of token ids.
      embeddings: the embedding stage, whose table is the kernel; None for an own one.
    """

    vocab: int
    embeddings: Any = None

    @nn.compact
    def __call__(self, tokens, mode):
        if self.embeddings is not None:
            return self.embeddings.token.attend(tokens.states)
        dense = nn.Dense(
            self.vocab, use_bias=False, kernel_init=transformer.INIT, name="dense"
        )
        return dense(tokens.states)


class _LastTokenHead(nn.Module):
    """An affine map of the last real token's state, (batch, outputs), without bias."""

    outputs: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, mode):
        x = transformer.last_state(x) if isinstance(x, Tokens) else x
        x = staged.Dropout(self.dropout, name="dropout")(x, mode)
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
      context: most tokens of a text.
      predict: "next" for a language model, whose head has `vocab` outputs whatever
        `outputs` says; "class" for a classifier on the last real token.
      tied: the language model's head is the embedding table.
      epsilon: of the norms.
    """

    vocab: int = 50_257
    width: int = 768
    layers: int = 12
    heads: int = 12
    context: int = 1024
    predict: str = "next"
    tied: bool = True
    epsilon: float = 1e-5

    @property
    def stages(self):
        layers = (f"layer_{i}" for i in range(self.layers))
        return ("embeddings", *layers, "norm", "head")

    @property
    def kv_shape(self) -> tuple[int, int]:
        """Heads and width per head of cached keys and values."""
        return self.heads, self.width // self.heads

    def reduction(self):
        return transformer.last_state if self.predict == "class" else None

    def add_head(self, dropout: float = 0.0) -> None:
        """Registers the head that `predict` names."""
        if self.predict not in PREDICTS:
            raise UserError(
                f"predict={self.predict!r} is unknown{nearest(self.predict, PREDICTS)} "
                f"(known: {', '.join(PREDICTS)})."
            )
        if self.predict == "class":
            self.add("head", _LastTokenHead(self.outputs, dropout))
        else:
            self.add(
                "head",
                _NextTokenHead(self.vocab, self.embeddings if self.tied else None),
            )

    def decode(self, ids, step: transformer.DecodingStep, caches):
        """Runs new tokens against the caches.

        Args:
          ids: (batch, new) int32.
          step: where they stand.
          caches: one `Cache` per layer.

        Returns:
          Logits (batch, new, vocab) in float32, and the new caches.
        """
        mask = jnp.ones(ids.shape, bool)
        states, new = self.embeddings.embed(ids, step.positions), []
        for i, cache in enumerate(caches):
            layer = getattr(self, f"layer_{i}")
            states, cache = layer.run(states, mask, staged.Mode(), step, cache)
            new.append(cache)
        tokens = self.norm(Tokens(states, mask), staged.Mode())
        return self.head(tokens, staged.Mode()).astype(jnp.float32), new


class FinalNorm(nn.Module):
    """The normalisation after the last layer, as a stage."""

    epsilon: float
    rms: bool

    @nn.compact
    def __call__(self, tokens, mode):
        make = transformer.rms_norm if self.rms else transformer.layer_norm
        return Tokens(make(self.epsilon, "norm")(tokens.states), tokens.mask)


def generate(
    model: CausalLM,
    params,
    prompts: dict,
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
      tokens: how many to add.
      temperature: 0 takes the most likely token; else logits / temperature are sampled.
      top: sample among this many most likely tokens only.
      key: needed where temperature > 0.
      stop: after this id a text continues with it.

    Returns:
      (batch, tokens) int32 ids, without the prompts.
    """
    ids, mask = transformer.token_inputs(prompts)
    if model.predict != "next":
        raise UserError(f"generate needs predict='next'; got {model.predict!r}.")
    transformer.check_length(ids.shape[1] + tokens, model.context)
    if temperature > 0 and key is None:
        raise UserError("generate with temperature > 0 needs key=jax.random.key(…).")
    if tokens < 1:
        raise UserError(f"tokens={tokens}: expected 1 or more to generate.")
    for stage, own in params.items():
        if isinstance(own, dict) and {"adapter", "prompt"} & own.keys():
            raise UserError(
                f"generate runs the plain model, and params[{stage!r}] holds what an "
                "adapter or a prompt added, which it would ignore; LoRA, IA3, VeRA and "
                "prefixes can be generated from."
            )
    key = jax.random.key(0) if key is None else key
    greedy = temperature == 0.0
    return _generate(
        model, params, ids, mask, tokens, greedy, top, stop, temperature, key
    )


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def _generate(
    model, params, ids, mask, tokens, greedy, top, stop, temperature, key
) -> jax.Array:
    batch, length = ids.shape
    if model.dtype or model.param_dtype != "float32":
        params = staged.cast_tree(params, jnp.dtype(model.dtype or model.param_dtype))
    dtype = jax.tree.leaves(params)[0].dtype
    shape = (batch, length + tokens, *model.kv_shape)
    caches = [
        transformer.KeyValueCache(*[jnp.zeros(shape, dtype)] * 2)
        for _ in range(model.layers)
    ]
    # Padding goes to the left, so that every text ends at the same place.
    shift = mask.shape[1] - 1 - (length - 1 - jnp.argmax(mask[:, ::-1], -1))
    ids, mask = (jax.vmap(jnp.roll)(x, shift) for x in (ids, mask))
    real = jnp.pad(mask, ((0, 0), (0, tokens)), constant_values=True)
    where = transformer.token_positions(real)

    def run(ids, index, caches):
        at = jax.lax.dynamic_slice_in_dim(where, index, ids.shape[1], 1)
        step = transformer.DecodingStep(index, real, at)
        logits, caches = model.apply(
            {"params": params}, ids, step, caches, method="decode"
        )
        return logits[:, -1], caches

    def pick(logits, key, ended):
        chosen = _sample(logits, greedy, top, temperature, key)
        return chosen if stop is None else jnp.where(ended, stop, chosen)

    def one(carry, t):
        token, ended, caches = carry
        logits, caches = run(token[:, None], length + t, caches)
        ended = ended | (token == stop) if stop is not None else ended
        token = pick(logits, jax.random.fold_in(key, t + 1), ended)
        return (token, ended, caches), token

    logits, caches = run(ids, jnp.int32(0), caches)
    ended = jnp.zeros(batch, bool)
    token = pick(logits, jax.random.fold_in(key, 0), ended)
    _, rest = jax.lax.scan(one, (token, ended, caches), jnp.arange(tokens - 1))
    return jnp.concatenate([token[None], rest]).T


def _sample(logits, greedy: bool, top: int | None, temperature, key) -> jax.Array:
    if greedy:
        return logits.argmax(-1).astype(jnp.int32)
    if top is not None:
        least = jax.lax.top_k(logits, top)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)
