"""Terms and weights for classes of very different sizes.

The terms replace the cross-entropy (`terms={"task": tl.imbalance.FocalLoss()}`); the
weights are the `class_weights` of it and of them. Balanced batches are a setting of the
data (`data.sampling`).
"""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .class_weights import EffectiveNumber as EffectiveNumber
    from .class_weights import balanced_weights as balanced_weights
    from .class_weights import effective_number_weights as effective_number_weights
    from .focal import FocalLoss as FocalLoss
    from .focal import focal_losses as focal_losses
    from .focal import sigmoid_focal_losses as sigmoid_focal_losses
    from .label_margin import LDAM as LDAM
    from .label_margin import label_margins as label_margins
    from .logit_adjustment import LogitAdjustment as LogitAdjustment
    from .logit_adjustment import adjusted_logits as adjusted_logits

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
