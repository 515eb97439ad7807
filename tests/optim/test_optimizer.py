"""Optimizers with groups, against numpy and plain optax written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN
from jaxtl.optim import optimizer as optim_optimizer
from jaxtl.optim import schedules
from jaxtl.optim import update as optim_update
from jaxtl.optim.optimizer import SGD, AdamW, Group, Optax

RNG = np.random.default_rng(0)
PARAMS = {
    "stem": {"kernel": RNG.normal(size=(3, 2)), "bias": RNG.normal(size=2)},
    "body": {"kernel": RNG.normal(size=(2, 2)), "bias": RNG.normal(size=2)},
    "head": {"kernel": RNG.normal(size=(2, 4)), "bias": RNG.normal(size=4)},
}
GRADS = [jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS) for _ in range(3)]
SOURCE = {
    **jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS),
    "head": {"kernel": None, "bias": None},
}


def run(optimizer, source=None, steps=100):
    """Takes three steps as the train step does; returns (parameters, state)."""
    params = jax.tree.map(jnp.float32, PARAMS)
    labels = optim_optimizer.labels(optimizer, params)
    mask = optim_optimizer.trainable(optimizer, labels)
    model, frozen = trees.partition(params, mask)
    labels = trees.restrict(labels, mask)
    source = source and trees.restrict(jax.tree.map(jnp.float32, source), mask)
    shell, numbers = (
        config.without_hyperparameters(optimizer),
        config.hyperparameters(optimizer),
    )
    state = optim_update.transform(shell, labels, None, 1, 1).init(model)

    @jax.jit
    def update(numbers, model, state, grads, step):
        given = config.with_hyperparameters(shell, numbers)
        tx = optim_update.transform(given, labels, source, step, steps)
        updates, state = tx.update(grads, state, model)
        return optax.apply_updates(model, updates), state

    for t, grads in enumerate(GRADS):
        grads = trees.restrict(jax.tree.map(jnp.float32, grads), mask)
        model, state = update(numbers, model, state, grads, t)
    return trees.merge(model, frozen), state


def leaves(tree):
    return {path: np.asarray(x, np.float64) for path, x in trees.flatten(tree).items()}


def adamw(path, lr, decay, *, b1=0.9, b2=0.999, eps=1e-8, scale=lambda t: 1.0):
    """Loshchilov & Hutter's algorithm 2 for one leaf, in float64."""
    theta = leaves(PARAMS)[path]
    m = v = np.zeros_like(theta)
    for t, grads in enumerate(GRADS):
        g = leaves(grads)[path] * scale(t)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        mhat, vhat = m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))
        rate = lr(t) if callable(lr) else lr
        theta = theta - rate * (mhat / (np.sqrt(vhat) + eps) + decay * theta)
    return theta


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_adamw_with_groups_is_the_paper_by_hand():
    optimizer = AdamW(
        lr=0.01,
        weight_decay=0.3,
        b1=0.8,
        b2=0.95,
        groups={
            "stem": FROZEN,
            "body": Group(lr=0.1, weight_decay=0.7),
            "head/bias": 2.0,
            ".*": 1.0,
        },
    )
    found = leaves(run(optimizer)[0])
    b = {"b1": 0.8, "b2": 0.95}
    for path in ("stem/kernel", "stem/bias"):
        np.testing.assert_array_equal(found[path], np.float32(leaves(PARAMS)[path]))
    close(found["body/kernel"], adamw("body/kernel", 0.001, 0.7, **b))
    close(found["body/bias"], adamw("body/bias", 0.001, 0.0, **b))
    close(found["head/kernel"], adamw("head/kernel", 0.01, 0.3, **b))
    close(found["head/bias"], adamw("head/bias", 0.02, 0.0, **b))


