"""Contrastive losses against transformers in float64, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.terms import image_text, losses, regularizers

LOSSES = {
    "clip": losses.symmetric_cross_entropy,
    "siglip": losses.pairwise_sigmoid,
}


def embeddings(n, width=4, seed=0):
    """Images and texts of length 1, float64."""
    x = np.random.default_rng(seed).normal(size=(2, n, width))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pair_model(kind):
    """A small random model of transformers, float64."""
    transformers, torch = map(pytest.importorskip, ("transformers", "torch"))
    torch.manual_seed(0)
    sides = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sides["num_attention_heads"] = 2
    text = {**sides, "vocab_size": 20, "max_position_embeddings": 6}
    vision = {**sides, "image_size": 8, "patch_size": 4}
    if kind == "siglip":
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    else:
        text["eos_token_id"] = 19
        config = transformers.CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=8
        )
        model = transformers.CLIPModel(config)
    with torch.no_grad():
        model.logit_scale += 0.5
        if kind == "siglip":
            model.logit_bias -= 1.0
    ids = torch.randint(1, 20, (5, 6))
    pixels = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    return model.double(), {"input_ids": ids, "pixel_values": pixels}


@pytest.mark.parametrize("kind", LOSSES)
def test_values_and_gradients_are_those_of_transformers(kind):
    model, inputs = pair_model(kind)
    out = model(**inputs, return_loss=True)
    out.image_embeds.retain_grad()
    out.text_embeds.retain_grad()
    out.loss.backward()
    bias = getattr(model, "logit_bias", None)

    def loss(images, texts, log_scale, bias):
        logits = image_text.similarities(images, texts, jnp.exp(log_scale), bias)
        return LOSSES[kind](logits)

    arrays = [out.image_embeds, out.text_embeds, model.logit_scale]
    arrays += [] if bias is None else [bias]
    with jax.enable_x64(True):
        values = [jnp.asarray(a.detach().numpy()) for a in arrays]
        values = [v.reshape(()) if v.size == 1 else v for v in values]
        values += [jnp.float64(0.0)] if bias is None else []
        value, gradients = jax.value_and_grad(loss, (0, 1, 2, 3))(*values)
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-6)
    for ours, theirs in zip(gradients, arrays):
        want = theirs.grad.numpy().reshape(ours.shape)
        np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-7)


def reference(kind, z, w):
    """The weighted loss in numpy."""
    if kind == "clip":
        log_p = [z - np.logaddexp.reduce(z, axis=a, keepdims=True) for a in (0, 1)]
        rows = -sum(np.diag(part) for part in log_p) / 2
    else:
        each = np.logaddexp(0, -(2 * np.eye(len(z)) - 1) * z)
        rows = (each.sum(0) + each.sum(1)) / 2
    return (w * rows).sum() / w.sum()


COMPILED = {kind: jax.jit(jax.value_and_grad(f)) for kind, f in LOSSES.items()}


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(LOSSES)),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=5, max_size=5),
    st.integers(0, 99),
)
def test_weights_are_of_pairs_and_one_of_0_is_no_pair(kind, weights, seed):
    weights = np.array([1.0, *weights[1:]])
    images, texts = embeddings(5, seed=seed)
    z, kept = 5.0 * images @ texts.T - 2.0, weights > 0
    value, gradient = COMPILED[kind](jnp.asarray(z), jnp.asarray(weights))
    want = reference(kind, z[kept][:, kept], weights[kept])
    np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-6)
    assert not np.asarray(gradient)[~kept].any()
    assert not np.asarray(gradient)[:, ~kept].any()


def test_equal_similarities_cost_the_logarithm_of_the_batch():
    value, _ = COMPILED["clip"](jnp.full((5, 5), 3.0), jnp.ones(5))
    np.testing.assert_allclose(value, np.log(5), rtol=1e-6)


def test_large_logits_stay_finite():
    logits = 1e4 * (jnp.eye(5) - 1.0)
    for loss in COMPILED.values():
        value, gradient = loss(logits, jnp.array([1.0, 0.0, 1.0, 1.0, 1.0]))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "term",
    [
        regularizers.FunctionDistance(),
        regularizers.JacobianDifference(),
        regularizers.EWC(),
        regularizers.MAS(),
        regularizers.R3F(),
        regularizers.SMART(),
    ],
    ids=lambda term: type(term).__name__,
)
def test_terms_of_one_output_vector_refuse_pairs(bench, term):
    with pytest.raises(UserError, match="embeddings of images and of texts"):
        term.check(bench("contrastive").setup)


def test_the_default_loss_is_the_one_that_the_model_names():
    assert isinstance(losses.for_task("contrastive"), losses.ImageTextCrossEntropy)

    class Pairs:
        pair_loss = "sigmoid"

    assert isinstance(losses.for_task("contrastive", Pairs()), losses.ImageTextSigmoid)
