"""Ablations over many settings and seeds: grids, searches, vectorized runs."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .axes import Grid as Grid
    from .axes import Halving as Halving
    from .axes import Range as Range
    from .axes import When as When
    from .axes import linear as linear
    from .axes import log as log

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
