"""What `init` of an experiment, and the weights inside of others, are asked for."""

from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.pretrained.match import Weights


def read_weights(init: Any, model: Any) -> Weights:
    """Reads initial weights; a file of another library in the layout of the model.

    Args:
      init: weights with `read_for(model)`, or with `read()` alone.
      model: whose weights they become.
    """
    read_for = getattr(init, "read_for", None)
    return read_for(model) if read_for else init.read()


def weights_name(init: Any) -> str:
    """What to call weights in messages: their path, or where they come from."""
    return str(getattr(init, "where", getattr(init, "path", "the weights")))


def named_outputs(init: Any, field: str = "init") -> tuple[str, ...] | None:
    """The names that the user gives to the weights' outputs, None for none.

    Args:
      init: the weights.
      field: that holds them, for messages.

    Raises:
      UserError: no tuple of texts.
    """
    names = getattr(init, "output_names", None)
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{field}.output_names={names!r}: expected a name for each output, such "
            "as ('negative', 'positive')."
        )
    return tuple(names)