def test_one_group_is_plain_optax():
    optimizer = AdamW(lr=0.01, weight_decay=0.2)
    kernels = jax.tree.map(lambda p: p.ndim >= 2, PARAMS)
    tx = optax.adamw(0.01, weight_decay=0.2, mask=kernels)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = tx.init(params)
    for grads in GRADS:
        updates, state = tx.update(jax.tree.map(jnp.float32, grads), state, params)
        params = optax.apply_updates(params, updates)
    found = leaves(run(optimizer)[0])
    for path, expected in leaves(params).items():
        close(found[path], expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_optaxs(nesterov):
    optimizer = SGD(lr=0.1, momentum=0.7, nesterov=nesterov)
    tx = optax.sgd(0.1, momentum=0.7, nesterov=nesterov)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = tx.init(params)
    for grads in GRADS:
        updates, state = tx.update(jax.tree.map(jnp.float32, grads), state, params)
        params = optax.apply_updates(params, updates)
    found = leaves(run(optimizer)[0])
    for path, expected in leaves(params).items():
        close(found[path], expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_coupled_decay_is_torchs(nesterov):
    """v ← μ v + g + λ θ, the step v or g + λ θ + μ v, as torch.optim.SGD."""
    optimizer = SGD(
        lr=0.1, momentum=0.7, nesterov=nesterov, weight_decay=0.2, coupled_decay=True
    )
    found, start = leaves(run(optimizer)[0]), leaves(PARAMS)
    for path, theta in start.items():
        velocity, decay = np.zeros_like(theta), 0.2 if theta.ndim >= 2 else 0.0
        for grads in GRADS:
            gradient = leaves(grads)[path] + decay * theta
            velocity = 0.7 * velocity + gradient
            theta = theta - 0.1 * (gradient + 0.7 * velocity if nesterov else velocity)
        close(found[path], theta)
    torch = pytest.importorskip("torch")
    name = "body/kernel"
    weight = torch.nn.Parameter(torch.tensor(np.float64(start[name])))
    theirs = torch.optim.SGD(
        [weight], lr=0.1, momentum=0.7, nesterov=nesterov, weight_decay=0.2
    )
    for grads in GRADS:
        weight.grad = torch.tensor(np.float64(leaves(grads)[name]))
        theirs.step()
    close(found[name], weight.detach().numpy())


def test_any_optax_direction_takes_part():
    lion = leaves(run(Optax(make=optax.scale_by_lion, lr=0.01))[0])
    tx = optax.lion(0.01, weight_decay=0.0)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = tx.init(params)
    for grads in GRADS:
        updates, state = tx.update(jax.tree.map(jnp.float32, grads), state, params)
        params = optax.apply_updates(params, updates)
    for path, expected in leaves(params).items():
        close(lion[path], expected)


def test_clipping_sees_the_trainable_norm_alone():
    trainable = [p for p in leaves(PARAMS) if not p.startswith("stem")]
    norms = [
        np.sqrt(sum(np.square(leaves(g)[p]).sum() for p in trainable)) for g in GRADS
    ]
    bound = float(np.sort(norms)[0] + np.sort(norms)[1]) / 2  # clips two of three
    optimizer = AdamW(lr=0.01, clip=bound, groups={"stem": FROZEN, ".*": 1.0})
    found = leaves(run(optimizer)[0])

    def scale(t):
        return min(1.0, bound / norms[t])

    assert sorted(scale(t) < 1 for t in range(3)) == [False, True, True]
    for path in trainable:
        close(found[path], adamw(path, 0.01, 0.0, scale=scale))


def test_decay_to_source_is_decoupled_and_leaves_new_heads_alone():
    optimizer = SGD(
        lr=0.1,
        momentum=0.0,
        decay_to_source=0.4,
        groups={"stem": FROZEN, "body": 0.5, ".*": 1.0},
    )
    found = leaves(run(optimizer, SOURCE)[0])
    start, source = leaves(PARAMS), leaves(SOURCE)
    for path, theta in start.items():
        lr = {"stem": 0.0, "body": 0.05, "head": 0.1}[path.split("/")[0]]
        for grads in GRADS:
            pull = 0.4 * (theta - source[path]) if path in source else 0.0
            theta = theta - lr * (leaves(grads)[path] + pull)
        close(found[path], theta)


def test_decay_to_source_under_adam_is_not_divided_by_the_second_moment():
    optimizer = AdamW(lr=0.01, decay_to_source=0.4)
    found = leaves(run(optimizer, SOURCE)[0])["body/kernel"]
    theta, source = leaves(PARAMS)["body/kernel"], leaves(SOURCE)["body/kernel"]
    m = v = np.zeros_like(theta)
    for t, grads in enumerate(GRADS, 1):
        g = leaves(grads)["body/kernel"]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        theta = theta - 0.01 * (adam + 0.4 * (theta - source))
    close(found, theta)


def test_schedules_scale_every_group():
    lr = schedules.Cosine(peak=0.01, warmup=2.0)
    found = leaves(run(AdamW(lr=lr, groups={"head": 0.5, ".*": 1.0}), steps=4)[0])

    def rate(t):
        if t < 2:
            return 0.01 * (t + 1) / 2
        return 0.01 * 0.5 * (1 + np.cos(np.pi * (t - 2) / 2))

    close(found["stem/kernel"], adamw("stem/kernel", rate, 0.0))
    close(found["head/bias"], adamw("head/bias", lambda t: 0.5 * rate(t), 0.0))


def test_frozen_leaves_have_no_optimizer_state():
    def values(optimizer):
        moments = [x for x in jax.tree.leaves(run(optimizer)[1]) if x.ndim]
        return sum(x.size for x in moments)

    whole = sum(x.size for x in jax.tree.leaves(PARAMS))
    assert values(AdamW()) == 2 * whole
    head = AdamW(groups={"head": 1.0, ".*": FROZEN})
    assert values(head) == 2 * (8 + 4)


def test_a_group_can_be_neither_text_nor_flag():
    params = jax.tree.map(jnp.float32, PARAMS)
    with pytest.raises(UserError, match=r"optim.groups\['head'\]='slow': expected tl"):
        optim_optimizer.labels(AdamW(groups={"head": "slow", ".*": 1.0}), params)
    with pytest.raises(UserError, match=r"optim.groups: the pattern 'heed' matches no"):
        optim_optimizer.labels(AdamW(groups={"heed": 0.1, ".*": 1.0}), params)


STAGES = ("stem", "body", "head")
STATS = {"stem": {"bn": {"mean": 0, "var": 0}}, "body": {"bn": {"mean": 0, "var": 0}}}
MODEL = {
    "stem": {"conv": {"kernel": 0}, "bn": {"scale": 0, "bias": 0}},
    "body": {"conv": {"kernel": 0}, "bn": {"scale": 0, "bias": 0}},
    "head": {"kernel": 0},
}


@pytest.mark.parametrize(
    ("groups", "train", "still"),
    [
        ({".*": 1.0}, STAGES, ()),
        ({"stem": FROZEN, ".*": 1.0}, ("body", "head"), ()),
        ({"head": 1.0, ".*": FROZEN}, ("head",), ()),
        ({".*bn.*": FROZEN, ".*": 1.0}, STAGES, ("stem/bn", "body/bn")),
        ({"body/bn": FROZEN, ".*": 1.0}, STAGES, ("body/bn",)),
        ({"stem": FROZEN, ".*bn.*": FROZEN, ".*": 1.0}, STAGES[1:], ("body/bn",)),
        ({".*kernel": 1.0, ".*(scale|bias)": 1.0}, STAGES, ()),
        ({".*kernel": 1.0, ".*(scale|bias)": FROZEN}, STAGES, ("stem/bn", "body/bn")),
        ({".*(scale|bias)": FROZEN, ".*": 1.0}, STAGES, ()),
    ],
)
def test_one_freeze_decides_modes_and_statistics(groups, train, still):
    optimizer = AdamW(groups=groups)
    mask = optim_optimizer.trainable(
        optimizer, optim_optimizer.labels(optimizer, MODEL)
    )
    found = optim_optimizer.modes(optimizer, STAGES, mask, STATS)
    assert (found[0], sorted(found[1])) == (train, sorted(still))
