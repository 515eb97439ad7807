"""CIFAR-10N's protocol: its cells, and what it says of the labels."""

import numpy as np
import pytest

import jaxtl as tl
from experiments.reproduce import cifar10n


def test_every_cell_is_an_experiment_of_its_method():
    file = tl.load("experiments/noisy_cifar.py")
    assert len(file) == 5 * (3 + 1 + 3)
    for name, exp in file.items():
        arm, noise, method = name.split("/")
        assert (exp.init is None) == (arm == "scratch")
        assert exp.data.y.startswith(noise.removesuffix("1"))
        assert exp.terms["task"] == cifar10n.term(
            method, noise, exp.terms["task"].every if method == "DivideMix" else 1
        )
    assert file["weights/worse/DivideMix"].terms["task"].unlabelled == 25
    assert file["weights/aggre/DivideMix"].terms["task"].unlabelled == 0
    rates = {file[f"{arm}/worse/CE"].optim.lr.peak for arm in cifar10n.ARMS}
    assert rates == set(cifar10n.RATES.values())


@pytest.mark.parametrize("noise", cifar10n.NOISE)
def test_the_share_of_wrong_labels_is_what_co_teaching_is_told(noise, data_dir):
    with np.load(data_dir / cifar10n.LABELS) as labels:
        wrong = labels[cifar10n.images(noise).y] != labels["clean_label"]
    assert wrong.mean() == pytest.approx(cifar10n.NOISE[noise], abs=0.005)
    told = cifar10n.term("co-teaching", noise, 1).forget
    assert told == cifar10n.NOISE[noise]
