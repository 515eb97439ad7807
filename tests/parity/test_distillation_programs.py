"""Distillation: the equations against the programs of their authors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_values
from scipy import special

from jaxtl.terms.distillation import crd, dist, dkd, fitnets, kd, nst, pkt, rkd, sp, vid
from jaxtl.terms.distillation.feature_pairs import paired
from jaxtl.terms.regularizers.attention_transfer import attention_distance

VALUES = stored_values.load("distillation_values.json")
LABELS = np.array([0, 1, 2, 3, 4, 0])


def _dkd(z, teacher):
    target, other = dkd.decoupled_losses(teacher, z, LABELS, 4.0)
    return jnp.mean(1.0 * target + 8.0 * other)


def _dist(z, teacher):
    inter, intra = dist.correlation_losses(teacher, z, 1.0)
    return 2.0 * inter + 0.5 * intra


def _attention(student, teacher):
    # Theirs is a mean over positions.
    values, targets, mask = paired(student, teacher)
    return attention_distance(values, targets) / mask.shape[1]


def _vid(student, teacher, first, second, third, scale):
    values, targets, _ = paired(student, teacher)
    params = {"first": first, "second": second, "third": third}
    mean = vid.predicted_mean(params, values)
    return vid.negative_log_likelihood(mean, targets, scale).mean()


def _rkd(student, teacher):
    distance, angle = rkd.relation_losses(student, teacher)
    return 25.0 * distance + 50.0 * angle


# Rows of the memories for each of a batch of 4: its own of 10 examples, 3 negatives.
ROWS = np.array([[0, 5, 6, 7], [3, 9, 1, 0], [8, 2, 2, 4], [6, 1, 3, 5]])


def _crd(student, teacher, kernel, bias, kernel_t, bias_t, memory, memory_t):
    def unit(x):
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    total = 0.0
    for feature, params, other in (
        (student, {"kernel": kernel, "bias": bias}, memory_t),
        (teacher, {"kernel": kernel_t, "bias": bias_t}, memory),
    ):
        anchors = crd.embed(params, feature)
        scores = crd.similarities(anchors, unit(other), ROWS, 0.07)
        scale = jax.lax.stop_gradient(scores.mean() * 10)
        total += crd.contrastive_loss(scores / scale, 10)
    return total


EQUATIONS = {
    "kd": lambda z, teacher: kd.distillation_loss(teacher, z, 4.0).mean(),
    "dkd": _dkd,
    "dist": _dist,
    "fitnets": lambda s, t: fitnets.hint_distance(*paired(s, t)[:2]).mean(),
    "at": _attention,
    "at_teacher_larger": _attention,
    "nst": lambda s, t: nst.selectivity_discrepancy(*paired(s, t)[:2]),
    "sp": lambda s, t: sp.similarity_distance(s.reshape(len(s), -1), t),
    "rkd": _rkd,
    "pkt": pkt.neighbor_divergence,
    "vid": _vid,
    "crd": _crd,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equation_is_the_programs(name):
    stored_values.assert_equal(VALUES[name], EQUATIONS[name])


def test_losses_of_correlations_are_numpy_s_times_the_squared_temperature():
    z, teacher = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    p, q = (special.softmax(x / 3.0, axis=-1) for x in (z, teacher))
    expected = [
        9 * np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in pairs])
        for pairs in (zip(p, q), zip(p.T, q.T))
    ]
    losses = dist.correlation_losses(teacher, z, 3.0)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
