"""SHOT: centroids against scikit-learn, information against scipy, the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import mutual_info_score
from sklearn.metrics.pairwise import cosine_distances
from sklearn.preprocessing import normalize

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import SHOT
from jaxtl.terms.domain.shot import centroid_labels, information_maximization


def test_information_is_scipys_entropies():
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 3
    decided, diverse = information_maximization(jnp.asarray(logits, jnp.float32))
    p = special.softmax(logits, axis=1)
    np.testing.assert_allclose(decided, stats.entropy(p, axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(diverse, -stats.entropy(p.mean(0)), rtol=1e-5)


def test_of_certain_predictions_it_is_minus_the_mutual_information():
    labels = np.random.default_rng(0).integers(0, 3, 40)
    logits = 100.0 * np.eye(4)[labels]  # the fourth class is never predicted
    total, grad = jax.value_and_grad(lambda z: sum(information_maximization(z)))(
        jnp.asarray(logits, jnp.float32)
    )
    # Inputs are all different, so they tell as much as the label itself.
    np.testing.assert_allclose(total, -mutual_info_score(labels, labels), rtol=1e-5)
    assert np.isfinite(grad).all()


def _reference(features, p, mask):
    """Eq. 4 to 6 with scikit-learn's distances; classes without members left out."""
    features = normalize(np.concatenate([features, np.ones((len(features), 1))], 1))
    g, delta = features[mask], p[mask]
    first = np.stack([(delta[:, [k]] * g).sum(0) / delta[:, k].sum() for k in range(3)])
    labels = cosine_distances(features, first).argmin(1)
    seen_labels = labels[mask]
    nonempty = np.unique(seen_labels)
    second = np.stack([g[seen_labels == k].mean(0) for k in nonempty])
    return nonempty[cosine_distances(features, second).argmin(1)]


@pytest.mark.parametrize("classes", [3, 2])
def test_labels_are_those_of_the_nearest_centroids(classes):
    rng = np.random.default_rng(1)
    center = np.asarray([[4.0, 0, 0], [0, 4, 1], [0, 3, 4]])
    y = rng.integers(0, classes, 120)  # with 2, hardly anything is like the third
    features = np.abs(center[y] + rng.normal(size=(120, 3)))
    p = special.softmax(2 * np.eye(3)[y] + rng.normal(size=(120, 3)), axis=1)
    if classes == 2:
        features[:, 2], p[:, 2] = 0.0, 1e-9
    mask = rng.random(120) < 0.8
    actual = jax.jit(centroid_labels)(
        jnp.asarray(features, jnp.float32), jnp.asarray(p, jnp.float32), mask
    )
    np.testing.assert_array_equal(actual, _reference(features, p, mask))
    assert np.mean(np.asarray(actual) == y) > np.mean(p.argmax(1) == y)


def test_labels_are_those_of_the_authors_program():
    # obtain_label of digit/uda_digit.py (tim-learn/SHOT, f7d555a), run on features and
    # logits drawn so. Centroids of the features as they are give 4 other labels.
    rng = np.random.default_rng(0)
    features = np.round(rng.normal(0.2, 1, (12, 2)), 2)
    p = special.softmax(np.round(rng.normal(0, 1.5, (12, 3)), 2), axis=1)
    actual = centroid_labels(
        jnp.asarray(features, jnp.float32),
        jnp.asarray(p, jnp.float32),
        jnp.ones(12, bool),
    )
    np.testing.assert_array_equal(actual, [2, 2, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0])


def test_a_class_without_members_gets_none():
    features = jnp.asarray([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    p = jnp.asarray([[0.9, 0.05, 0.05]] * 2 + [[0.05, 0.9, 0.05]] * 2)
    actual = centroid_labels(features, p, jnp.ones(4, bool))
    np.testing.assert_array_equal(actual, [0, 0, 1, 1])


def _outputs(harness):
    batch = harness.batches["unlabelled"]
    out = harness.network.apply(harness.params, harness.stats, batch["x"])
    features = np.asarray(out.features["layer1"], np.float64)
    return np.asarray(batch["row"]), features, np.asarray(out.logits, np.float64)


@pytest.mark.parametrize("step", [4, 5])
def test_the_terms_value_and_its_memory(bench, step):
    harness = bench()
    term = SHOT(diversity=0.7, labels=0.2, every=4)
    term.check(harness.setup)
    state = term.init_state(harness.setup)
    rows, features, logits = _outputs(harness)
    p = special.softmax(logits, axis=1)
    rng = np.random.default_rng(0)
    for name in ("features", "probabilities"):  # all others, as seen before
        noise = np.abs(rng.normal(size=state[name].shape)).astype(np.float32)
        state[name] = state[name].at[:].set(noise).at[rows].set(0.5)
    state["seen"] = jnp.ones_like(state["seen"])
    stale = (np.arange(20) % 3).astype(np.int32)
    state["labels"] = jnp.asarray(stale)
    context = harness.context(state=state, step=step)
    value, extra = term(View(context, "term", 0))

    memory = {n: np.array(state[n], np.float64) for n in ("features", "probabilities")}
    memory["features"][rows], memory["probabilities"][rows] = features, p
    all_rows = np.ones(20, bool)
    labels = _reference(memory["features"], memory["probabilities"], all_rows)
    labels = labels if step % 4 == 0 else stale
    pseudo = -np.log(p[np.arange(len(p)), labels[rows]]).mean()
    expected = stats.entropy(p, axis=1).mean() - 0.7 * stats.entropy(p.mean(0))
    np.testing.assert_allclose(value, expected + 0.2 * pseudo, rtol=1e-4)
    np.testing.assert_allclose(extra["pseudo"], pseudo, rtol=1e-4)
    same = np.mean(p.argmax(1) == labels[rows])
    np.testing.assert_allclose(extra["agreement"], same, rtol=1e-6)
    new_state = context.term_states["term"]
    np.testing.assert_array_equal(new_state["labels"], labels)
    np.testing.assert_allclose(new_state["features"], memory["features"], rtol=1e-4)


def test_the_memory_begins_with_a_pass_of_the_initial_model(bench):
    harness = bench()
    state = SHOT().init_state(harness.setup)
    rows, features, logits = _outputs(harness)
    np.testing.assert_allclose(state["features"][rows], features, rtol=1e-4)
    np.testing.assert_allclose(
        state["probabilities"][rows], special.softmax(logits, axis=1), rtol=1e-4
    )
    assert state["seen"].sum() == len(rows)


def test_it_says_whether_the_head_is_held(bench):
    assert "trains 'head' too" in SHOT().describe(bench().setup)
    held = SHOT().describe(bench(frozen=("head",)).setup)
    assert held == "adapts to the source's 'head', which is frozen"


def test_errors(bench):
    setup = bench().setup
    for fields, message in (
        ({"target": "unlabeled"}, "did you mean 'unlabelled'"),
        ({"stage": "layer_1"}, "did you mean 'layer1'"),
        ({"labels": -0.1}, "terms.term.labels=-0.1: expected a number at least 0"),
        ({"diversity": -1.0}, "at least 0"),
        ({"every": 0}, "terms.term.every=0: expected a number at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            SHOT(**fields).check(setup)
