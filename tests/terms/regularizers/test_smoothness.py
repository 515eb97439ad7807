"""R3F and SMART: divergences and ascent against torch and numpy, masks, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxtl.core.errors import UserError
from jaxtl.models import MLP
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import R3F, SMART
from jaxtl.terms.regularizers.smoothness import divergence, projected_ascent

rng = np.random.default_rng(0)
PAIR = [rng.normal(size=(4, 5)) for _ in "ab"]
DEEP = MLP(outputs=3, widths=(6, 5), activation="tanh")
BALL = {"radius": 0.1, "step_size": 0.03, "start": 0.02}


def _call(term, room, params=None, **changes):
    return term(View(room.context(params, **changes), "term", 0))


def _noise(room, shape, draw):
    """The noise that a term draws, from its own key."""
    view = View(room.context(), "term", 0)
    key, _ = jax.random.split(view.key)
    return np.asarray(draw(key, shape), np.float64)


def _after(params, z, xp=np):
    """What comes after layer1, by numpy or torch."""
    for name in ("layer2", "head"):
        dense = params[name]["dense"]
        kernel, bias = (np.asarray(dense[k], np.float64) for k in ("kernel", "bias"))
        if xp is not np:
            kernel, bias = xp.tensor(kernel), xp.tensor(bias)
        z = z @ kernel + bias
        z = xp.tanh(z) if name == "layer2" else z
    return z


def _first(room):
    dense = room.params["layer1"]["dense"]
    x = np.asarray(room.batches["target"]["x"], np.float64)
    kernel, bias = (np.asarray(dense[k], np.float64) for k in ("kernel", "bias"))
    return np.tanh(x @ kernel + bias)


def _symmetric(a, b):
    p, q = special.softmax(a, -1), special.softmax(b, -1)
    return (special.rel_entr(p, q) + special.rel_entr(q, p)).sum(-1)


def test_the_symmetric_divergence_is_the_authors():
    torch = pytest.importorskip("torch", reason="the reference is torch")
    f = torch.nn.functional
    a, b = (torch.tensor(x) for x in PAIR)
    theirs = sum(
        f.kl_div(f.log_softmax(x, -1), f.softmax(y, -1), reduction="sum")
        for x, y in ((a, b), (b, a))
    )
    with jax.enable_x64(True):
        ours = divergence(*map(jnp.asarray, PAIR)).mean()
    np.testing.assert_allclose(ours, theirs / 4, rtol=1e-10)


def test_the_divergences_of_other_tasks_by_loops():
    with jax.enable_x64(True):
        a, b = map(jnp.asarray, PAIR)
        np.testing.assert_allclose(
            divergence(a, b, "regression"), ((PAIR[0] - PAIR[1]) ** 2).sum(1)
        )
        # A yes-or-no output is a softmax over (z, 0).
        pairs = [np.stack([x, np.zeros_like(x)], -1) for x in PAIR]
        expected = _symmetric(*pairs).sum(1)
        np.testing.assert_allclose(divergence(a, b, "multilabel"), expected, rtol=1e-10)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_tiny_differences_keep_their_digits(task):
    """Noise of 1e-5 makes divergences of 1e-10, far below a float32 sum's error."""
    a = np.float32(PAIR[0])
    b = np.float32(a + 1e-5 * PAIR[1])
    with jax.enable_x64(True):
        exact = divergence(jnp.float64(a), jnp.float64(b), task)
    ours = divergence(jnp.asarray(a), jnp.asarray(b), task)
    np.testing.assert_allclose(ours, exact, rtol=0.05)


@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_r3f_by_numpy(bench, noise):
    room = bench(model=DEEP)
    term = R3F(noise=noise, scale=0.3)
    term.check(room.setup)
    assert term.describe(room.setup) == "noise on the output of 'layer1'"
    draws = {
        "normal": jax.random.normal,
        "uniform": lambda key, shape: jax.random.uniform(
            key, shape, minval=-1, maxval=1
        ),
    }
    hidden = _first(room)
    z = 0.3 * _noise(room, hidden.shape, draws[noise])
    assert noise == "normal" or np.abs(z).max() <= 0.3
    pair = _after(room.params, hidden + z), _after(room.params, hidden)
    np.testing.assert_allclose(_call(term, room), _symmetric(*pair).mean(), rtol=1e-3)


def test_r3f_s_gradient_flows_through_both_passes(bench):
    torch = pytest.importorskip("torch", reason="the reference is torch")
    room = bench(model=DEEP)
    grads = jax.grad(lambda p: _call(R3F(scale=0.3), room, p))(room.params)
    start = torch.tensor(_first(room), requires_grad=True)
    z = torch.tensor(0.3 * _noise(room, start.shape, jax.random.normal))
    p, q = (_after(room.params, h, torch).softmax(-1) for h in (start + z, start))
    ((p - q) * (p.log() - q.log())).sum(1).mean().backward()
    # Back through layer1's tanh to its bias.
    expected = (start.grad * (1 - start**2)).sum(0).detach()
    np.testing.assert_allclose(grads["layer1"]["dense"]["bias"], expected, atol=1e-6)


