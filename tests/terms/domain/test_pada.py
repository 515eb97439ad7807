"""PADA: class weights, the weighted losses against torch and by the paper's sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import DANN, ClassWeightedCrossEntropy, PartialDANN, adversarial
from jaxtl.terms.domain.pada import class_weights, weighted_cross_entropy


def test_weights_are_the_mean_prediction_over_its_largest():
    p = np.random.default_rng(0).dirichlet(np.ones(5), 30)
    gamma = p.mean(0)  # eq. 4
    np.testing.assert_allclose(class_weights(p.mean(0)), gamma / gamma.max(), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_weighted_cross_entropy_is_torchs_sum_over_n(smoothing):
    torch = pytest.importorskip("torch", reason="the loss is held to torch's")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 4)) * 2, rng.integers(0, 4, 40)
    weights = rng.uniform(0.1, 1, 4)
    actual = weighted_cross_entropy(
        jnp.asarray(logits, jnp.float32), labels, jnp.asarray(weights), smoothing
    )
    z, y = torch.tensor(logits), torch.tensor(labels)
    loss = torch.nn.functional.cross_entropy
    losses = loss(z, y, reduction="none", label_smoothing=smoothing)
    expected = (torch.tensor(weights)[y] * losses).sum() / len(y)
    np.testing.assert_allclose(actual, expected.item(), rtol=1e-5)
    if smoothing == 0.0:  # torch weighs the smoothed part by class as well
        weighted = loss(z, y, weight=torch.tensor(weights), reduction="sum") / len(y)
        np.testing.assert_allclose(actual, weighted.item(), rtol=1e-5)


def _softmax(harness, stream):
    x = harness.batches[stream]["x"]
    out = harness.network.apply(harness.params, harness.stats, x)
    logits = np.asarray(out.logits, np.float64)
    return special.softmax(logits, axis=1), np.asarray(out.features["layer1"])


def _gamma(harness, momentum, old):
    p, _ = _softmax(harness, "unlabelled")
    mean = momentum * old + (1 - momentum) * p.mean(0)
    return mean, mean / mean.max()


def test_the_task_term_weighs_the_source_by_the_running_prediction(bench):
    harness = bench()
    term = ClassWeightedCrossEntropy(momentum=0.75)
    term.check(harness.setup)
    state = term.init_state(harness.setup)
    np.testing.assert_allclose(state["prediction"], 1 / 3, rtol=1e-6)
    old = np.asarray([0.6, 0.3, 0.1])
    context = harness.context(state={"prediction": jnp.asarray(old, jnp.float32)})
    value, extra = term(View(context, "term", 0))
    mean, gamma = _gamma(harness, 0.75, old)
    p, _ = _softmax(harness, "source")
    y = np.asarray(harness.batches["source"]["y"])
    terms = [gamma[label] * -np.log(row[label]) for row, label in zip(p, y)]
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(extra["mean_weight"], gamma.mean(), rtol=1e-5)
    np.testing.assert_allclose(extra["accuracy"], np.mean(p.argmax(1) == y), rtol=1e-6)
    prediction = context.term_states["term"]["prediction"]
    np.testing.assert_allclose(prediction, mean, rtol=1e-5)


def test_the_discriminator_weighs_the_source_alone(bench):
    harness = bench()
    term = PartialDANN(momentum=0.75, widths=(4,))
    term.check(harness.setup)
    term_params = term.init(jax.random.key(0), harness.setup)
    old = np.asarray([0.6, 0.3, 0.1])
    state = {"prediction": jnp.asarray(old, jnp.float32)}
    context = harness.context(term_params=term_params, state=state)
    value, extra = term(View(context, "term", 0))
    _, gamma = _gamma(harness, 0.75, old)

    def logit(stream):
        _, feature = _softmax(harness, stream)
        return np.asarray(adversarial.discriminator(term_params, feature), np.float64)

    y = np.asarray(harness.batches["source"]["y"])
    source, target = logit("source"), logit("unlabelled")
    source_losses = [gamma[c] * -np.log(special.expit(z)) for z, c in zip(source, y)]
    target_losses = -np.log(special.expit(-target))
    np.testing.assert_allclose(
        value, 0.5 * (np.mean(source_losses) + target_losses.mean()), rtol=1e-5
    )
    hits = 0.5 * (np.mean(source > 0) + np.mean(target <= 0))
    np.testing.assert_allclose(extra["accuracy"], hits, rtol=1e-6)
    # Where all classes are predicted alike nothing is weighed: DANN.
    even = PartialDANN(momentum=1.0, widths=(4,))
    state = even.init_state(harness.setup)
    context = harness.context(term_params=term_params, state=state)
    unweighted, _ = even(View(context, "term", 0))
    context = harness.context(term_params=term_params)
    plain, _ = DANN(widths=(4,))(View(context, "term", 0))
    np.testing.assert_allclose(unweighted, plain, rtol=1e-6)


def test_errors(bench):
    setup = bench().setup
    for cls in (ClassWeightedCrossEntropy, PartialDANN):
        for fields, message in (
            ({"target": "unlabeled"}, "did you mean 'unlabelled'"),
            ({"source": "unlabelled"}, "this stream has no labels"),
            ({"momentum": 1.5}, r"momentum=1.5: expected a number in \[0, 1\]"),
        ):
            with pytest.raises(UserError, match=message):
                cls(**fields).check(setup)
        with pytest.raises(UserError, match="is a term for classification"):
            cls().check(bench("regression").setup)
