"""DELTA: the distance and the channel weights by hand, scikit-learn and torch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import CNN, MLP
from jaxtl.terms import losses
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import DELTA, delta, feature_maps
from jaxtl.terms.regularizers.linear_fit import fit_linear

rng = np.random.default_rng(0)
MAPS = [rng.normal(size=(3, 4, 5, 6)) for _ in "ab"]
WEIGHTS = rng.dirichlet(np.ones(6))
DEEP = MLP(outputs=3, widths=(6, 5))


def _value(term, room, given=None):
    def value(params, **changes):
        context = room.context(params, constants=given, **changes)
        return term(View(context, "term", 0))[0]

    return value


def _weight_fn(rows):
    return delta.channel_weights(jnp.asarray(rows, jnp.float32))


def test_the_distance_by_loops():
    ours, theirs = MAPS
    expected = 0.0
    for i in range(3):
        for c in range(6):
            gap = [(ours - theirs)[i, h, w, c] ** 2 for h in range(4) for w in range(5)]
            expected += 0.5 * 6 * WEIGHTS[c] * sum(gap) / 20 / 3
    with jax.enable_x64(True):
        got = delta.feature_distance(*map(jnp.asarray, (ours, theirs, WEIGHTS)))
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        plain = delta.feature_distance(*map(jnp.asarray, MAPS))
        flat = delta.feature_distance(*map(jnp.asarray, MAPS), jnp.full(6, 1 / 6))
    np.testing.assert_allclose(plain, 0.5 * np.mean((ours - theirs) ** 2) * 6)
    np.testing.assert_allclose(plain, flat, rtol=1e-12)


def test_the_distance_is_the_authors_over_the_batch():
    torch = pytest.importorskip("torch", reason="the reference is torch")
    a, b = (torch.tensor(m.transpose(0, 3, 1, 2)) for m in MAPS)
    norms = torch.linalg.vector_norm((b - a).reshape(3, 6, 20), dim=2)
    theirs = 0.5 * (6 * torch.tensor(WEIGHTS) * norms**2 / 20).sum()
    ours = delta.feature_distance(*map(jnp.float32, MAPS), jnp.float32(WEIGHTS))
    np.testing.assert_allclose(ours, theirs / 3, rtol=1e-5)


def test_padding_does_not_count():
    mask = np.arange(4) < np.array([[4], [2], [1]])
    a, b = (rng.normal(size=(3, 4, 5)) for _ in "ab")
    expected = np.mean(
        [0.5 * np.mean(((a - b)[i][mask[i]]) ** 2, 0).sum() for i in range(3)]
    )
    wild = jnp.float32(a + 1e3 * ~mask[..., None])
    got = delta.feature_distance(
        *(Tokens(jnp.float32(x), jnp.array(mask)) for x in (wild, b))
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_weights_are_a_softmax_of_what_rises(seed):
    rises = np.random.default_rng(seed).normal(size=9)
    expected = np.exp(rises) / np.exp(rises).sum()
    np.testing.assert_allclose(_weight_fn(rises), expected, rtol=1e-5)
    scaled = (rises - rises.mean()) / rises.std() / 5
    expected = np.exp(scaled) / np.exp(scaled).sum()
    got = delta.channel_weights(jnp.float32(rises), 5.0)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_channels_that_do_nothing_weigh_alike():
    got = delta.channel_weights(jnp.zeros(4), 5.0)
    np.testing.assert_allclose(got, np.full(4, 0.25))


@pytest.mark.parametrize("bias", [True, False])
def test_the_linear_fit_is_scikit_learn_s(bias):
    from sklearn.linear_model import LogisticRegression

    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    theirs = LogisticRegression(C=1 / (60 * 0.01), fit_intercept=bias, tol=1e-8)
    theirs.fit(x, y)
    x32 = jnp.float32(x)
    ours = fit_linear(x32, y, 3, losses.cross_entropy, decay=0.01, bias=bias)
    np.testing.assert_allclose(ours["kernel"].T, theirs.coef_, atol=2e-3)
    gap = ours["bias"] - ours["bias"].mean()
    np.testing.assert_allclose(gap, theirs.intercept_ * np.ones(3), atol=2e-3)


def test_the_linear_fit_of_squares_is_ridge_regression():
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    # The mean is over 2 outputs, too.
    normal = x.T @ x / 50 + 0.01 * np.eye(4)
    expected = np.linalg.solve(normal, x.T @ y / 50)
    x, y = jnp.float32(x), jnp.float32(y)
    ours = fit_linear(x, y, 2, losses.squared_error, decay=0.01, bias=False)
    np.testing.assert_allclose(ours["kernel"], expected, atol=1e-3)


def _forward(params, x, without=None):
    """The MLP's features by numpy; `without` is (layer, channel)."""
    for layer in ("layer1", "layer2"):
        dense = params[layer]["dense"]
        kernel, bias = (np.asarray(dense[k], np.float64) for k in ("kernel", "bias"))
        x = np.maximum(x @ kernel + bias, 0)
        if without and without[0] == layer:
            x = x.copy()
            x[:, without[1]] = 0
    return x


