"""Semi-supervised terms: what unlabelled data of the target teach."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from . import augmented_views as augmented_views
    from . import pseudo_targets as pseudo_targets
    from .fixmatch import FixMatch as FixMatch
    from .flexmatch import FlexMatch as FlexMatch
    from .freematch import FreeMatch as FreeMatch
    from .mean_teacher import MeanTeacher as MeanTeacher
    from .mixmatch import MixMatch as MixMatch
    from .pi_model import PiModel as PiModel
    from .pseudo_label import PseudoLabel as PseudoLabel
    from .uda import UDA as UDA
    from .uda import AnnealedCrossEntropy as AnnealedCrossEntropy
    from .vat import VAT as VAT

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
