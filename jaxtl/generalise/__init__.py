"""Domain generalisation: terms over several labelled domains, none the target."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {},
)
