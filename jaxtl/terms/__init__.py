"""Terms: the summands of the loss `Σ weight · term`."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from . import domain as domain
    from . import fewshot as fewshot
    from . import generalization as generalization
    from . import imbalance as imbalance
    from . import noisy as noisy
    from . import regularizers as regularizers
    from . import selfsup as selfsup
    from . import semi as semi

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
