"""The few-shot classifiers by name."""

from collections.abc import Iterable

from jaxtl.analysis.episodes.base import FewShotMethod
from jaxtl.analysis.episodes.bd_cspn import BDCSPN
from jaxtl.analysis.episodes.fine_tuning import FineTuning
from jaxtl.analysis.episodes.laplacian_shot import LaplacianShot
from jaxtl.analysis.episodes.logistic import LogisticHead
from jaxtl.analysis.episodes.matching_net import CosineAttention
from jaxtl.analysis.episodes.meta_opt_net import MetaOptNet
from jaxtl.analysis.episodes.nearest_neighbor import NearestNeighbor
from jaxtl.analysis.episodes.protonet import NearestMean
from jaxtl.analysis.episodes.pt_map import PTMAP
from jaxtl.analysis.episodes.r2d2 import R2D2
from jaxtl.analysis.episodes.simpleshot import SimpleShot
from jaxtl.analysis.episodes.tim import TIM
from jaxtl.core.errors import UserError, nearest

# Those of features; fine-tuning, which takes minutes, is asked for by its name.
ON_FEATURES: dict[str, FewShotMethod] = {
    "protonet": NearestMean(),
    "matchingnet": CosineAttention(),
    "simpleshot": SimpleShot(),
    "nearest": NearestNeighbor(),
    "logistic": LogisticHead(),
    "ridge": R2D2(),
    "svm": MetaOptNet(),
    "bdcspn": BDCSPN(),
    "laplacianshot": LaplacianShot(),
    "tim": TIM(),
    "ptmap": PTMAP(),
}
METHODS = {**ON_FEATURES, "finetune": FineTuning()}


def by_name(names: str | Iterable[str]) -> dict[str, FewShotMethod]:
    """The methods of these names, in their order; of one name, that alone.

    Raises:
      UserError: no name, or one that is of no method.
    """
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in names:
        if name not in METHODS:
            raise UserError(
                f"methods: there is no {name!r}{nearest(name, METHODS)} (known: "
                f"{', '.join(METHODS)})."
            )
    if not names:
        raise UserError(f"methods: name at least one of {', '.join(METHODS)}.")
    return {name: METHODS[name] for name in names}
