"""Layers that differ: which of them attend within a window."""

from collections.abc import Callable, Sequence

from jaxtl.core.errors import UserError

SLIDING, FULL = "sliding_attention", "full_attention"


def has_window(
    layer: int, types: Sequence[str], default: Callable[[int], bool]
) -> bool:
    """Whether a layer attends within a window.

    Args:
      layer: its index.
      types: `SLIDING` or `FULL` for each layer; () for `default`.
      default: of a layer's index.
    """
    return types[layer] == SLIDING if types else default(layer)


def check(types: Sequence[str], layers: int, window: int | None) -> None:
    """Raises UserError for types of another number of layers, or without a window."""
    if types and len(types) != layers:
        raise UserError(
            f"layer_types has {len(types)} entries; expected one for each of the "
            f"{layers} layers."
        )
    if SLIDING in types and window is None:
        raise UserError(
            f"layer_types has {SLIDING!r}, and there is no sliding_window; expected "
            "the number of tokens that it covers."
        )
