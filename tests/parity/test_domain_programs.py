"""Adaptation and generalization: the equations against their authors' programs.

SHOT's labels and CDAN's gradient through its weights are compared with their authors'
in `tests/terms/domain/`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_values

from jaxtl.evaluation import validators
from jaxtl.terms import losses
from jaxtl.terms.domain import adversarial, afn, cbst, cmd, deepjdot, pada
from jaxtl.terms.generalization import base, mixstyle, mixup, mldg, vrex

VALUES = stored_values.load("domain_values.json")
LABELS = jnp.array([0, 1, 2, 0, 1, 1])


def _adda_mapping(target, source, matrix):
    # Theirs is the mean over both domains; the source's part does not train.
    logits = [x @ (matrix[:, 0] - matrix[:, 1]) for x in (source, target)]
    constant, mapping = (
        adversarial.domain_loss(z, domain)[0] for z, domain in zip(logits, (0.0, 1.0))
    )
    return 0.5 * (constant + mapping)


def _adda_adversary(target, source, matrix):
    column = matrix[:, 0] - matrix[:, 1]
    return adversarial.discriminator_loss(source @ column, target @ column)[0]


def _cbst(logits):
    p = jax.nn.softmax(logits)
    thresholds = cbst.class_thresholds(p.max(1), p.argmax(1), 0.5, 3)
    labels, is_selected = cbst.balanced_labels(p, thresholds)
    return jnp.concatenate([thresholds, jnp.where(is_selected, labels, -1)])


def _cmd(a, b):
    return cmd.central_moments(jax.nn.sigmoid(a), jax.nn.sigmoid(b), 5)


def _deepjdot(features, logits, plan):
    plan = jax.nn.softmax(plan.reshape(-1)).reshape(5, 5)
    feature_costs = deepjdot.feature_cost(features[:5], features[5:])
    label_costs = deepjdot.label_cost(jnp.array([0, 1, 2, 0, 1]), logits[5:])
    return jnp.sum(plan * (0.3 * feature_costs + 0.7 * label_costs))


def _class_weights(logits):
    return pada.class_weights(jnp.mean(jax.nn.softmax(logits), axis=0))


def _pada(features, target_logits, matrix):
    weights = _class_weights(target_logits)[jnp.array([0, 1, 1, 0])]
    z = features @ matrix[:, 0]
    # Theirs divides by the largest weight of the batch.
    weights = weights / weights.max()
    return pada.partial_discriminator_loss(z[:4], z[4:], weights)[0]


def _pada_task(logits, target_logits):
    weights = _class_weights(target_logits)
    value = pada.weighted_cross_entropy(logits, LABELS, weights)
    # Theirs divides by the sum of the weights, ours by n = 6.
    return value * 6 / weights[LABELS].sum()


def _vrex(logits):
    streams = {str(i): slice(2 * i, 2 * i + 2) for i in range(3)}
    parts = ({k: x[rows] for k, rows in streams.items()} for x in (logits, LABELS))
    risks = base.risks(*parts)
    return risks.mean() + 2.0 * vrex.variance(risks)


def _mldg(weights, x):
    def risk(params, rows):
        return losses.cross_entropy(x[rows] @ params["w"].T, LABELS[rows])

    params = {"w": weights}
    train, gradient = jax.value_and_grad(risk)(params, slice(3))
    stepped = mldg.gradient_step(params, jax.lax.stop_gradient(gradient), 0.5)
    # Theirs is the mean over the pairs of a domain with each other one: 1 of 2 here.
    return (train + 0.8 * risk(stepped, slice(3, None))) / 2


def _hafn(*domains):
    # Theirs adds the losses of the domains, the term takes their mean.
    return sum(afn.hard_norm_loss(afn.norms(x), 3.0) for x in domains)


def _mixup(weights, x):
    domains, labels = x.reshape(2, 3, 4), LABELS.reshape(2, 3)
    partner, share = jnp.array([1, 0]), jnp.array([0.3, 0.8])
    logits = mixup.interpolate(domains, domains[partner], share) @ weights.T
    risks = jax.vmap(losses.cross_entropy)
    first, second = risks(logits, labels), risks(logits, labels[partner])
    return jnp.mean(mixup.interpolate(first, second, share))


def _mixstyle(x, share):
    images = jnp.moveaxis(x, 1, -1)
    partner = jnp.array([3, 2, 1, 0])
    mixed = mixstyle.mix_styles(images, partner, jax.nn.sigmoid(share))
    return jnp.sum(jnp.sin(mixed))


EQUATIONS = {
    "adda_adversary": _adda_adversary,
    "adda_mapping": _adda_mapping,
    "cbst": _cbst,
    "cmd": _cmd,
    "deepjdot": _deepjdot,
    "hafn": _hafn,
    "mixstyle": _mixstyle,
    "mixup": _mixup,
    "mldg": _mldg,
    "pada": _pada,
    "pada_task": _pada_task,
    "vrex": _vrex,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_value_and_gradient_are_the_authors(name):
    stored_values.assert_equal(VALUES[name], EQUATIONS[name])


def test_deep_embedded_validation_is_the_authors():
    example_losses, weights = map(np.abs, stored_values.inputs(VALUES["dev"]))
    value = validators.dev(example_losses, weights)
    np.testing.assert_allclose(value, VALUES["dev"]["value"], rtol=1e-9)


def test_every_stored_value_is_compared():
    assert {*EQUATIONS, "dev"} == set(VALUES)
