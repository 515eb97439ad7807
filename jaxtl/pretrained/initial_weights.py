"""What `init` of an experiment, and the weights inside of others, are asked for."""

from typing import Any

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
