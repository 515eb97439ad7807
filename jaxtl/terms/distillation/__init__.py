"""Distillation: terms that make the model like trained networks, its teachers."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .kd import KD as KD

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
