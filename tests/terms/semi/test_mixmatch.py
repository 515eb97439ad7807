"""MixMatch: guesses and mixing by loops, sizes that differ, the value put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pseudo_targets import softmax

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.semi import mixmatch

NOISE = (tl.data.Noise(scale=0.5),)


def test_guesses_are_sharpened_means():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 4))
    expected = []
    for i in range(5):
        mean = sum(softmax(logits[k])[i] for k in range(3)) / 3
        powers = mean ** (1 / 0.5)
        expected.append(powers / powers.sum())
    actual = mixmatch.guessed_labels([jnp.asarray(x) for x in logits], 0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_mixing_takes_a_permutation_and_stays_near_the_first():
    n = 400
    x, p = jnp.eye(n), jnp.eye(n)
    mixed, labels = jax.jit(mixmatch.mixup)(jax.random.key(0), x, p, 0.75)
    np.testing.assert_allclose(mixed, labels, rtol=1e-6)
    mixed = np.asarray(mixed)
    shares = np.diag(mixed)
    partner_shares = mixed - np.diag(shares)
    is_unmixed = partner_shares.max(1) == 0  # mixed with itself
    assert is_unmixed.sum() < 8
    assert (shares >= 0.5 - 1e-6).all()
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-5)
    assert ((partner_shares > 0).sum(1) <= 1).all()
    assert ((partner_shares > 0).sum(0) <= 1).all()
    # E max(λ, 1 − λ) of Beta(0.75, 0.75), by quadrature.
    grid = (np.arange(200_000) + 0.5) / 200_000
    density = (grid * (1 - grid)) ** -0.25
    mean = (np.maximum(grid, 1 - grid) * density).sum() / density.sum()
    np.testing.assert_allclose(shares[~is_unmixed].mean(), mean, atol=0.03)


@pytest.mark.parametrize("sizes", [(3, 8), (9, 4)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_value_is_both_parts_of_the_mixed_batch(bench, sizes, count):
    harness = bench()
    for name, size in zip(("target", "unlabelled"), sizes):
        harness.batches[name] = {
            k: jnp.resize(v, (size, *v.shape[1:]))
            for k, v in harness.batches[name].items()
        }
    term = tl.semi.MixMatch(views=count, weak=NOISE, unlabelled=7.0, alpha=0.5)
    term.check(harness.setup)
    value, extra = term(View(harness.context(), "term", 0))

    context = harness.context()
    key = View(context, "term", 0).key
    views = [context.batches["unlabelled"]["x"]]
    views += [
        context.view("unlabelled", NOISE, jax.random.fold_in(key, k))
        for k in range(1, count)
    ]

    def logits(x):
        return harness.network.apply(harness.params, harness.stats, x).logits

    mean = sum(softmax(logits(x)) for x in views) / count
    guesses = mean**2 / (mean**2).sum(1, keepdims=True)
    hot = np.eye(3)[np.asarray(harness.batches["target"]["y"])]
    x = jnp.concatenate([harness.batches["target"]["x"], *views])
    p = jnp.asarray(np.concatenate([hot, *[guesses] * count]), jnp.float32)
    mixed, targets = mixmatch.mixup(jax.random.fold_in(key, 0), x, p, 0.5)
    q, n = softmax(logits(mixed)), sizes[0]
    targets = np.asarray(targets)
    first = -np.mean([w @ np.log(a) for w, a in zip(targets[:n], q[:n])])
    second = np.mean((targets[n:] - q[n:]) ** 2)
    np.testing.assert_allclose(extra["labelled"], first, rtol=1e-4)
    np.testing.assert_allclose(extra["unlabelled"], second, rtol=1e-4)
    np.testing.assert_allclose(value, first + 7 * second, rtol=1e-4)


def test_texts_are_refused(bench):
    harness = bench("language")
    harness.task = "classification"
    with pytest.raises(UserError, match=r"can't be mixed.*tl.semi.UDA"):
        tl.semi.MixMatch().check(harness.setup)


def test_no_views_are_refused(bench):
    with pytest.raises(UserError, match=r"terms\.term\.views=0"):
        tl.semi.MixMatch(views=0).check(bench().setup)
