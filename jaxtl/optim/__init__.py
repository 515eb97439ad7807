"""Optimizers, groups of parameters, schedules, phases, averages and projections."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .averaging import EMA as EMA
    from .averaging import SWA as SWA
    from .averaging import Averaging as Averaging
    from .groups import BitFit as BitFit
    from .groups import FreezeUpTo as FreezeUpTo
    from .groups import HeadOnly as HeadOnly
    from .groups import LayerwiseDecay as LayerwiseDecay
    from .groups import NormOnly as NormOnly
    from .groups import Surgical as Surgical
    from .optimizer import SGD as SGD
    from .optimizer import AdamW as AdamW
    from .optimizer import Group as Group
    from .optimizer import Optax as Optax
    from .optimizer import Optimizer as Optimizer
    from .phases import LPFT as LPFT
    from .phases import GradualUnfreezing as GradualUnfreezing
    from .phases import Phase as Phase
    from .phases import Phases as Phases
    from .projections import MARS as MARS
    from .projections import L2Ball as L2Ball
    from .projections import SelectiveDecay as SelectiveDecay
    from .schedules import Cosine as Cosine
    from .schedules import GaussianRamp as GaussianRamp
    from .schedules import InverseDecay as InverseDecay
    from .schedules import Linear as Linear
    from .schedules import LinearRamp as LinearRamp
    from .schedules import OneCycle as OneCycle
    from .schedules import Ramp as Ramp
    from .schedules import Scaled as Scaled
    from .schedules import Schedule as Schedule
    from .schedules import SlantedTriangular as SlantedTriangular
    from .schedules import StepDecay as StepDecay

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
