"""Projections by hand in numpy and torch, their laws, and runs that keep to them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core import compilation, config, serialization
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN
from jaxtl.optim import MARS, L2Ball, SelectiveDecay
from jaxtl.optim import optimizer as optim_optimizer
from jaxtl.optim import update as optim_update
from jaxtl.optim.projections import deviation_ratio, l2_ball, mars, selective_decay
from jaxtl.training import compiled_step

SHAPES = ((3, 4), (2, 3, 2, 3), (5, 1))
cases = st.tuples(st.sampled_from(SHAPES), st.integers(0, 10**6), st.floats(0.01, 20.0))


def pair(shape, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = [rng.normal(size=shape).astype(np.float32) for _ in "ab"]
    return draw[0], draw[0] + scale * draw[1]


def rows(change):
    """Returns Σ|·| of each output unit, by loops."""
    flat = change.reshape(-1, change.shape[-1])
    return [sum(abs(float(row[o])) for row in flat) for o in range(flat.shape[1])]


@given(case=cases)
@settings(max_examples=40, deadline=None)
def test_mars_keeps_every_row_in_its_ball(case):
    shape, seed, radius = case
    start, x = pair(shape, seed)
    found = np.asarray(mars(x, start, radius))
    change = (x - start).reshape(-1, shape[-1]).astype(np.float64)
    for o, norm in enumerate(rows(x - start)):
        expected = change[:, o] / max(1.0, norm / radius)
        mine = (found - start).reshape(-1, shape[-1])[:, o]
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)
        if norm < radius * (1 - 1e-6):
            np.testing.assert_array_equal(found[..., o], x[..., o])
    assert max(rows(found - start)) <= radius * (1 + 1e-4) + 1e-6
    np.testing.assert_allclose(mars(found, start, radius), found, atol=1e-5)


@given(case=cases)
@settings(max_examples=40, deadline=None)
def test_the_l2_balls_projection_is_the_nearest_point(case):
    shape, seed, radius = case
    start, x = pair(shape, seed)
    found = np.asarray(l2_ball(x, start, radius), np.float64)
    norm = np.sqrt(np.sum((found - start) ** 2))
    assert norm <= radius * (1 + 1e-4)
    again = l2_ball(np.float32(found), start, radius)
    np.testing.assert_allclose(again, found, atol=1e-5)
    if np.sqrt(np.sum((x - start) ** 2)) < radius * (1 - 1e-6):
        np.testing.assert_array_equal(np.float32(found), x)
    # Nearest: the angle to any other point of the ball is obtuse.
    rng = np.random.default_rng(seed + 1)
    for _ in range(5):
        other = rng.normal(size=shape)
        other = start + radius * rng.uniform() * other / np.linalg.norm(other)
        assert np.sum((x - found) * (other - found)) <= 1e-3 * (1 + np.abs(x).sum())


def test_mars_is_the_authors_constraint_in_torch():
    torch = pytest.importorskip("torch")
    for shape, axes in (((4, 3), (0,)), ((2, 2, 3, 4), (0, 1, 2))):
        start, x = pair(shape, 0)
        change = torch.tensor(x - start)
        norms = change.abs().sum(axes, keepdim=True)
        expected = start + (change / torch.clamp(norms / 1.5, min=1.0)).numpy()
        np.testing.assert_allclose(mars(x, start, 1.5), expected, rtol=1e-6, atol=1e-6)


def test_all_leaves_may_share_one_ball():
    start, moved = {}, {}
    for name, seed in (("a", 0), ("b", 1), ("head", 2)):
        start[name], moved[name] = pair((3, 2), seed)
    source = {**start, "head": None}
    found = L2Ball(radius=0.5, per="all")(moved, moved, moved, source)
    np.testing.assert_array_equal(found["head"], moved["head"])
    change = np.concatenate([(moved[k] - start[k]).ravel() for k in "ab"])
    expected = 0.5 * change / np.sqrt(np.sum(change.astype(np.float64) ** 2))
    mine = np.concatenate([(found[k] - start[k]).ravel() for k in "ab"])
    np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)
    one = L2Ball(radius=0.5, select="b")(moved, moved, moved, source)
    np.testing.assert_array_equal(one["a"], moved["a"])
    assert np.linalg.norm(one["b"] - start["b"]) == pytest.approx(0.5, rel=1e-5)


def test_mars_leaves_vectors_alone():
    tree = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    zeros = jax.tree.map(np.zeros_like, tree)
    found = MARS(radius=0.5)(tree, tree, tree, zeros)
    np.testing.assert_array_equal(found["bias"], tree["bias"])
    np.testing.assert_allclose(found["kernel"], np.full((2, 2), 0.25))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_full_strength_takes_back_the_distance_and_nothing_else(seed):
    start, before = pair((3, 4), seed)
    _, now = pair((3, 4), seed + 1)
    grad = before - start  # the loss falls towards θ₀
    old, new = (float(np.linalg.norm(x - start)) for x in (before, now))
    found = np.asarray(selective_decay(now, before, grad, start, 1.0))
    expected = start + (now - start) * min(1.0, old / new)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # c ≥ 0: the step goes on.
    np.testing.assert_array_equal(selective_decay(now, before, -grad, start, 1.0), now)
    assert 0 <= float(deviation_ratio(now, before, start)) <= 1


def test_at_the_source_nothing_is_divided_by_zero():
    start, now = pair((3, 4), 0)
    found = selective_decay(start, start, now, start, 1.0)
    np.testing.assert_array_equal(found, start)
    np.testing.assert_array_equal(mars(start, start, 0.1), start)
    np.testing.assert_array_equal(l2_ball(start, start, 0.1), start)


def adam_spd(start, source, gradient, lr, strength, steps):
    """The paper's Adam with selective projection decay, float64, leaf by leaf."""
    theta, fired = {k: np.array(v, np.float64) for k, v in start.items()}, 0
    m = {k: np.zeros_like(v) for k, v in theta.items()}
    v = {k: np.zeros_like(x) for k, x in theta.items()}
    for t in range(1, steps + 1):
        grads = gradient(theta)
        for k, g in grads.items():
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g * g
            adam = m[k] / (1 - 0.9**t) / (np.sqrt(v[k] / (1 - 0.999**t)) + 1e-8)
            new = theta[k] - lr * adam
            if source[k] is not None and -np.sum(g * (theta[k] - source[k])) < 0:
                gamma = np.sqrt(np.sum((new - source[k]) ** 2))
                gamma_before = np.sqrt(np.sum((theta[k] - source[k]) ** 2))
                ratio = max(0.0, gamma - gamma_before) / gamma
                fired += ratio > 0
                new = new - strength * ratio * (new - source[k])
            theta[k] = new
    return theta, fired


