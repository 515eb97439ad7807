"""Initial weights of two towers, each from weights of its own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network
from jaxtl.models.two_towers import HEAD, IMAGE_TOWER, TEXT_TOWER, TwoTowers
from jaxtl.pretrained.initial_weights import read_weights, weights_name
from jaxtl.pretrained.match import Weights


@dataclasses.dataclass(frozen=True)
class FromTowers:
    """The weights of an image model and of a text model, for a `TwoTowers` of them.

    `FromTowers(image=FromHub("vit"), text=FromHub("minilm"))`. Their heads are of other
    outputs and stay behind: the maps to the common space, `image_head` and `text_head`,
    are initialized, and so is the scale of similarities. Images are normalized as the
    image model's were.

    Attributes:
      image, text: weights of each tower; None initializes it.
      reset, ignore: as in `FromRun`, of the leaves of the pair (`text_layer_0/.*`).
    """

    image: Any = None
    text: Any = None
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()

    def __post_init__(self):
        for name in ("image", "text"):
            value = getattr(self, name)
            if value is not None and not callable(getattr(value, "read", None)):
                raise UserError(
                    f"FromTowers.{name}={value!r}: expected weights such as "
                    'tl.pretrained.FromHub("<directory>"), or None.'
                )
        if self.image is None and self.text is None:
            raise UserError(
                "FromTowers: expected the weights of a tower, image or text."
            )

    @property
    def where(self) -> str:
        """Where the weights are, for messages."""
        towers = [t for t in (self.image, self.text) if t is not None]
        return " and ".join(map(weights_name, towers))

    @property
    def image_resizing(self) -> Callable[..., dict[str, Any]]:
        """That of the image tower's weights, where they have one."""
        resizing = self.image.image_resizing
        return lambda model, is_sized=False: resizing(model.image, is_sized)

    @property
    def stored_preprocess(self) -> Callable[[], dict[str, Any]]:
        """That of the image tower's weights, where they have one."""
        return self.image.stored_preprocess

    def model(self, **fields: Any) -> TwoTowers:
        """Builds the pair of the models that the weights' directories describe.

        Args:
          **fields: of `TwoTowers`, such as `width`.

        Returns:
          The pair, without weights.

        Raises:
          UserError: weights that do not describe their model.
        """
        for name in [n for n in ("image", "text") if n not in fields]:
            build = getattr(getattr(self, name), "model", None)
            if build is None:
                raise UserError(
                    f"FromTowers.{name} does not describe its model; name it, "
                    f"model(…, {name}=tl.models.…)."
                )
            fields[name] = build()
        return TwoTowers(**fields)

    def read(self) -> Weights:
        """Reads the weights for the model that their directories describe."""
        return self.read_for(self.model())

    def read_for(self, model: Any) -> Weights:
        """Reads the weights of each tower without its head.

        Args:
          model: the pair; it decides the names and shapes of the tensors.

        Returns:
          The towers' weights; their heads and the pair's temperature are absent, and so
          keep their initial values.

        Raises:
          UserError: a model that is no pair of towers; what the towers' weights refuse.
        """
        if not isinstance(model, TwoTowers):
            raise UserError(
                "init=FromTowers(…) is for model=tl.models.TwoTowers(…); got "
                f"{type(model).__name__}."
            )
        image, text = model.towers()
        parts = [
            _part(IMAGE_TOWER, self.image, model.image, image, model.width),
            _part(TEXT_TOWER, self.text, model.text, text, model.width),
        ]
        pre = parts[0].meta.get("preprocess")
        return Weights(
            params={**parts[0].params, **parts[1].params},
            stats={**parts[0].stats, **parts[1].stats},
            meta={} if pre is None else {"preprocess": pre},
            rows=(*parts[0].rows, *parts[1].rows),
            names={**parts[0].names, **parts[1].names},
            left_out=(*parts[0].left_out, *parts[1].left_out),
            absent=(*parts[0].absent, *parts[1].absent, HEAD),
        )


def _part(prefix: str, init: Any, tower: Any, network: Network, width: int) -> Weights:
    """The weights of one tower without its head, with the pair's names of stages."""
    if init is None:
        return Weights({}, absent=(f"{prefix}.*",))
    if not isinstance(tower, Network):
        tower = dataclasses.replace(tower, outputs=width)
    weights = read_weights(init, tower)
    head = network.stages[-1]

    def renamed(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            prefix + path: value
            for path, value in tree.items()
            if path.split("/")[0] != head
        }

    rows = [dataclasses.replace(row, path=prefix + row.path) for row in weights.rows]
    return dataclasses.replace(
        weights,
        params=renamed(weights.params),
        stats=renamed(weights.stats),
        names=renamed(weights.names),
        rows=tuple(rows),
        absent=tuple(
            prefix + stage for stage in dict.fromkeys((*weights.absent, head))
        ),
    )
