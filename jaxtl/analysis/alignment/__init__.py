"""Domain adaptation on arrays of features, in numpy and float64, in scikit-learn style.

Methods that map features have `fit(xs, xt[, ys])`, `transform(x, domain)` and
`fit_transform`. Methods that weight source examples have `fit(xs, xt)` and `weights`,
which any scikit-learn learner takes as `sample_weight`. TrAdaBoost is a classifier.
"""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .coral import CORAL as CORAL
    from .gfk import GFK as GFK
    from .jda import JDA as JDA
    from .kliep import KLIEP as KLIEP
    from .kmm import KMM as KMM
    from .neighbors import nearest_neighbor as nearest_neighbor
    from .neighbors import nearest_neighbor_accuracy as nearest_neighbor_accuracy
    from .optimal_transport import OTMapping as OTMapping
    from .subspace import SubspaceAlignment as SubspaceAlignment
    from .tca import TCA as TCA
    from .tradaboost import TrAdaBoost as TrAdaBoost

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
