"""AT: spatial attention maps come near the teacher's."""

import dataclasses
from typing import ClassVar

import jax

from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import PositionPairTerm, Positions
from jaxtl.terms.regularizers.attention_transfer import attention_distance


@dataclasses.dataclass(frozen=True, kw_only=True)
class AT(PositionPairTerm):
    """`attention_distance` to the teacher's maps, mean over examples.

    The larger of two feature maps is averaged to the size of the smaller one. To keep
    near the source of a run there is `tl.regularizers.AttentionTransfer`.

    Attributes:
      stages: as in `StagePairTerm`; by default the last ones with positions.

    References:
      Zagoruyko & Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2.
      RepDistiller divides by the number of positions P: its weight 1000 is 1000/P here.
    """

    with_positions: ClassVar[bool] = True

    def position_value(self, context: View, stage: str, pair: Positions) -> jax.Array:
        del context, stage
        return attention_distance(pair.student, pair.teacher)