def test_the_channel_weights_by_numpy_and_scikit_learn(bench):
    from sklearn.linear_model import LogisticRegression

    room = bench(model=DEEP, new_head=True, batch=80)
    x = np.asarray(room.batches["target"]["x"])
    y = np.argmax(x[:, :3] + 0.5 * rng.normal(size=(80, 3)), 1)
    room.batches["target"] = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    features = _forward(room.source.params, x)
    model = LogisticRegression(C=1 / (80 * 1e-4), tol=1e-8, max_iter=5000)
    model.fit(features, y)

    def loss(features):
        return -np.mean(model.predict_log_proba(features)[np.arange(80), y])

    given = DELTA(stages=("layer1", "layer2")).constants(room.setup)
    for layer, width in (("layer1", 6), ("layer2", 5)):
        rises = [
            loss(_forward(room.source.params, x, (layer, j))) - loss(features)
            for j in range(width)
        ]
        expected = np.exp(rises) / np.exp(rises).sum()
        np.testing.assert_allclose(given[layer], expected, atol=2e-3)
        assert np.ptp(expected) > 0.02
    assert set(given) == {"layer1", "layer2"}


def test_the_term_sums_over_stages_and_penalises_the_new_head(bench):
    room = bench(model=DEEP, new_head=True)
    term = DELTA(stages=("layer1", "layer2"), head=0.3)
    term.check(room.setup)
    weights = {"layer1": rng.dirichlet(np.ones(6)), "layer2": rng.dirichlet(np.ones(5))}
    x = np.asarray(room.batches["target"]["x"], np.float64)
    expected = 0.0
    for layer, w in weights.items():
        stop = (layer, 99)
        a, b = (_layer(p, x, stop[0]) for p in (room.params, room.source.params))
        expected += 0.5 * len(w) * np.mean(((a - b) ** 2) @ w)
    head = [np.asarray(h, np.float64) for h in jax.tree.leaves(room.params["head"])]
    expected += 0.3 * 0.5 * sum((h**2).sum() for h in head)
    value = _value(term, room, jax.tree.map(jnp.float32, weights))
    np.testing.assert_allclose(value(room.params), expected, rtol=1e-4)


def _layer(params, x, last):
    for layer in ("layer1", "layer2"):
        dense = params[layer]["dense"]
        kernel, bias = (np.asarray(dense[k], np.float64) for k in ("kernel", "bias"))
        x = np.maximum(x @ kernel + bias, 0)
        if layer == last:
            return x


def test_it_is_0_at_the_source(bench):
    room = bench(moved=0.0)
    term = DELTA()
    value = _value(term, room, term.constants(room.setup))
    assert value(room.params) == 0
    grads = jax.grad(value)(room.params)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    assert _value(term, bench(), term.constants(room.setup))(bench().params) > 0


def test_it_is_0_at_the_source_of_images_where_statistics_rest(bench):
    net = CNN(outputs=3, widths=(4, 5), units=6, norm=True)
    room = _images(bench, net)
    term = DELTA(attention=False)
    assert "block2" in term.describe(room.setup)
    value = _value(term, room)
    assert value(room.params, program={"train_stages": ()}) == 0
    assert value(room.params) > 0