def test_selective_decay_under_adam_is_the_papers_algorithm():
    rng = np.random.default_rng(0)
    source = {k: rng.normal(size=s) for k, s in (("a", (3, 2)), ("b", (4,)))}
    start, source = {**source, "head": rng.normal(size=(2, 2))}, {**source}
    source["head"] = None
    goal = {k: x + rng.normal(size=x.shape) for k, x in start.items()}
    curve = {k: rng.uniform(0.5, 5, size=x.shape) for k, x in start.items()}

    def gradient(theta):
        return {k: curve[k] * (theta[k] - goal[k]) for k in theta}

    optimizer = tl.optim.AdamW(lr=0.2, project=(SelectiveDecay(strength=0.7),))
    shell, numbers = (
        config.without_hyperparameters(optimizer),
        config.hyperparameters(optimizer),
    )
    params = jax.tree.map(jnp.float32, start)
    there = {k: None if x is None else jnp.float32(x) for k, x in source.items()}
    labels = optim_optimizer.labels(optimizer, params)

    @jax.jit
    def update(numbers, params, state, grads):
        given = config.with_hyperparameters(shell, numbers)
        tx = optim_update.transform(given, labels, None, 1, 1)
        moves, state = tx.update(grads, state, params)
        moved = optax.apply_updates(params, moves)
        return optim_update.project(given, moved, params, grads, there), state

    state = optim_update.transform(shell, labels, None, 1, 1).init(params)
    for _ in range(40):
        grads = jax.tree.map(jnp.float32, gradient(params))
        params, state = update(numbers, params, state, grads)
    expected, fired = adam_spd(start, source, gradient, 0.2, 0.7, 40)
    plain, _ = adam_spd(start, source, gradient, 0.2, 0.0, 40)
    assert 3 < fired < 60, "it is selective"
    assert np.abs(expected["a"] - plain["a"]).max() > 1e-3
    for k, x in expected.items():
        np.testing.assert_allclose(params[k], x, atol=2e-4)


@pytest.fixture(scope="module")
def source(tmp_path_factory, digits):
    """Returns what starts from a small trained run, with a new head."""
    folder = tmp_path_factory.mktemp("source") / "run"
    tl.train(tl.setup(digits(), folder))
    return tl.pretrained.FromRun(str(folder), reset="head")


def moved(run, steps=6):
    """Returns {path: change} after some steps."""
    before = jax.tree.map(np.asarray, run.params)
    run.advance(steps)
    return trees.flatten(
        jax.tree.map(lambda x, y: np.asarray(x, np.float64) - y, run.params, before)
    )


