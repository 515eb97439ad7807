"""Semi-supervised learning: terms that learn from a stream without labels."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {},
)
