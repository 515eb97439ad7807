"""CIFAR-10N: the experiments of its cells, and the noise rates of its labels."""

import numpy as np
import pytest

import jaxtl as tl
from experiments.reproduce import cifar10n


def test_every_cell_is_an_experiment_of_its_method():
    variants = tl.load("experiments/noisy_cifar.py")
    assert len(variants) == 5 * (3 + 1 + 3)
    for name, exp in variants.items():
        arm, noise, method = name.split("/")
        assert (exp.init is None) == (arm == "scratch")
        assert exp.data.y.startswith(noise.removesuffix("1"))
        assert exp.terms["task"] == cifar10n.term(
            method, noise, exp.terms["task"].every if method == "DivideMix" else 1
        )
    assert variants["weights/worse/DivideMix"].terms["task"].unlabelled == 25
    assert variants["weights/aggre/DivideMix"].terms["task"].unlabelled == 0
    rates = {variants[f"{arm}/worse/CE"].optim.lr.peak for arm in cifar10n.ARMS}
    assert rates == set(cifar10n.RATES.values())


@pytest.mark.parametrize("noise", cifar10n.NOISE)
def test_co_teaching_is_given_the_share_of_wrong_labels(noise, data_dir):
    with np.load(data_dir / cifar10n.LABELS) as labels:
        wrong = labels[cifar10n.images(noise).y] != labels["clean_label"]
    assert wrong.mean() == pytest.approx(cifar10n.NOISE[noise], abs=0.005)
    assert cifar10n.term("co-teaching", noise, 1).forget == cifar10n.NOISE[noise]
