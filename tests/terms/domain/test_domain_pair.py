"""What adaptation terms see of a stage: one vector per example, as the head reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.types import FROZEN
from jaxtl.terms.domain import adversarial, domain_pair

MODEL = tl.models.ResNet(depth=8, width=2)


def _images(seed, **options):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (24, 8, 8, 1)).astype(np.uint8)
    return tl.data.Arrays(x=x, y=np.arange(24) % 3, val=0, test=0, **options)


def _experiment(term, **changes):
    return tl.Experiment(
        model=MODEL,
        data=_images(1, labels=0),
        streams={"source": _images(0)},
        terms={"task": tl.losses.CrossEntropy(stream="source"), "term": term},
        batch=8,
        steps=2,
        monitor=None,
        test=False,
        **changes,
    )


def test_maps_are_averaged_where_the_head_averages_them_and_flattened_below():
    network = MODEL.pure()
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 8)).astype(np.float32)
    actual = domain_pair.stage_vectors(network, "stage3", jnp.asarray(x))
    np.testing.assert_allclose(actual, x.mean((1, 2)), rtol=1e-6)
    actual = domain_pair.stage_vectors(network, "stage2", jnp.asarray(x))
    np.testing.assert_array_equal(actual, x.reshape(3, -1))


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_a_discriminator_on_frozen_features_takes_the_pooled_ones(cache):
    groups = {"head": 1.0, ".*": FROZEN}
    run = tl.setup(
        _experiment(
            tl.domain.DANN(widths=(4,)),
            optim=tl.optim.AdamW(groups=groups),
            cache=cache,
        )
    )
    term_params = run.state.trainable["terms"]["term"]
    assert term_params["layer0"]["kernel"].shape == (8, 4)
    before = jax.tree.map(np.array, term_params)
    metrics = run.advance(2)
    assert np.isfinite([list(step.values()) for step in metrics]).all()
    after = run.state.trainable["terms"]["term"]
    assert not np.array_equal(after["layer0"]["kernel"], before["layer0"]["kernel"])


def test_a_second_classifier_sees_what_the_head_sees():
    run = tl.setup(_experiment(tl.domain.MCD(widths=(), weight=0.1)))
    assert run.state.trainable["terms"]["term"]["layer0"]["kernel"].shape == (8, 3)
    assert np.isfinite(list(run.advance(1)[0].values())).all()


def test_tokens_become_one_vector_and_their_gradient_is_reversed():
    sizes = dict(vocab=11, width=8, layers=1, heads=2, hidden=8, context=6)
    network = tl.models.Bert(**sizes, outputs=3).pure()
    ids = jnp.asarray([[1, 2, 3, 0], [4, 5, 0, 0]])
    x = {"input_ids": ids, "attention_mask": (ids > 0).astype(jnp.int32)}
    params, stats = network.init(jax.random.key(0), x)
    features = network.apply(params, stats, x).features
    before = network.stages[-2]
    assert domain_pair.stage_vectors(network, before, features[before]).shape == (2, 8)

    tokens = features["embeddings"]
    actual = domain_pair.stage_vectors(network, "embeddings", tokens)
    real = np.asarray(tokens.states[0, :3]).mean(0)
    np.testing.assert_allclose(actual[0], real, rtol=1e-5)

    def total(states, reverse):
        changed = tokens._replace(states=states)
        if reverse:
            changed = adversarial.reverse_feature_gradient(changed, jnp.float32(2.0))
        return jnp.sin(domain_pair.stage_vectors(network, "embeddings", changed)).sum()

    plain, turned = (jax.grad(total)(tokens.states, r) for r in (False, True))
    np.testing.assert_allclose(turned, -2 * plain, rtol=1e-6)
