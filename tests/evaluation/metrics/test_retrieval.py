"""Recall of retrieval against rankings by numpy, and its laws."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.evaluation import metrics
from jaxtl.evaluation.metrics import retrieval

KS = (1, 5, 10)


def pairs(n, images=None, seed=0, width=3):
    """Embeddings side by side, (n, 2·width); rows of one image have its embedding."""
    rng = np.random.default_rng(seed)
    images = np.arange(n) if images is None else np.asarray(images)
    of_images, of_texts = rng.normal(size=(2, n, width))
    x = np.concatenate([of_images[images], of_texts], axis=1)
    for half in (x[:, :width], x[:, width:]):
        half /= np.linalg.norm(half, axis=1, keepdims=True)
    return x, images


def ranked(x, images, weights):
    """The recalls by sorting, as one writes them in numpy."""
    width = x.shape[1] // 2
    numbers = np.unique(images)
    gallery = np.stack([x[images == i][0, :width] for i in numbers])
    z = gallery @ x[:, width:].T
    of_images = [
        [images[j] == i for j in np.argsort(-row)] for i, row in zip(numbers, z)
    ]
    of_texts = [
        [numbers[j] == i for j in np.argsort(-column)] for i, column in zip(images, z.T)
    ]
    image_weights = [weights[images == i].mean() for i in numbers]
    return [
        np.average([any(right[:k]) for right in rights], weights=w)
        for rights, w in ((of_images, image_weights), (of_texts, weights))
        for k in KS
    ]


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 999), st.booleans())
def test_recalls_are_those_of_sorted_similarities(images, texts, seed, is_weighted):
    n, rng = images * texts, np.random.default_rng(seed)
    more = rng.integers(images, size=n - images)  # images have any number of texts
    x, numbers = pairs(n, rng.permutation([*range(images), *more]), seed)
    weights = rng.uniform(0.1, 2, n)
    weights = weights if is_weighted else np.ones(n)
    values = metrics.compute("contrastive", x, numbers, weights)
    assert tuple(values) == retrieval.RECALLS
    want = ranked(x, numbers, weights)
    np.testing.assert_allclose(list(values.values())[1:], want, atol=1e-12)
    np.testing.assert_allclose(values["mean_recall"], np.mean(want))


def test_a_model_that_tells_nothing_apart_is_at_chance():
    x = np.tile([1.0, 0.0, 0.6, 0.8], (20, 1))
    values = metrics.compute("contrastive", x, np.arange(20))
    for name, k in itertools.product(retrieval.DIRECTIONS, KS):
        np.testing.assert_allclose(values[f"{name}_recall_at_{k}"], k / 20)


def test_ties_have_the_recall_of_the_average_order():
    # Two right ones and three wrong ones tie behind a wrong one.
    orders = list(itertools.permutations([True, True, False, False, False]))
    want = [np.mean([any(o[: max(k - 1, 0)]) for o in orders]) for k in KS]
    similarity = np.array([[0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1]])
    ids = np.array([9, 0, 0, 1, 2, 3, 0])
    queries = np.array([[1.0]])
    got = retrieval.hit_chances(queries, similarity.T, np.array([0]), ids)
    np.testing.assert_allclose(got[0], want)


def test_examples_without_weight_are_neither_queries_nor_answers():
    x, numbers = pairs(12)
    weights = np.array([1.0, 0.0] * 6)
    part = metrics.compute("contrastive", x[::2], numbers[::2])
    assert metrics.compute("contrastive", x, numbers, weights) == pytest.approx(part)
    x[1] = np.nan
    assert metrics.compute("contrastive", x, numbers, weights) == pytest.approx(part)
    x[0] = np.nan
    assert np.isnan(list(metrics.compute("contrastive", x, numbers).values())).all()


def test_larger_recall_is_better_and_other_names_lead_to_it():
    assert metrics.main_metric("contrastive") == "mean_recall"
    assert all(map(metrics.higher_is_better, retrieval.RECALLS))
    assert "mean_recall" in metrics.nearest_metric("R@1", retrieval.RECALLS)
