"""Pairs of texts, each read by one encoder and compared by the cosine of their states.

References:
  Reimers & Gurevych: Sentence-BERT, EMNLP 2019.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import Network, Output, PyTree, Tokens
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import sequences, text_heads
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.weight_layout import WeightLayout

POOLING = "pooling"  # the stage whose output is the embeddings of a pair
DENSE = "dense.linear"  # of its map, in the names of sentence-transformers
_PAIR = 2
# Fields of all models that the encoder gets where they are set, with their defaults.
_PLAIN = {"dtype": None, "param_dtype": "float32", "remat": False, "stochnorm": 0.0}


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """⟨a, b⟩ / (‖a‖ · ‖b‖) along the last axis, (…, width) to (…).

    Lengths are at least 1e-12, as in torch's `normalize`.
    """
    return jnp.sum(sequences.unit_length(a) * sequences.unit_length(b), axis=-1)


class BiEncoder(staged.Staged):
    """Stages `embeddings … layer_{n−1}, pooling, head`: one encoder for both texts.

    The stages of the encoder but its head; then `pooling`, the embeddings of a pair
    (batch, 2, width); and `head`, their cosine (batch, 1), which has no parameters.

    Attributes:
      encoder: any model of texts; its own head is not used.
      pooling: one state per text: the "mean" of the real tokens, the "first" (cls),
        "max", "mean_sqrt_len", "weighted_mean" or "last".
      normalize: whether embeddings have unit length (their cosine stays the same).
      dense_width: width of an affine map behind the pooling, None for none.
      dense_activation: behind that map, by name.
      dense_bias: whether that map has a bias.
    """

    READS: ClassVar[str] = "texts"
    READS_PAIRS: ClassVar[bool] = True

    encoder: staged.Staged | None = None
    pooling: str = "mean"
    normalize: bool = False
    dense_width: int | None = None
    dense_activation: str = "tanh"
    dense_bias: bool = True

    @property
    def predict(self) -> str:
        """What the head gives: the similarity of two texts."""
        return "similarity"

    @property
    def body(self) -> staged.Staged:
        """The encoder whose stages but the head run."""
        if not isinstance(self.encoder, staged.Staged) or self.encoder.READS != "texts":
            raise UserError(
                f"BiEncoder.encoder={self.encoder!r}: expected a model of texts, such "
                "as tl.models.Bert()."
            )
        fields = {name: getattr(self, name) for name in _PLAIN}
        changes = {n: v for n, v in fields.items() if v != _PLAIN[n]}
        # The first of these heads that the encoder has: no stage stands before it that
        # belongs to the head, as BERT's pooler does.
        heads = [n for n in ("token", "class") if n in self.encoder.PREDICTS]
        changes |= {"predict": heads[0]} if heads else {}
        return self.encoder.clone(outputs=1, **changes)

    @property
    def stages(self) -> tuple[str, ...]:
        return (*self.body.stages[:-1], POOLING, "head")

    def check_kind(self, shape: Any, owner: str) -> None:
        super().check_kind(shape, owner)
        ids = shape["input_ids"]
        if len(ids) != 2 or ids[0] != _PAIR:
            raise UserError(
                f"model=BiEncoder compares two texts, each tokenized by itself, but an "
                f"example of {owner} is one text; name the column of the second one, "
                "pair=, and leave separate= out."
            )

    def check_targets(self, task: str, y: Any, owner: str) -> None:
        advice = "give its score_range=, such as (0, 5)"
        if task != "regression":
            raise UserError(
                f"model=BiEncoder predicts the similarity of two texts, but the task "
                f"of {owner} is {task}: the label must be a score; {advice}."
            )
        if len(y) and (y.min() < -1 or y.max() > 1):
            raise UserError(
                f"the scores of {owner} lie in {y.min():g} to {y.max():g}, but a "
                f"cosine in −1 to 1: {advice}, which is scaled to 0 to 1."
            )

    def id_sizes(self) -> dict[str, int]:
        sizes = self.body.id_sizes()
        return {name: n for name, n in sizes.items() if name != "token_type_ids"}

    def layouts(self) -> dict[str, WeightLayout]:
        layout = self.body.layouts()["hf"]
        rules = [r for r in layout.rules if not r.path.startswith("head/")]
        heads = [r.source for r in layout.rules if r.path.startswith("head/")]
        if self.dense_width is not None:
            path = f"{POOLING}/dense"
            rules += weight_layout.linear(DENSE, path, self.dense_bias)
        return {
            "hf": dataclasses.replace(
                layout, rules=tuple(rules), unused=(*layout.unused, *heads)
            )
        }

    def pure(self) -> Network:
        return _network_of(self)


class _Pooling(nn.Module):
    """One embedding for each text, (n, width), computed in float32 or wider.

    Attributes are those of `BiEncoder`.
    """

    pooling: str
    normalize: bool
    dense_width: int | None
    dense_activation: str
    dense_bias: bool

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        reduce = text_heads.REDUCTIONS[self.pooling]
        x = reduce(tokens._replace(states=as_float32(tokens.states)))
        if self.dense_width is not None:
            dense = Dense(
                self.dense_width,
                use_bias=self.dense_bias,
                kernel_init=NORMAL,
                name="dense",
            )
            x = activation(self.dense_activation)(dense(x))
        x = sequences.unit_length(x) if self.normalize else x
        return x.astype(tokens.states.dtype)


def _check(model: BiEncoder) -> None:
    """Raises UserError for options that a bi-encoder does not have."""
    staged.check_option("pooling", model.pooling, tuple(text_heads.REDUCTIONS))
    activation(model.dense_activation)
    if model.outputs not in (None, 1):
        raise UserError(
            f"model=BiEncoder predicts one number, the similarity of two texts, but "
            f"the data have {model.outputs} outputs; a score is a number "
            "(task='regression')."
        )


def _of_stages(stages: tuple[str, ...], tree: Mapping[str, PyTree]) -> dict[str, Any]:
    """The parts of these stages, of those of all."""
    return {stage: tree[stage] for stage in stages if stage in tree}


def _init(
    model: BiEncoder, inner: Network, pooling: _Pooling, key: jax.Array, x: Any
) -> tuple[PyTree, PyTree]:
    """Initial parameters and statistics of the encoder's stages and of the pooling.

    Raises:
      UserError: an encoder whose stage before the head gives no states of tokens.
    """
    flat, stages = text_heads.flat_choices(x), model.stages[:-2]
    params, stats = inner.init(key, flat)
    params = _of_stages(stages, params)
    apply = functools.partial(inner.apply, stop=stages[-1])
    shapes = jax.eval_shape(apply, params, stats, flat).logits
    if not isinstance(shapes, Tokens):
        raise UserError(
            f"BiEncoder.encoder={type(model.encoder).__name__}: the stage "
            f"{stages[-1]!r} before its head gives no states of tokens to be pooled; "
            "expected a model such as tl.models.Bert()."
        )
    tokens = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    added = pooling.init(jax.random.fold_in(key, 1), tokens).get("params", {})
    added = staged.cast_tree(added, model.param_dtype)
    return {**params, **({POOLING: added} if added else {})}, stats


@functools.cache
def _network_of(model: BiEncoder) -> Network:
    _check(model)
    inner = model.body.pure()
    fields = ("pooling", "normalize", "dense_width", "dense_activation", "dense_bias")
    # parent=None: linen makes what a method builds a part of its module.
    pooling = _Pooling(**{n: getattr(model, n) for n in fields}, parent=None)
    stages, encoder_stages = model.stages, model.stages[:-2]

    def apply(
        params: Mapping[str, PyTree],
        stats: PyTree,
        x: Any,
        *,
        train: tuple[str, ...] = (),
        frozen_stats: tuple[str, ...] = (),
        key: jax.Array | None = None,
        start: str | None = None,
        stop: str | None = None,
    ) -> Output:
        run = staged.stage_range(stages, start, stop)
        within = [stage for stage in run if stage in encoder_stages]
        features: dict[str, Any] = {}
        if within:
            out = inner.apply(
                _of_stages(encoder_stages, params),
                stats,
                text_heads.flat_choices(x),
                train=train,
                frozen_stats=frozen_stats,
                key=key,
                start=within[0],
                stop=within[-1],
            )
            features |= text_heads.by_choice(out.features, _PAIR)
            x, stats = features[within[-1]], out.stats
        if POOLING in run:
            variables = {"params": params.get(POOLING, {})}
            x = pooling.apply(variables, text_heads.flat_choices(x))
            x = features[POOLING] = text_heads.by_choice(x, _PAIR)
        if "head" in run:
            x = as_float32(x)
            x = features["head"] = cosine(x[:, 0], x[:, 1])[:, None]
        return Output(x, features, stats)

    init = functools.partial(_init, model, inner, pooling)
    # No taps: a dense layer of the encoder sees the two texts of an example.
    return Network(stages, init, apply)
