"""Wrong, rare and few labels: the equations against their authors' programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_values

from jaxtl.terms import losses, ordinal
from jaxtl.terms.domain.entropy import entropy
from jaxtl.terms.imbalance.class_weights import effective_number_weights
from jaxtl.terms.imbalance.logit_adjustment import adjusted_logits
from jaxtl.terms.noisy import dividemix, gce, loss_correction, nnpu, proden, sce
from jaxtl.terms.noisy.gaussian_mixture import (
    fit_two_gaussians,
    lower_component_probability,
)
from jaxtl.terms.noisy.label_proportions import bag_divergence
from jaxtl.terms.noisy.transition_matrix import estimate_transition
from jaxtl.terms.semi import freematch, mean_teacher, mixmatch, pseudo_targets, uda, vat

VALUES = stored_values.load("label_values.json")
LABELS = np.array([0, 1, 2, 0, 1, 1])
CANDIDATES = np.array(
    [[1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 0]]
)
TRANSITION = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.05, 0.05, 0.9]])
TOLERANCES = {
    # Theirs adds 1e-6 to the squared norm of a direction whose largest entry is 1.
    "vat": 1e-5,
    "freematch_fairness": 1e-8,  # 1e-12 in the logarithm
}


def _sce(logits):
    # The program clips the one-hot label at 1e-4, where the paper has A = -4.
    reverse = sce.reverse_cross_entropy(logits, LABELS, np.log(1e-4))
    return 0.3 * losses.cross_entropy(logits, LABELS) + 0.7 * reverse


def _truncated(logits):
    # Theirs leaves out the constant loss at the threshold.
    constant = (1 - 0.5**0.7) / 0.7
    return gce.generalized_cross_entropy(logits, LABELS, 0.7, 0.5) - constant


def _nnpu(shift):
    def risk(x):
        ones = jnp.ones(3)
        return nnpu.non_negative_risk(
            x[:3, 0], ones, x[3:, 0] + shift, 0.4, 0.0, gamma=0.5
        )[0]

    return risk


def _reversed_mix(values):
    """Each row with that of the opposite place, λ = 0.7."""
    return 0.7 * values + 0.3 * values[::-1]


def _dividemix(weights, second_weights, x, u):
    def probabilities(rows, matrix):
        return pseudo_targets.target_probabilities(rows @ matrix.T)

    both = (probabilities(u, w) for w in (weights, second_weights))
    guessed = dividemix.sharpen(sum(p[:3] + p[3:] for p in both) / 4, 0.5)
    p = probabilities(x, weights)
    observed = jax.nn.one_hot(jnp.array([0, 2, 1]), 3)
    refined = dividemix.refine_labels(
        (p[:3] + p[3:]) / 2, observed, jnp.array([0.9, 0.6, 0.7]), 0.5
    )
    targets = _reversed_mix(jnp.concatenate([refined, refined, guessed, guessed]))
    logits = _reversed_mix(jnp.concatenate([x, u])) @ weights.T
    labelled = (jnp.arange(12) < 6).astype(x.dtype)
    l_x, l_u, l_reg = dividemix.dividemix_losses(logits, targets, labelled)
    # λ_u = 25 at 10 of the 16 epochs of its ramp.
    return l_x + 25 * 10 / 16 * l_u + l_reg


def _mixmatch(weights, x, first, second):
    guesses = mixmatch.guessed_labels([u @ weights.T for u in (first, second)], 0.5)
    observed = jax.nn.one_hot(jnp.array([0, 2, 1]), 3)
    p = _reversed_mix(jnp.concatenate([observed, guesses, guesses]))
    logits = _reversed_mix(jnp.concatenate([x, first, second])) @ weights.T
    labelled = losses.cross_entropy(logits[:3], p[:3])
    unlabelled = pseudo_targets.squared_distance(
        pseudo_targets.softmax(logits[3:]), p[3:]
    )
    return labelled + 4.0 * unlabelled


def _proportions(logits, bag_logits):
    p, q = jax.nn.softmax(bag_logits), jax.nn.softmax(logits)
    # Theirs is the cross-entropy, ours less the entropy of the proportions.
    entropies = -jnp.sum(p * jnp.log(p), axis=-1)
    return bag_divergence(q, p, jnp.ones(4)) + jnp.mean(entropies)


def _uniform_averages():
    thirds = jnp.full(3, 1 / 3)
    return {"threshold": thirds[0], "probabilities": thirds, "histogram": thirds}


def _freematch_thresholds(*weak):
    state = _uniform_averages()
    for logits in weak:
        q = jax.nn.softmax(logits)
        state = freematch.updated_averages(state, q, 0.6)
    thresholds = freematch.self_adaptive_thresholds(state)
    _, mask = pseudo_targets.pseudo_labels(q, thresholds[jnp.argmax(q, axis=1)])
    averages = state["probabilities"], state["histogram"]
    return jnp.concatenate([thresholds, *averages, mask])


def _freematch_fairness(strong, weak):
    q = jax.nn.softmax(weak)
    state = freematch.updated_averages(_uniform_averages(), q, 0.6)
    thresholds = freematch.self_adaptive_thresholds(state)
    _, mask = pseudo_targets.pseudo_labels(q, thresholds[jnp.argmax(q, axis=1)])
    return freematch.fairness_loss(state, strong, mask)


def _vat(weights, x, start):
    def logits(x, weights):
        return 2 * jnp.tanh(x @ weights.T)

    p = pseudo_targets.target_probabilities(logits(x, weights))

    def distance(r, weights):
        return pseudo_targets.kl(p, logits(x + r, weights))

    direction = vat.adversarial_direction(
        lambda r: distance(r, jax.lax.stop_gradient(weights)).sum(),
        start,
        steps=2,
        size=1e-6,
    )
    return distance(2.0 * direction, weights).mean()


def _teacher_average(teacher, student):
    state = {"params": {"w": teacher}, "stats": {}}
    return jnp.stack(
        [
            mean_teacher.updated_teacher(state, {"w": student}, {}, 0.9, step)[
                "params"
            ]["w"]
            for step in (0, 3, 40)
        ]
    )


def _consistency(first, second):
    p, q = pseudo_targets.softmax(first), pseudo_targets.softmax(second)
    return pseudo_targets.squared_distance(p, q)


def _logit_adjustment(logits):
    adjusted = adjusted_logits(logits, jnp.array([0.7, 0.25, 0.05]), 1.5)
    return losses.cross_entropy(adjusted, LABELS)


EQUATIONS = {
    "backward_correction": lambda z: loss_correction.backward_corrected(
        z, LABELS, np.linalg.inv(TRANSITION)
    ),
    "dividemix": _dividemix,
    "effective_number": lambda: effective_number_weights([500, 40, 3], 0.99),
    "entropy_minimization": lambda z: jnp.mean(entropy(z)),
    "forward_correction": lambda z: loss_correction.forward_corrected(
        z, LABELS, TRANSITION
    ),
    "freematch_fairness": _freematch_fairness,
    "freematch_thresholds": _freematch_thresholds,
    "gce": lambda z: gce.generalized_cross_entropy(z, LABELS, 0.7),
    "gce_truncated": _truncated,
    "label_proportions": _proportions,
    "logit_adjustment": _logit_adjustment,
    # Theirs is the sum over examples, of which there are 6.
    "mean_teacher": lambda a, b: 6 * _consistency(a, b),
    "mean_teacher_average": _teacher_average,
    "mixmatch": _mixmatch,
    "mixmatch_guesses": lambda *views: mixmatch.guessed_labels(views, 0.5),
    "nnpu": _nnpu(1.0),
    "nnpu_corrected": _nnpu(-4.0),
    "ordinal": lambda z: jnp.mean(
        ordinal.coral_losses(z, jnp.array([0, 3, 2, 1, 3, 0]))
    ),
    # tllib's is the sum over classes, of which there are 3.
    "pi_model": lambda a, b: 3 * _consistency(a, b),
    "proden": lambda z: proden.weighted_cross_entropy(
        z, CANDIDATES / CANDIDATES.sum(1, keepdims=True)
    ),
    "proden_weights": lambda z: proden.candidate_weights(z, CANDIDATES),
    "sce": _sce,
    "uda_annealed": lambda z: uda.annealed_cross_entropy(
        z, LABELS, uda.signal_threshold("exp", jnp.float64(0.6), 3)
    )[0],
    "uda_thresholds": lambda: jnp.stack(
        [
            uda.signal_threshold(rise, jnp.float64(share), 3)
            for rise in ("linear", "log", "exp")
            for share in (0, 0.25, 0.6, 1)
        ]
    ),
    "vat": _vat,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_value_and_gradient_are_the_authors(name):
    tolerance = TOLERANCES.get(name, 1e-9)
    stored_values.assert_equal(VALUES[name], EQUATIONS[name], tolerance)


def test_the_mixture_of_losses_is_the_authors_where_two_modes_are_apart():
    # Theirs is scikit-learn's, stopped after 10 steps or a gain below 0.01.
    case = VALUES["dividemix_mixture"]
    [x] = stored_values.inputs(case)
    values = np.concatenate([0.3 * np.abs(x[:120]), 3 + 0.4 * x[120:]])
    values = (values - values.min()) / (values.max() - values.min())
    with jax.enable_x64(True):
        clean = lower_component_probability(jax.jit(fit_two_gaussians)(values), values)
    np.testing.assert_allclose(clean, case["value"], atol=1e-6)


@pytest.mark.parametrize("name", ["transition", "transition_outliers"])
def test_the_estimated_transition_is_the_authors(name):
    case = VALUES[name]
    [z] = stored_values.inputs(case)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    quantile = 1.0 if name == "transition" else 0.97
    estimate = estimate_transition(p, quantile)
    np.testing.assert_allclose(estimate, case["value"], rtol=1e-9)


def test_mixed_examples_are_between_the_authors_pairs(monkeypatch):
    case = VALUES["mixmatch_mixup"]
    with jax.enable_x64(True):
        x, p, share = map(jnp.asarray, stored_values.inputs(case))
        monkeypatch.setattr(jax.random, "permutation", lambda _, n: jnp.arange(n)[::-1])
        monkeypatch.setattr(jax.random, "beta", lambda *_: jax.nn.sigmoid(share))
        mixed = mixmatch.mixup(jax.random.key(0), x, p, 0.75)
    np.testing.assert_allclose(jnp.concatenate(mixed, 1), case["value"], rtol=1e-9)


def test_every_stored_value_is_compared():
    others = {
        "dividemix_mixture",
        "mixmatch_mixup",
        "transition",
        "transition_outliers",
    }
    assert {*EQUATIONS, *others} == set(VALUES)
