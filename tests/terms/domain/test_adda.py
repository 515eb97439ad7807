"""ADDA: two losses in one, each training one side only; the source stands still."""

import jax
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import ADDA


def _logits(term_params, z):
    z = np.float64(z)
    for i in range(len(term_params)):
        layer = jax.tree.map(np.float64, term_params[f"layer{i}"])
        z = (np.maximum(z, 0) if i else z) @ layer["kernel"] + layer["bias"]
    return z[:, 0]


def test_both_losses_are_numpys_and_train_one_side_each(bench):
    torch = pytest.importorskip("torch", reason="gradients are held to torch's")
    harness = bench(moved=0.5)
    term = ADDA(widths=(4,))
    term.check(harness.setup)
    term_params = term.init(jax.random.key(0), harness.setup)

    def value(params, term_params):
        return term(View(harness.context(params, term_params=term_params), "term", 0))

    (actual, extra), (model, discriminator) = jax.value_and_grad(
        value, argnums=(0, 1), has_aux=True
    )(harness.params, term_params)
    # The source's encoder is θ₀, not the model.
    theirs = harness.network.apply(
        harness.source.params, harness.stats, harness.batches["source"]["x"]
    ).features["layer1"]
    ours = harness.network.apply(
        harness.params, harness.stats, harness.batches["unlabelled"]["x"]
    ).features["layer1"]
    s, t = _logits(term_params, theirs), _logits(term_params, ours)
    discriminator_loss = 0.5 * (
        np.mean(np.log1p(np.exp(-s))) + np.mean(np.log1p(np.exp(t)))
    )
    encoder_loss = np.mean(np.log1p(np.exp(-t)))
    np.testing.assert_allclose(actual, discriminator_loss + encoder_loss, rtol=1e-5)
    np.testing.assert_allclose(extra["discriminator"], discriminator_loss, rtol=1e-5)
    np.testing.assert_allclose(extra["encoder"], encoder_loss, rtol=1e-5)
    hits = 0.5 * (np.mean(s > 0) + np.mean(t <= 0))
    np.testing.assert_allclose(extra["accuracy"], hits, rtol=1e-6)
    assert all((g == 0).all() for g in jax.tree.leaves(model["head"]))
    _same_as_torch(torch, harness, term_params, theirs, model, discriminator)


def _same_as_torch(torch, harness, term_params, theirs, model, discriminator):
    """Two optimizers' worth of gradients, as the paper's two losses give them."""

    def leaf(x):
        return torch.tensor(np.asarray(x), requires_grad=True)

    layers = [
        {k: leaf(term_params[f"layer{i}"][k]) for k in ("kernel", "bias")}
        for i in range(2)
    ]
    body = {k: leaf(v) for k, v in harness.params["layer1"]["dense"].items()}

    def judge(z):
        for i, layer in enumerate(layers):
            z = (torch.relu(z) if i else z) @ layer["kernel"] + layer["bias"]
        return z[:, 0]

    x = torch.tensor(np.asarray(harness.batches["unlabelled"]["x"]))
    ours = torch.relu(x @ body["kernel"] + body["bias"])
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    s, t = judge(torch.tensor(np.asarray(theirs))), judge(ours.detach())
    discriminator_loss = 0.5 * (
        bce(s, torch.ones_like(s)) + bce(t, torch.zeros_like(t))
    )
    discriminator_loss.backward()
    for i, layer in enumerate(layers):
        for k, value in layer.items():
            actual = discriminator[f"layer{i}"][k]
            np.testing.assert_allclose(actual, value.grad, atol=1e-6)
    t = judge(ours)
    bce(t, torch.ones_like(t)).backward()
    for k, value in body.items():
        np.testing.assert_allclose(model["layer1"]["dense"][k], value.grad, atol=1e-6)


def test_the_discriminator_may_read_the_logits_of_both(bench):
    harness = bench(moved=0.5)
    term = ADDA(widths=(4,), stage="head")
    term.check(harness.setup)
    term_params = term.init(jax.random.key(0), harness.setup)
    view = View(harness.context(harness.params, term_params=term_params), "term", 0)
    _, extra = term(view)
    x = {name: np.float64(harness.batches[name]["x"]) for name in harness.batches}

    def logits(params, x):
        dense = jax.tree.map(np.float64, params)
        layer, head = dense["layer1"]["dense"], dense["head"]["dense"]
        hidden = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
        return _logits(term_params, hidden @ head["kernel"] + head["bias"])

    s = logits(harness.source.params, x["source"])
    t = logits(harness.params, x["unlabelled"])
    discriminator = 0.5 * (np.mean(np.logaddexp(0, -s)) + np.mean(np.logaddexp(0, t)))
    np.testing.assert_allclose(extra["discriminator"], discriminator, rtol=1e-5)
    np.testing.assert_allclose(extra["encoder"], np.logaddexp(0, -t).mean(), rtol=1e-5)


def test_errors(bench):
    with pytest.raises(UserError, match=r"stage='head': logits .* whose head is new"):
        ADDA(stage="head").check(bench(new_head=True).setup)
    with pytest.raises(UserError, match="starts from scratch"):
        ADDA().check(bench(scratch=True).setup)
    with pytest.raises(UserError, match="did you mean 'source'"):
        ADDA(source="sources").check(bench().setup)
