"""Several tasks over one model: the term that joins their losses, and balancers."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .balancer import Balance as Balance
    from .balancer import Balancer as Balancer
    from .balancer import TaskValues as TaskValues
    from .equal_weights import EqualWeights as EqualWeights
    from .equal_weights import FixedWeights as FixedWeights
    from .multi_task import MultiTask as MultiTask

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
