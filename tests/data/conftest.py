"""Data sets that several tests of this room share."""

import pytest

from jaxtl import data


@pytest.fixture(scope="module")
def digits():
    """The digits with 10 noisy labels per class: 100 labelled train rows."""
    return data.prepare(data.Digits(labels_per_class=10, label_noise=0.2), 0)
