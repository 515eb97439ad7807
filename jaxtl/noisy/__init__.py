"""Noisy and weak labels: terms for labels that are wrong, partial or few in kind."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {},
)
