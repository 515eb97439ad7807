"""Regularizers Ω(θ, θ₀): terms that keep parameters or functions near the source's."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from . import jacobian_estimates as jacobian_estimates
    from .attention_transfer import AttentionTransfer as AttentionTransfer
    from .bss import SpectralShrinkage as SpectralShrinkage
    from .cosine import CosineSP as CosineSP
    from .cotuning import CoTuning as CoTuning
    from .delta import DELTA as DELTA
    from .ewc import EWC as EWC
    from .ewc import MAS as MAS
    from .function_distance import FunctionDistance as FunctionDistance
    from .group_lasso import GroupLassoSP as GroupLassoSP
    from .jacobian import JacobianDifference as JacobianDifference
    from .kfac import KFAC as KFAC
    from .l1sp import L1SP as L1SP
    from .l2sp import L2SP as L2SP
    from .lwf import LwF as LwF
    from .smoothness import R3F as R3F
    from .smoothness import SMART as SMART
    from .weight_decay import WeightDecay as WeightDecay

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
