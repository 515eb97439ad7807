"""Self-supervised terms: what examples teach without any label."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .barlow_twins import BarlowTwins as BarlowTwins
    from .byol import BYOL as BYOL
    from .dino import DINO as DINO
    from .mae import MAE as MAE
    from .masked_language import MaskedLanguageModel as MaskedLanguageModel
    from .moco import MoCo as MoCo
    from .rotation import RotationPrediction as RotationPrediction
    from .simclr import SimCLR as SimCLR
    from .simsiam import SimSiam as SimSiam
    from .two_views import byol_views as byol_views
    from .two_views import simclr_views as simclr_views
    from .vicreg import VICReg as VICReg

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
