"""Initial weights of a classifier of images whose head is made from prompts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import progress
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.core.types import PyTree
from jaxtl.data.tokenizer import Tokenizer, as_tokenizer
from jaxtl.models import zero_shot
from jaxtl.models.two_towers import HEAD, IMAGE_TOWER, TwoTowers
from jaxtl.models.zero_shot import ZeroShotClassifier
from jaxtl.pretrained.initial_weights import read_weights, weights_name
from jaxtl.pretrained.match import Weights
from jaxtl.pretrained.weights_tokenizer import tokenizer_of_weights


@dataclasses.dataclass(frozen=True)
class FromPrompts:
    """A pair's image tower with a head of the classes' prompts: zero-shot weights.

    `weights = FromPrompts(FromHub("clip"), ("a photo of a {}.",))`, then
    `Experiment(model=weights.model(), init=weights, …)`: without train rows it is
    evaluated as it is, with them trained further.

    Attributes:
      pair: the weights of a pair: `FromHub` of CLIP or SigLIP, or `FromRun` of a run
        that trained one.
      prompts: templates with {} in the place of a class's name; the embeddings of
        several are averaged.
      names: class -> what stands for it in prompts; a class that is left out stands for
        itself.
      tokenizer: of the text tower, or its path; None takes the one that comes with the
        weights.
      class_names: the classes in order; None takes those of the data.
      reset, ignore: as in `FromRun`.
    """

    pair: Any
    prompts: tuple[str, ...] = ("a photo of a {}.",)
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokenizer: Tokenizer | str | None = None
    class_names: tuple[str, ...] | None = None
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()

    def __post_init__(self):
        prompts = self.prompts
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        object.__setattr__(self, "prompts", prompts)
        zero_shot.prompts_of("", prompts)
        if not callable(getattr(self.pair, "read", None)):
            raise UserError(
                f"FromPrompts.pair={self.pair!r}: expected the weights of a pair, such "
                'as tl.pretrained.FromHub("<directory of CLIP>").'
            )

    @property
    def where(self) -> str:
        """Where the pair's weights are, for messages."""
        return weights_name(self.pair)

    @property
    def image_resizing(self) -> Callable[..., dict[str, Any]]:
        """That of the pair's weights, where they have one."""
        return self.pair.image_resizing

    @property
    def stored_preprocess(self) -> Callable[[], dict[str, Any]]:
        """That of the pair's weights, where they have one."""
        return self.pair.stored_preprocess

    def model(self, **fields: Any) -> ZeroShotClassifier:
        """Builds the classifier of the pair that the weights' directory describes.

        Args:
          **fields: fields of the pair to override.

        Returns:
          The image tower of the pair with a head of classes, without weights.

        Raises:
          UserError: weights that do not describe their model, or not a pair.
        """
        build = getattr(self.pair, "model", None)
        if build is None:
            raise UserError(
                f"FromPrompts: {type(self.pair).__name__} does not describe its model; "
                "name it, model=tl.models.ZeroShotClassifier(pair=…)."
            )
        pair = build(**fields)
        if not isinstance(pair, TwoTowers):
            raise UserError(
                f"FromPrompts: the weights of {self.where} are those of a "
                f"{type(pair).__name__}, not of a pair of towers (CLIP, SigLIP)."
            )
        return ZeroShotClassifier(pair=pair)

    def for_classes(self, names: Sequence[str]) -> "FromPrompts":
        """Gives the head the data's classes, if none are named.

        Args:
          names: class names of the data, in label order.

        Returns:
          The same weights with `class_names`; itself where those are set.
        """
        if self.class_names is not None:
            return self
        return dataclasses.replace(self, class_names=tuple(names))

    def read(self) -> Weights:
        """Reads the weights for the model that their directory describes."""
        return self.read_for(self.model())

    def read_for(self, model: Any) -> Weights:
        """Reads the image tower, and embeds the prompts by the text tower.

        Args:
          model: whose pair has the layout of the weights.

        Returns:
          The image tower's weights, and a head of one text embedding per class.

        Raises:
          UserError: another model, no class names or no tokenizer, a pair with parts
            that are not in the weights.
        """
        if not isinstance(model, ZeroShotClassifier):
            raise UserError(
                "init=FromPrompts(…) is for model=tl.models.ZeroShotClassifier(pair=…) "
                f"(or init.model()); got {type(model).__name__}."
            )
        weights = read_weights(self.pair, model.pair)
        tokenizer, classes = self._tokenizer(model.pair), self._classes()
        params = _text_params(model.pair, weights, tokenizer, self.where)
        with progress.Task(f"encoding prompts of {len(classes):,} classes"):
            embeddings = zero_shot.class_embeddings(
                model.pair,
                params,
                tokenizer,
                [self.names.get(name, name) for name in classes],
                self.prompts,
                weights.stats,
            )
        head = jax.device_get(zero_shot.prompt_head(model.pair, params, embeddings))
        return dataclasses.replace(
            weights,
            params={**_of_images(weights.params), HEAD: head},
            stats=_of_images(weights.stats),
            meta={n: v for n, v in weights.meta.items() if n == "preprocess"},
            names={p: n for p, n in weights.names.items() if _is_of_images(p)},
            output_names=classes,
            feature_names=(),
            left_out=(),
            remark=self._remark(classes),
        )

    def _tokenizer(self, pair: TwoTowers) -> Tokenizer:
        """The tokenizer, which cuts prompts to what the text tower takes."""
        named = self.tokenizer
        tokenizer = tokenizer_of_weights(self.pair) if named is None else named
        if tokenizer is None:
            raise UserError(
                f"FromPrompts.tokenizer: {self.where} has no tokenizer beside its "
                "weights; name its directory or file."
            )
        tokenizer = as_tokenizer(tokenizer)
        context = getattr(pair.text, "context", tokenizer.max_length)
        return dataclasses.replace(
            tokenizer, max_length=min(context, tokenizer.max_length)
        )

    def _classes(self) -> tuple[str, ...]:
        if not self.class_names:
            raise UserError(
                "FromPrompts: the data have no class names to make prompts of; it "
                "needs data of a classification task, or class_names=."
            )
        unknown = [name for name in self.names if name not in self.class_names]
        if unknown:
            raise UserError(
                f"FromPrompts.names: {unknown[0]!r} is no class"
                f"{nearest(unknown[0], self.class_names)} (classes: "
                f"{listing(self.class_names)})."
            )
        return tuple(self.class_names)

    def _remark(self, classes: Sequence[str]) -> str:
        """How the head was made, as a sentence part."""
        name = self.names.get(classes[0], classes[0])
        example = zero_shot.prompts_of(name, self.prompts)[0]
        count = f"{len(self.prompts)} prompts" if len(self.prompts) > 1 else "a prompt"
        return f"head from {count} for each of {len(classes)} classes, as {example!r}"


def _is_of_images(path: str) -> bool:
    return path.startswith(IMAGE_TOWER)


def _of_images(tree: PyTree) -> dict[str, Any]:
    return {stage: part for stage, part in tree.items() if _is_of_images(stage)}


def _text_params(
    pair: TwoTowers, weights: Weights, tokenizer: Tokenizer, where: str
) -> PyTree:
    """The parameters of a pair beside its image tower, all of which are in the weights.

    Raises:
      UserError: a leaf that is missing or has another shape.
    """
    side = pair.size or 32
    tokens = tokenizer(["a"])
    x = {"image": np.zeros((1, side, side, 3), np.float32), **tokens}
    shapes = jax.eval_shape(pair.pure().init, jax.random.key(0), x)[0]
    stored = trees.flatten(weights.params)
    for path, leaf in trees.flatten(shapes).items():
        shape = getattr(stored.get(path), "shape", None)
        if not _is_of_images(path) and shape != leaf.shape:
            raise UserError(
                f"FromPrompts: {path} of the pair has the shape {leaf.shape}, but "
                f"{where} has {'none' if shape is None else shape}."
            )
    return {
        stage: jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), part)
        for stage, part in weights.params.items()
        if not _is_of_images(stage)
    }
