"""Detection of wrong labels, and estimation of labels from several annotators."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .annotators import Annotators as Annotators
    from .annotators import dawid_skene as dawid_skene
    from .confident_learning import LabelErrors as LabelErrors
    from .confident_learning import find_label_errors as find_label_errors

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
