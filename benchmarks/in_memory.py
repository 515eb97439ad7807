"""Initial weights that are in memory already."""

import dataclasses

from jaxtl.pretrained.match import Weights


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
    """Initial weights from memory, as a value of `Experiment.init`."""

    weights: Weights

    def read(self) -> Weights:
        """Returns the weights."""
        return self.weights
