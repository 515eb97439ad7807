"""Several tasks over one model: the term that joins their losses, and balancers."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .aligned import AlignedMTL as AlignedMTL
    from .balancer import Balance as Balance
    from .balancer import Balancer as Balancer
    from .balancer import TaskValues as TaskValues
    from .cagrad import CAGrad as CAGrad
    from .dwa import DWA as DWA
    from .equal_weights import EqualWeights as EqualWeights
    from .equal_weights import FixedWeights as FixedWeights
    from .famo import FAMO as FAMO
    from .gradnorm import GradNorm as GradNorm
    from .gradvac import GradVac as GradVac
    from .imtl import IMTLG as IMTLG
    from .mgda import MGDA as MGDA
    from .multi_task import MultiTask as MultiTask
    from .nash import NashMTL as NashMTL
    from .pcgrad import PCGrad as PCGrad
    from .uncertainty import UncertaintyWeights as UncertaintyWeights
    from .upgrad import UPGrad as UPGrad

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
