"""The UCI handwritten digits that come with scikit-learn: no download, no file."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.data.dataset import Data, Table
from jaxtl.data.preprocess import Preprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Data):
    """1,797 handwritten digits, (8, 8, 1), values 0 to 16: counts of 4×4 blocks.

    References:
      Kaynak, Methods of Combining Multiple Classifiers (1995); the test part of the
      UCI "Optical Recognition of Handwritten Digits" set.
    """

    def read(self) -> Table:
        """Reads the digits in scikit-learn's order, as uint8."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        return Table(
            x=digits.images[..., None].astype(np.uint8),
            y=digits.target,
            class_names=tuple("0123456789"),
            preprocess=Preprocess(scale=16.0),
        )
