"""jaxtl: transfer learning in JAX. Start with `tl.load`, `tl.setup`, `tl.train`."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import data as data
    from . import models as models
    from . import optim as optim
    from . import peft as peft
    from . import pretrained as pretrained
    from . import sweep as sweep
    from .analysis import alignment as alignment
    from .analysis import baselines as baselines
    from .analysis import episodes as episodes
    from .analysis.domain_shift import diagnose as diagnose
    from .analysis.ensemble.ensemble import ensemble as ensemble
    from .analysis.label_errors.confident_learning import (
        find_label_errors as find_label_errors,
    )
    from .analysis.linear_probe_fit import linear_probe as linear_probe
    from .analysis.lr_finder import find_lr as find_lr
    from .analysis.test_time_adaptation import adabn as adabn
    from .analysis.test_time_adaptation import tent as tent
    from .core import selection as selection
    from .core import tree as tree
    from .core import trust as trust
    from .core.config import traced as traced
    from .core.devices import use_device as use_device
    from .core.errors import UserError as UserError
    from .core.types import FROZEN as FROZEN
    from .core.types import Network as Network
    from .core.types import Source as Source
    from .evaluation import metrics as metrics
    from .evaluation.evaluate import evaluate as evaluate
    from .export.encode import encode as encode
    from .models import merging as merging
    from .results.results import read_results as read_results
    from .sweep.api import plan_sweep as plan_sweep
    from .sweep.api import run_sweep as run_sweep
    from .terms import distillation as distillation
    from .terms import domain as domain
    from .terms import fewshot as fewshot
    from .terms import generalization as generalization
    from .terms import imbalance as imbalance
    from .terms import losses as losses
    from .terms import multitask as multitask
    from .terms import noisy as noisy
    from .terms import regularizers as regularizers
    from .terms import selfsup as selfsup
    from .terms import semi as semi
    from .terms.base import Term as Term
    from .training import recipes as recipes
    from .training.experiment import Experiment as Experiment
    from .training.experiment import Variant as Variant
    from .training.experiment_file import load as load
    from .training.load_model import load_model as load_model
    from .training.loop import train as train
    from .training.run import Run as Run
    from .training.setup import resume as resume
    from .training.setup import setup as setup
    from .training.show import show as show

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
