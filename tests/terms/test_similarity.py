"""CoSENT, in-batch negatives and the error of the cosine equal sentence-transformers'.

The values and gradients are those of torch 2.13 in float64 on embeddings drawn by numpy
with seed 15, by what UKPLab/sentence-transformers computes: `MSELoss` of the
`cosine_similarity`, losses/CoSENTLoss.py at 025790f (scale 20), and
losses/MultipleNegativesRankingLoss.py at 005f3f4 (scale 20).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models import bi_encoder
from jaxtl.terms import losses, similarity

SCORES = np.array([0.2, 1.0, 0.0, 0.6, 0.2])


def squared_error(a, b, scores):
    return losses.squared_error(bi_encoder.cosine(a, b)[:, None], scores)


def cosent(a, b, scores):
    return similarity.cosent(bi_encoder.cosine(a, b), scores)


def negatives(a, b, scores):
    return similarity.multiple_negatives_ranking(a, b)


# Loss -> (value, its gradient by the second embedding, the gradients' norms).
VALUES = {
    squared_error: (
        0.8619783701805652,
        (
            -0.20490415914432075,
            0.06403761354961147,
            0.02184944257320134,
            0.08607348461451912,
        ),
        (0.3578919361115723, 0.3782930055510106),
    ),
    cosent: (
        31.80421926045784,
        (
            -6.0222707805594206e-05,
            1.882108447905901e-05,
            6.421697838130416e-06,
            2.529757490231582e-05,
        ),
        (10.244904741347549, 9.831636499958767),
    ),
    negatives: (
        9.121972400145832,
        (
            -0.12440533043549017,
            1.3043567737807105,
            0.7016521724856647,
            0.02478542221744509,
        ),
        (4.329888874932624, 4.006030813165624),
    ),
}


@pytest.mark.parametrize("loss", VALUES, ids=lambda f: f.__name__)
def test_losses_equal_those_of_sentence_transformers(loss):
    rng = np.random.default_rng(15)
    with jax.enable_x64():
        pair = [jnp.asarray(rng.normal(size=(5, 4))) for _ in range(2)]
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(
            *pair, jnp.asarray(SCORES)
        )
    expected, of_second, norms = VALUES[loss]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradients[0][1], of_second, rtol=1e-9)
    for gradient, norm in zip(gradients, norms):
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-10)


def test_cosent_counts_the_order_of_scores_alone():
    cosines = np.linspace(-0.5, 0.9, 6, dtype=np.float32)
    scores = np.array([0.0, 3.0, 1.0, 4.0, 2.0, 5.0], np.float32)
    value = similarity.cosent(cosines, scores)
    assert similarity.cosent(cosines, 10 + np.exp(scores)) == value
    assert similarity.cosent(cosines, np.zeros(6, np.float32)) == 0
