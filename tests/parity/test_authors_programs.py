"""Adaptation, penalties and domains: the equations against their authors' programs.

`values.json` holds the programs' values; the factor between the two programs' values
stands here, with each equation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_values

from jaxtl.optim.schedules import GaussianRamp, Ramp
from jaxtl.terms import losses
from jaxtl.terms.domain import afn, bnm, bsp, cdan, coral, dan, jan, mcc, mcd, mdd, shot
from jaxtl.terms.domain.adversarial import discriminator_loss
from jaxtl.terms.generalization import group_dro, irm
from jaxtl.terms.imbalance.focal import focal_losses
from jaxtl.terms.imbalance.label_margin import label_margins
from jaxtl.terms.noisy import coteaching, elr
from jaxtl.terms.regularizers import bss, cotuning, delta, function_distance, l2sp
from jaxtl.terms.semi import fixmatch, flexmatch, uda

VALUES = stored_values.load("values.json")
LABELS = np.array([0, 1, 2, 0, 1, 1])
BANDWIDTHS = (2.0, 8.0, 18.0)  # 2σ² of σ = 1, 2, 3
# Entropies of these programs are −Σ p·log(p + 1e-5), which moves values by about 1e-5.
WITH_OFFSET = {"mcc": 2e-4, "cdan_e": 2e-4, "entropy": 2e-4}


def _channels_last(x):
    return jnp.moveaxis(x, 1, -1)


def _coral(a, b):
    # tllib adds the squared distance of the means, and divides by d², not by 4 d².
    return 4 * coral.coral(a, b) + jnp.mean((a.mean(0) - b.mean(0)) ** 2)


def _delta(attention):
    def distance(a, b, *logits):
        weights = [jax.nn.softmax(w) for w in logits]
        value = delta.feature_distance(_channels_last(a), _channels_last(b), *weights)
        # Theirs sums over 2 examples, and over 4 positions where it has no weights.
        return 2 * value * (1 if attention else 4)

    return distance


def _jan(a, b, c, d):
    widths = [{"bandwidths": BANDWIDTHS}, {"bandwidths": BANDWIDTHS[:1]}]
    return jan.joint_mmd((a, b), (c, d), widths, "unbiased")


def _mmd(a, b):
    return dan.mmd(a, b, bandwidths=BANDWIDTHS, estimator="unbiased")


def _summed(value):
    # tllib adds its three kernels, and 2 / (n − 1) with n = 5.
    return lambda *inputs: 3 * value(*inputs) + 0.5


def _mdd(source, target, head_source, head_target):
    labels = (jnp.argmax(head, axis=1) for head in (head_source, head_target))
    first, second = labels
    return mdd.margin_disparity(source, first, target, second, 3.0)


def _cdan(features, logits, matrix, weights=(None, None)):
    inputs = cdan.multilinear_map(features, jax.nn.softmax(logits))
    # Their map is g ⊗ f, so the rows of the discriminator's matrix are in its order.
    z = inputs @ matrix.T.reshape(-1)
    return discriminator_loss(z[:4], z[4:], *weights)[0]


def _cdan_entropy(logits, features, matrix):
    weights = cdan.entropy_weights(logits, 0.7)
    # The mean's denominator has no gradient in their program.
    still = jax.lax.stop_gradient
    z = cdan.multilinear_map(features, still(jax.nn.softmax(logits)))
    z = z @ matrix.T.reshape(-1)
    loss = jax.nn.softplus(z) - z * (jnp.arange(8) < 4)
    halves = (weights[:4], loss[:4]), (weights[4:], loss[4:])
    return 0.5 * sum(jnp.sum(w * v) / still(jnp.sum(w)) for w, v in halves)


def _uda(strong, weak):
    # tllib takes the mean over the examples that count, UDA's authors over all.
    value, mask = uda.consistency(weak, strong, 1.0, 0.5)
    return value * len(mask) / mask.sum()


def _bnm(logits):
    # Theirs is the mean of the min(B, K) = 3 singular values of 6 rows, minimized.
    return -bnm.nuclear_norm(jax.nn.softmax(logits)) * 6 / 3


def _group_dro(logits):
    each = losses.cross_entropies(logits, LABELS).reshape(2, 3)
    risks = jnp.mean(each, axis=1)
    log_weights = group_dro.updated_log_weights(jnp.zeros(2), risks, 0.5)
    return jnp.sum(jnp.exp(log_weights) * risks)


def _ldam(logits):
    margins = label_margins(jnp.array([100.0, 20.0, 5.0]), 0.5)
    shifted = logits - jax.nn.one_hot(LABELS, 3) * margins
    return losses.cross_entropy(30 * shifted, LABELS)


def _co_teaching(first, second):
    each = (losses.cross_entropies(z, LABELS) for z in (first, second))
    # Theirs divides the mean by the number of examples that count (4) once more.
    return coteaching.co_teaching_losses(*each, 0.7)[0] / 4


def _elr(logits, before):
    targets = elr.ensembled_targets(jax.nn.softmax(before), logits, 0.7)
    penalty = elr.early_learning_penalty(logits, targets)
    return losses.cross_entropy(logits, LABELS) + 3.0 * penalty


EQUATIONS = {
    "bnm": _bnm,
    "bsp": lambda a, b: bsp.spectral_penalty(a) + bsp.spectral_penalty(b),
    "bss": lambda a: bss.spectral_shrinkage(a, 2),
    "cdan": _cdan,
    "cdan_e": _cdan_entropy,
    "co_teaching": _co_teaching,
    "co_tuning": lambda a, b: losses.cross_entropy(a, jax.nn.softmax(b)),
    "coral": _coral,
    "dan": _summed(_mmd),
    "dann": lambda z: discriminator_loss(z[:4, 0], z[4:, 0])[0],
    "delta_attention": _delta(attention=True),
    "delta_uniform": _delta(attention=False),
    "elr": _elr,
    "entropy": lambda z: shot.information_maximization(z)[0],
    "focal": lambda z: jnp.mean(focal_losses(z, LABELS, 2.0)),
    "group_dro": _group_dro,
    "irm": lambda z: irm.penalty(z, LABELS, halves=True),
    "jan": _summed(_jan),
    "knowledge_distillation": lambda student, teacher: jnp.mean(
        function_distance.kl_divergence(teacher, student, 2.0)
    ),
    "l2sp": lambda a, b: l2sp.l2sp({"w": a}, {"w": b}),
    "label_smoothing": lambda z: losses.cross_entropy(z, LABELS, 0.1),
    "ldam": _ldam,
    "mcc": lambda z: mcc.class_confusion(z, 2.5),
    "mcd": mcd.discrepancy,
    "mdd": _mdd,
    "pseudo_label": lambda strong, weak: fixmatch.fixmatch(weak, strong, 0.5)[0],
    "safn": lambda a: afn.stepwise_norm_loss(afn.norms(a), 1.0),
    "uda": _uda,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_value_and_gradient_are_the_authors(name):
    tolerance = WITH_OFFSET.get(name, 1e-9)
    stored_values.assert_equal(VALUES[name], EQUATIONS[name], tolerance)


def test_co_tunings_relationship_is_the_authors():
    case = VALUES["relationship"]
    [x] = stored_values.inputs(case)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    found = cotuning.direct_relationship(p, labels, 3)
    np.testing.assert_allclose(found, case["value"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "schedule", "steps"),
    [
        ("ramp", Ramp(per_steps=10_000.0), [0, 100, 600, 4000]),
        ("gaussian_ramp", GaussianRamp(end=1.0, per_steps=8.0), [0, 2, 5, 8, 12]),
    ],
)
def test_ramps_are_the_authors(name, schedule, steps):
    found = schedule.value(jnp.asarray(steps, jnp.float32), jnp.float32(100))
    np.testing.assert_allclose(found, VALUES[name]["value"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["flexmatch", "flexmatch_warmup"])
def test_flexmatchs_thresholds_are_the_authors(name):
    # Of nine examples four had a confident prediction: class 0 three times, 1 once.
    latest = jnp.array([0, 0, 1, -1, 0, -1, -1, -1, -1])
    status = flexmatch.learning_status(latest, 3, name == "flexmatch_warmup")
    found = flexmatch.class_thresholds(status, 0.95)
    np.testing.assert_allclose(found, VALUES[name]["value"], rtol=1e-6)


def test_every_stored_value_is_compared():
    others = {"relationship", "ramp", "gaussian_ramp", "flexmatch", "flexmatch_warmup"}
    assert {*EQUATIONS, *others} == set(VALUES)
