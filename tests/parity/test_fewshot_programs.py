"""Few-shot classifiers against programs of their authors, and two of easyfsl."""

import numpy as np
import pytest
import stored_values

from jaxtl.analysis.episodes import (
    bd_cspn,
    laplacian_shot,
    matching_net,
    meta_opt_net,
    protonet,
    pt_map,
    r2d2,
    simpleshot,
    tim,
)

VALUES = stored_values.load("fewshot_values.json")
LABELS = np.array([0, 0, 1, 1, 2, 2])

# Name of a case -> (scores of an episode, relative tolerance).
METHODS = {
    "prototypes": (protonet.NearestMean(), 1e-12),
    "matching": (
        lambda s, y, q: np.log(
            np.exp(matching_net.CosineAttention(scale=5.0)(s, y, q)) + 1e-6
        ),
        1e-12,
    ),
    "simpleshot": (
        lambda s, y, q: simpleshot.SimpleShot()(s - 0.25, y, q - 0.25),
        1e-12,
    ),
    "bd_cspn": (bd_cspn.BDCSPN(scale=1.0), 1e-12),
    "laplacian_shot": (laplacian_shot.LaplacianShot(strength=0.7), 1e-12),
    "tim": (tim.TIM(), 1e-9),
    "pt_map": (lambda s, y, q: pt_map.PTMAP()(abs(s), y, abs(q)), 1e-9),
    "r2d2": (r2d2.R2D2(strength=0.3), 1e-12),
    "svm": (meta_opt_net.MetaOptNet(slack=0.1), 1e-5),
    "svm_of_two": (
        lambda s, y, q: meta_opt_net.MetaOptNet(slack=0.1)(s[:4], y[:4], q),
        1e-5,
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_scores_are_those_of_the_program(name):
    scores, tolerance = METHODS[name]
    support, query = stored_values.inputs(VALUES[name])
    expected = np.asarray(VALUES[name]["value"])
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(
        scores(support, LABELS, query), expected, rtol=0, atol=atol
    )
