"""The contract's rows of domain adaptation."""

from rows import row

import jaxtl as tl

_RAMPS = [
    {"reversal": tl.schedules.Ramp(final=0.5, gamma=5.0)},
    {"reversal": tl.schedules.Ramp(final=1.0, gamma=10.0)},
]
ROWS = [
    row(tl.domain.DeepCORAL),
    row(tl.domain.DANN, {"reversal": 0.5}, {"reversal": 1.0}),
    row(tl.domain.DANN, *_RAMPS),
]
