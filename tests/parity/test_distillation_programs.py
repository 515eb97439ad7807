"""Distillation: the equations against the programs of their authors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_values

from jaxtl.terms.distillation import crd, dist, dkd, fitnets, kd, nst, pkt, rkd, sp, vid
from jaxtl.terms.distillation.feature_pairs import paired
from jaxtl.terms.regularizers.attention_transfer import attention_distance

VALUES = stored_values.load("distillation_values.json")
LABELS = np.array([0, 1, 2, 3, 4, 0])


def _dkd(z, teacher):
    target, other = dkd.decoupled_losses(teacher, z, LABELS, 4.0)
    return jnp.mean(1.0 * target + 8.0 * other)


def _dist(z, teacher):
    def softmax(x):
        return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)

    p, q = softmax(z), softmax(teacher)
    return 2.0 * dist.pearson_distance(p, q) + 0.5 * dist.pearson_distance(p.T, q.T)


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
