"""Domain generalization: terms over several labelled domains, for an unseen one."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .erm import PooledERM as PooledERM
    from .group_dro import GroupDRO as GroupDRO
    from .irm import IRM as IRM
    from .mixstyle import MixStyle as MixStyle
    from .mixup import InterDomainMixup as InterDomainMixup
    from .mldg import MLDG as MLDG
    from .vrex import VREx as VREx

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
