"""Distillation: terms that make the model like trained networks, its teachers."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .attention import AT as AT
    from .crd import CRD as CRD
    from .dist import DIST as DIST
    from .dkd import DKD as DKD
    from .fitnets import FitNets as FitNets
    from .kd import KD as KD
    from .nst import NST as NST
    from .pkt import PKT as PKT
    from .rkd import RKD as RKD
    from .sp import SP as SP
    from .vid import VID as VID

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
