"""Self-supervised losses against lightly's, transformers' and DINO's programs."""

import jax.numpy as jnp
import pytest
import stored_values

from jaxtl.evaluation.metrics import knn_predictions
from jaxtl.models.layers.patch_decoder import sin_cos_positions
from jaxtl.terms.selfsup import (
    barlow_twins,
    byol,
    dino,
    mae,
    moco,
    projector,
    simclr,
    simsiam,
    vicreg,
)

VALUES = stored_values.load("selfsup_values.json")


def _negative_cosine(first, second):
    # BYOL's loss and SimSiam's are 2 + 2 and 1 times its value.
    value = simsiam.symmetric_similarity((first, first), (second, second))
    assert jnp.ndim(value) == 0
    return (byol.regression_loss(first, second) - 2) / 4 + value / 2


def _vicreg(first, second):
    parts = vicreg.invariance_variance_covariance(first, second)
    return 25 * parts[0] + 25 * parts[1] + parts[2]


def _dino(s0, s1, t0, t1, center):
    return dino.self_distillation((s0, s1), (t0, t1), center[0], (0.1, 0.07))


def _dino_small_crops(s0, s1, s2, s3, t0, t1, center):
    students = (s0, s1, s2, s3)
    return dino.self_distillation(students, (t0, t1), center[0], (0.1, 0.07))


def _mae(predicted, images):
    hidden = [[1, 0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 0, 0, 1]]
    pixels = mae.patch_pixels(images, 2)
    return mae.masked_patch_error(
        predicted.reshape(2, 9, 12), pixels, jnp.array(hidden)
    )


EQUATIONS = {
    "nt_xent": lambda a, b: simclr.nt_xent(a, b, 0.5),
    "info_nce_queue": lambda q, k, bank: moco.info_nce(q, k, projector.unit(bank), 0.2),
    "negative_cosine": _negative_cosine,
    "barlow_twins": lambda a, b: barlow_twins.cross_correlation_loss(a, b, 5e-3),
    "vicreg": _vicreg,
    "dino": _dino,
    "dino_small_crops": _dino_small_crops,
    "mae": _mae,
    "sin_cos_positions": lambda: sin_cos_positions(3, 8),
    "dino_center": lambda a, b, c: dino.moved_center(c[0], (a, b), 0.9),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_values_and_gradients_are_the_programs(name):
    stored_values.assert_equal(VALUES[name], EQUATIONS[name])


def test_neighbors_vote_as_in_the_program():
    queries, bank = stored_values.inputs(VALUES["knn"])
    predicted = knn_predictions(queries, bank, [0, 1, 2] * 8, k=7, temperature=0.1)
    assert predicted.tolist() == VALUES["knn"]["value"]
