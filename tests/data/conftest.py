"""A data set and a vocabulary that several tests of data share."""

import pytest

from jaxtl import data

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##b", "good"]


@pytest.fixture(scope="module")
def digits():
    """The digits with 10 noisy labels per class: 100 labelled train rows."""
    return data.prepare(data.Digits(labels_per_class=10, label_noise=0.2), 0)


@pytest.fixture
def vocab(tmp_path):
    """A small WordPiece vocabulary."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return str(tmp_path / "vocab.txt")
