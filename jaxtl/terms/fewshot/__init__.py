"""Few-shot and meta-learning: terms over N-way K-shot episodes.

A stream whose data have `sampling=tl.data.Episodes(…)` gives the episodes.
"""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .matchingnet import MatchingNet as MatchingNet
    from .protonet import ProtoNet as ProtoNet

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
