"""Labels that are probably wrong, and labels of several annotators."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .confident_learning import LabelErrors as LabelErrors
    from .confident_learning import find_label_errors as find_label_errors
    from .dawid_skene import Annotators as Annotators
    from .dawid_skene import dawid_skene as dawid_skene

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
