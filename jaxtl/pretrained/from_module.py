"""Initial weights that a wrapped module came with."""

import dataclasses
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network
from jaxtl.pretrained.match import Weights


@dataclasses.dataclass(frozen=True)
class FromModule:
    """The weights of the module in `model=tl.models.wrap(module)`, as θ₀.

    Without it a module's weights are initial ones like any others; with it they are
    the source from which regularizers measure the distance.

    Attributes:
      reset, ignore, output_names: as in `FromRun`; a leaf that is reset keeps the value
        that it has in the module, but has no source.
    """

    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    output_names: tuple[str, ...] | None = None

    def read_for(self, model: Any) -> Weights:
        """Takes the weights that a wrapped module came with.

        Args:
          model: made by `models.wrap` of a module that was built already.

        Returns:
          Its parameters and statistics, unchanged.

        Raises:
          UserError: a model without weights of its own.
        """
        weights = model.weights if isinstance(model, Network) else None
        if weights is None:
            raise UserError(
                "init=FromModule(): the model has no weights of its own; expected "
                "model=tl.models.wrap(module) with a module that was built already (or "
                "variables=…)."
            )
        return Weights(*weights())

    def read(self) -> Weights:
        """Raises UserError: the weights are the model's."""
        raise UserError(
            "init=FromModule() has no weights outside of an experiment with "
            "model=tl.models.wrap(module)."
        )