def test_the_ascent_by_loops():
    a, start = rng.normal(size=(3, 4)), 0.1 * rng.normal(size=(3, 4))
    z = start.copy()
    for _ in range(3):
        for i in range(3):
            g = 2 * a[i] ** 2 * z[i]
            g = g / max(abs(v) for v in g)
            z[i] = [min(max(v + 0.05 * s, -0.15), 0.15) for v, s in zip(z[i], g)]
    square = jnp.square(jnp.float32(a))
    got = projected_ascent(
        lambda z: jnp.sum(square * z**2),
        jnp.float32(start),
        steps=3,
        step_size=0.05,
        radius=0.15,
    )
    np.testing.assert_allclose(got, z, rtol=1e-4)
    assert np.any(np.abs(z) == 0.15)
    flat = projected_ascent(
        lambda z: 0.0 * z.sum(), jnp.zeros((2, 3)), steps=2, **_flat()
    )
    assert not np.any(flat)


def _flat():
    return {"step_size": 0.1, "radius": 1.0}


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_smart_is_the_ascent_by_torch(bench, steps):
    torch = pytest.importorskip("torch", reason="the reference is torch")
    room = bench(model=DEEP)
    term = SMART(**BALL, steps=steps)
    term.check(room.setup)
    hidden = torch.tensor(_first(room), requires_grad=True)

    def apart(z):
        clean, noisy = (
            _after(room.params, h, torch).log_softmax(-1) for h in (hidden, hidden + z)
        )
        return ((noisy.exp() - clean.exp()) * (noisy - clean)).sum(1).mean()

    z = 0.02 * torch.tensor(_noise(room, hidden.shape, jax.random.normal))
    z = z.clamp(-0.1, 0.1)
    for _ in range(steps):
        z.requires_grad_()
        (g,) = torch.autograd.grad(apart(z), z)
        g = g / g.abs().amax(1, keepdim=True)
        z = (z + 0.03 * g).clamp(-0.1, 0.1).detach()
    value, grads = jax.value_and_grad(lambda p: _call(term, room, p))(room.params)
    expected = apart(z)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-3)
    # z is constant: nothing flows back through the ascent.
    (flow,) = torch.autograd.grad(expected, hidden)
    expected = (flow * (1 - hidden**2)).sum(0).detach()
    np.testing.assert_allclose(grads["layer1"]["dense"]["bias"], expected, atol=1e-5)


def test_smart_finds_worse_than_chance(bench):
    room = bench(model=DEEP)
    found = [float(_call(SMART(**BALL, steps=n), room)) for n in (0, 1, 3)]
    assert found == sorted(found)


@pytest.mark.parametrize("term", [R3F(scale=0.5), SMART(**BALL)], ids=["r3f", "smart"])
def test_padding_gets_no_noise_and_does_not_count(bench, term):
    """The same texts with more padding, and noise there, are as far apart."""
    room = bench("language")
    term.check(room.setup)
    x = room.batches["target"]["x"]
    mask = np.asarray(x["attention_mask"])
    other = np.where(mask, x["input_ids"], 7).astype(np.int32)
    batches = {"target": {**room.batches["target"], "x": {**x, "input_ids": other}}}
    value = _call(term, room)
    assert value > 0
    np.testing.assert_allclose(_call(term, room, batches=batches), value, rtol=1e-4)


def test_dropout_is_on_in_both_passes_and_drawn_anew(bench):
    room = bench(model=MLP(outputs=3, widths=(6, 5), dropout=0.5))
    assert _call(R3F(scale=0.0), room) > 0
    assert _call(R3F(scale=0.0), room, program={"train_stages": ()}) == 0


@pytest.mark.parametrize("cls", [R3F, SMART])
def test_errors(bench, cls):
    setup = bench().setup
    with pytest.raises(UserError, match=r"did you mean 'layer1'"):
        cls(stage="layer").check(setup)
    with pytest.raises(UserError, match=r"stage='head'.*before the head"):
        cls(stage="head").check(setup)
    with pytest.raises(UserError, match=r"did you mean 'normal'"):
        R3F(noise="norm").check(setup)
    with pytest.raises(UserError, match=r"scale=-1"):
        R3F(scale=-1.0).check(setup)
    with pytest.raises(UserError, match=r"radius=0"):
        SMART(radius=0.0).check(setup)
