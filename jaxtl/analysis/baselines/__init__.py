"""Classical baselines, fitted and scored on the splits of an experiment.

An experiment file may hold `BASELINES = {"k-NN": tl.baselines.KNN(), …}`.
"""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .base import Baseline as Baseline
    from .fitting import depends_on as depends_on
    from .fitting import key as key
    from .fitting import named as named
    from .fitting import run as run
    from .learners import KNN as KNN
    from .learners import SVM as SVM
    from .learners import GradientBoosting as GradientBoosting
    from .learners import LogisticRegression as LogisticRegression
    from .learners import RandomForest as RandomForest
    from .learners import Ridge as Ridge

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
