"""Few-shot and meta-learning: terms over N-way K-shot episodes.

A stream whose data have `sampling=tl.data.Episodes(…)` gives the episodes.
"""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .anil import ANIL as ANIL
    from .feat import FEAT as FEAT
    from .fomaml import FOMAML as FOMAML
    from .imaml import IMAML as IMAML
    from .maml import MAML as MAML
    from .matchingnet import MatchingNet as MatchingNet
    from .metasgd import MetaSGD as MetaSGD
    from .protonet import ProtoNet as ProtoNet
    from .r2d2 import RidgeHead as RidgeHead
    from .relationnet import RelationNet as RelationNet
    from .reptile import Reptile as Reptile

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
