"""Terms and functions for noisy and weak labels: labels that are wrong or incomplete.

The terms replace the cross-entropy (`terms={"task": tl.noisy.GCE()}`) and read a stream
whose labels may be wrong, partial or known as proportions; the functions work on
arrays.
"""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .coteaching import CoTeaching as CoTeaching
    from .dividemix import DivideMix as DivideMix
    from .elr import ELR as ELR
    from .gaussian_mixture import fit_two_gaussians as fit_two_gaussians
    from .gce import GCE as GCE
    from .label_proportions import LabelProportions as LabelProportions
    from .loss_correction import BackwardCorrection as BackwardCorrection
    from .loss_correction import ForwardCorrection as ForwardCorrection
    from .nnpu import NNPU as NNPU
    from .proden import PRODEN as PRODEN
    from .sce import SCE as SCE
    from .transition_matrix import estimate_transition as estimate_transition

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