def test_runs_keep_to_their_ball_and_share_a_program(digits, source):
    def change(projection, lr=0.1):
        adam = tl.optim.AdamW(lr=lr, project=(projection,))
        return moved(tl.setup(digits(init=source, optim=adam)))

    body = ("layer1/dense/kernel", "layer1/dense/bias")
    free = change(L2Ball(radius=1e6))
    assert max(rows(free[body[0]])) > 0.2
    known = len(compilation.stored(compiled_step.compiled))
    found = change(L2Ball(radius=0.1))
    assert len(compilation.stored(compiled_step.compiled)) == known, (
        "the radius is traced"
    )
    for path in body:
        assert np.linalg.norm(found[path]) == pytest.approx(0.1, rel=1e-4)
    assert np.linalg.norm(found["head/dense/kernel"]) > 0.2, "it has no source"
    found = change(L2Ball(radius=0.1, per="all"))
    norm = np.sqrt(sum(np.sum(found[path] ** 2) for path in body))
    assert norm == pytest.approx(0.1, rel=1e-4)
    found = change(MARS(radius=0.1))
    assert max(rows(found[body[0]])) == pytest.approx(0.1, rel=1e-4)
    assert np.linalg.norm(found[body[1]]) > 0.2


def test_frozen_leaves_and_projections_in_turn(digits, source):
    adam = tl.optim.AdamW(
        lr=0.1,
        groups={".*/bias": FROZEN, ".*": 1.0},
        project=(MARS(radius=0.5), L2Ball(radius=0.05)),
    )
    found = moved(tl.setup(digits(init=source, optim=adam)))
    assert not found["layer1/dense/bias"].any()
    assert np.linalg.norm(found["layer1/dense/kernel"]) <= 0.05 * (1 + 1e-4)


def test_gradients_accumulate_before_selective_decay(digits, source):
    adam = tl.optim.AdamW(lr=0.05, project=(SelectiveDecay(),))
    ends = [
        moved(tl.setup(digits(init=source, optim=adam, accumulate=n)), 12)
        for n in (1, 2)
    ]
    for path, change in ends[0].items():
        np.testing.assert_allclose(change, ends[1][path], atol=1e-4)
    plain = dataclasses.replace(adam, project=())
    plain = moved(tl.setup(digits(init=source, optim=plain)), 12)
    assert any(np.abs(plain[p] - ends[0][p]).max() > 1e-4 for p in plain)


MISTAKES = {
    "radius 0": ((MARS(radius=0.0),), r"project.0.radius=0.0: a projection of radius"),
    "negative": ((L2Ball(radius=-1.0),), r"optim.project.0.radius=-1.0"),
    "strength": ((SelectiveDecay(strength=-0.1),), r"project.0.strength=-0.1"),
    "per": (
        (L2Ball(radius=1.0, per="row"),),
        r"per='row': expected one of 'leaf', 'all'",
    ),
    "no such path": (
        (L2Ball(radius=1.0), L2Ball(radius=1.0, select="layer9")),
        r"optim.project.1.select: the pattern 'layer9' .* mean 'layer1'",
    ),
    "no source": (
        (MARS(radius=1.0, select="head"),),
        r"select='head': selects no parameter .* with a source are in: layer1\.",
    ),
    "no kernel": (
        (MARS(radius=1.0, select=".*/bias"),),
        r"selects no parameter that is trainable, has a source and is one for MARS",
    ),
    "no tuple": (MARS(radius=1.0), r"optim.project=MARS.*: expected a tuple"),
    "no projection": ((0.5,), r"optim.project=\(0.5,\): expected tl.optim.project"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told(digits, source, case):
    project, message = MISTAKES[case]
    exp = digits(init=source, optim=tl.optim.AdamW(project=project))
    with pytest.raises(UserError, match=message):
        tl.setup(exp)


def test_without_a_source_there_is_nothing_to_stay_near(digits):
    adam = tl.optim.AdamW(project=(SelectiveDecay(),))
    with pytest.raises(UserError, match=r"project.0=SelectiveDecay.*from scratch"):
        tl.setup(digits(optim=adam))


FILE = """
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)), data=tl.data.Digits(),
        optim=tl.optim.AdamW(project=(tl.optim.MARS(radius=1.0),)),
    )
"""


def test_overrides_and_snapshots(tmp_path):
    (tmp_path / "one.py").write_text(FILE)
    exp = tl.load(tmp_path / "one.py", "optim.project.0.radius=0.25")
    assert exp.optim.project == (MARS(radius=0.25),)
    text = "optim.project=(tl.optim.L2Ball(radius=2.0, per='all'),)"
    exp = tl.load(tmp_path / "one.py", text)
    assert exp.optim.project == (L2Ball(radius=2.0, per="all"),)
    assert serialization.from_json(serialization.to_json(exp.optim)) == exp.optim
    with pytest.raises(UserError, match=r"MARS has no field 'radios'"):
        tl.load(tmp_path / "one.py", "optim.project.0.radios=1")
