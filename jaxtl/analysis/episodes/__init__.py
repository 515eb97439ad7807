"""Few-shot classifiers on features, and their evaluation over episodes."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .base import FewShotMethod as FewShotMethod
    from .bd_cspn import BDCSPN as BDCSPN
    from .evaluation import evaluate as evaluate
    from .few_shot_study import study as study
    from .fine_tuning import FineTuning as FineTuning
    from .laplacian_shot import LaplacianShot as LaplacianShot
    from .logistic import LogisticHead as LogisticHead
    from .matching_net import CosineAttention as CosineAttention
    from .meta_opt_net import MetaOptNet as MetaOptNet
    from .nearest_neighbor import NearestNeighbor as NearestNeighbor
    from .protonet import NearestMean as NearestMean
    from .pt_map import PTMAP as PTMAP
    from .r2d2 import R2D2 as R2D2
    from .simpleshot import SimpleShot as SimpleShot
    from .tim import TIM as TIM

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
