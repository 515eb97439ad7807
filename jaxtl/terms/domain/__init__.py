"""Domain adaptation: terms that align a labelled and an unlabelled domain."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .adabn import AdaBN as AdaBN
    from .adda import ADDA as ADDA
    from .adversarial import reverse_gradient as reverse_gradient
    from .afn import AFN as AFN
    from .bnm import BNM as BNM
    from .bsp import BSP as BSP
    from .cbst import CBST as CBST
    from .cdan import CDAN as CDAN
    from .cmd import CMD as CMD
    from .coral import DeepCORAL as DeepCORAL
    from .dan import DAN as DAN
    from .dan import mmd as mmd
    from .dann import DANN as DANN
    from .deepjdot import DeepJDOT as DeepJDOT
    from .entropy import EntropyMinimization as EntropyMinimization
    from .jan import JAN as JAN
    from .mcc import MCC as MCC
    from .mcd import MCD as MCD
    from .mdd import MDD as MDD
    from .multi_source import each_source as each_source
    from .pada import ClassWeightedCrossEntropy as ClassWeightedCrossEntropy
    from .pada import PartialDANN as PartialDANN
    from .shot import SHOT as SHOT

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