def _images(bench, model, labels=None):
    """A bench of 8×8 images, at the source."""
    room = bench()
    x = jnp.asarray(rng.normal(size=(12, 8, 8, 2)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 3, 12) if labels is None else labels)
    room.network = model.pure()
    room.params, room.stats = room.network.init(jax.random.key(0), x)
    head = room.params["head"]
    room.source = dataclasses.replace(
        room.source, params=room.params, stats=room.stats, head=head
    )
    room.source_network = room.network
    room.mask = jax.tree.map(lambda _: True, room.params)
    room.batches = {"target": {"x": x, "y": y}}
    return room


def test_channels_of_images_are_weighed_and_batches_may_be_uneven(bench):
    room = _images(bench, CNN(outputs=3, widths=(4, 5), units=6, norm=True))
    whole = room.batches["target"]
    parts = [jax.tree.map(lambda a, c=c: a[c], whole) for c in np.split(range(12), [5])]
    split = dataclasses.replace(room.setup, batches=lambda _: iter(parts))
    one, two = (DELTA().constants(s) for s in (room.setup, split))
    assert one["block2"].shape == (5,)
    np.testing.assert_allclose(one["block2"].sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(one["block2"], two["block2"], atol=2e-3)


def test_examples_are_drawn_from_all_the_data(bench):
    y = np.repeat(np.arange(10), 10)
    data = {"x": {"ids": jnp.arange(100)[:, None]}, "y": y}
    parts = [jax.tree.map(lambda a, i=i: a[i : i + 30], data) for i in range(0, 99, 30)]
    setup = dataclasses.replace(bench().setup, batches=lambda _: iter(parts))
    chunks = list(delta.draw_examples(setup, "target", 100, 70))
    assert [len(c["y"]) for c in chunks] == [64, 6]
    ids = np.concatenate([c["x"]["ids"][:, 0] for c in chunks])
    assert len(set(ids.tolist())) == 70
    np.testing.assert_array_equal(np.concatenate([c["y"] for c in chunks]), y[ids])
    assert len(set(y[ids].tolist())) == 10


def test_default_stages_have_positions(bench):
    text = bench("language")
    assert feature_maps.stage_names(None, text.network, text.setup.features) == (
        "layer_0",
        "norm",
    )
    plain = bench(model=DEEP)
    assert feature_maps.stage_names(None, plain.network, plain.setup.features) == (
        "layer2",
    )


def test_errors(bench):
    setup = bench().setup
    with pytest.raises(UserError, match=r"from scratch"):
        DELTA().check(bench(scratch=True).setup)
    with pytest.raises(UserError, match=r"stages='layer2'.*expected a tuple"):
        DELTA(stages="layer2").check(setup)
    with pytest.raises(UserError, match=r"no such stage; did you mean 'layer1'"):
        DELTA(stages=("layer2",)).check(setup)
    with pytest.raises(UserError, match=r"attention=True.*'language'"):
        DELTA().check(bench("language").setup)
    with pytest.raises(UserError, match=r"temperature=0"):
        DELTA(temperature=0.0).check(setup)


def test_it_works_in_an_experiment(digits, tmp_path):
    """With the other terms that read the source's function, in one run."""
    r = tl.regularizers
    tl.train(tl.setup(digits(steps=60), tmp_path / "source"))
    terms = {
        "task": tl.losses.CrossEntropy(),
        "delta": r.DELTA(weight=0.1, head=0.01),
        "function": r.FunctionDistance(weight=0.1),
        "lwf": r.LwF(weight=0.1),
        "cotuning": r.CoTuning(weight=0.1),
        "r3f": r.R3F(scale=0.1),
        "smart": r.SMART(radius=0.1, step_size=0.1, start=0.05),
    }
    init = tl.pretrained.FromRun(str(tmp_path / "source"), reset="head")
    run = tl.setup(digits(init=init, terms=terms, steps=4))
    # Like goes with like: the same classes, though the head is another.
    table = np.asarray(run.parts.fixed.term_constants["cotuning"]["relationship"])
    assert (table.argmax(1) == np.arange(10)).sum() >= 7
    assert all(np.isfinite(metrics["loss"]) for _, metrics in run)
    own = run.state.trainable["terms"]
    assert set(own) == {"lwf", "cotuning"}
    assert trees.all_finite(own)
