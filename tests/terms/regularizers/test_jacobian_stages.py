"""Directions in one group of stages: whole Jacobians in float64, draws, arithmetic."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN, Source
from jaxtl.pretrained.match import Weights
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import JacobianDifference
from jaxtl.terms.regularizers import jacobian_estimates as J
from jaxtl.terms.regularizers import jacobian_stages as S

STAGES = ("stem", "stage1", "stage2", "head")


def test_groups_are_consecutive_stages_with_selected_parameters():
    mask = {s: {"kernel": s != "stage1", "bias": False} for s in reversed(STAGES)}
    mask["elsewhere"] = {"kernel": False}
    assert S.stage_groups(STAGES, mask, 1) == (("stem", "stage2", "head"),)
    assert S.stage_groups(STAGES, mask, 2) == (("stem", "stage2"), ("head",))
    assert S.stage_groups(STAGES, mask, 4)[2:] == (("head",), ())


def test_each_group_is_drawn_once_in_a_round_and_traced_numbers_are_the_same():
    draws = [S.group_of_draw(i, 5) for i in range(400)]
    assert all(type(number) is int for number in draws)
    rounds = np.reshape(draws, (80, 5))
    np.testing.assert_array_equal(np.sort(rounds), np.tile(np.arange(5), (80, 1)))
    assert len({tuple(row) for row in rounds}) > 40  # of 120 orders
    traced = jax.jit(jax.vmap(lambda i: S.group_of_draw(i, 5)))(jnp.arange(400))
    np.testing.assert_array_equal(traced, draws)


@pytest.mark.parametrize("chosen_by", ["host", "step"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_value_and_gradient_are_those_of_whole_jacobians(bench, chosen_by, number):
    with jax.enable_x64(True):
        model = tl.models.MLP(
            outputs=3, widths=(5, 4), activation="gelu", param_dtype="float64"
        )
        room, key = bench(model=model), jax.random.key(7)
        room.params = jax.tree.map(lambda a: a.astype(jnp.float64), room.params)
        start = room.source.params
        term = JacobianDifference(estimator="forward", stage_groups=3)
        term.check(room.setup)
        step = next(i for i in range(9) if S.group_of_draw(i, 3) == number)
        program = {"variants": {"term": number}} if chosen_by == "host" else {}
        x = room.batches["target"]["x"].astype(jnp.float64)
        stage = room.network.stages[number]
        view = View(room.context(key=key), "term", 0)
        u = J.random_signs(jax.random.split(view.key, 1)[0], room.params)[stage]

        def ours(params):
            # The host's choice counts, whatever the step is.
            of_step = 0 if chosen_by == "host" else step
            context = room.context(params, key=key, step=of_step, program=program)
            return term(View(context, "term", 0))

        def along(params):
            def logits(part):
                return room.network.apply({**params, stage: part}, {}, x).logits

            jacobian = jax.jacrev(logits)(params[stage])
            products = jax.tree.map(
                lambda j, d: jnp.sum(j * d, tuple(range(2, j.ndim))), jacobian, u
            )
            return sum(jax.tree.leaves(products))

        def expected(params):
            gap = along(params) - jax.lax.stop_gradient(along(start))
            return 3 * jnp.mean(jnp.sum(gap**2, 1))

        values, grads = zip(
            *(jax.jit(jax.value_and_grad(f))(room.params) for f in (ours, expected))
        )
        assert values[0].dtype == jnp.float64
        np.testing.assert_allclose(*values, rtol=1e-10)
        for a, b in zip(*map(jax.tree.leaves, grads)):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


_MODELS = {
    "mlp": tl.models.MLP(outputs=3, widths=(8, 6), activation="gelu"),
    "cnn": tl.models.CNN(outputs=3, widths=(3, 4), units=5),
    "resnet": tl.models.ResNet(outputs=3, depth=8, width=2),
    "bert": tl.models.Bert(
        outputs=3, vocab=9, width=8, layers=2, heads=2, hidden=12, context=6
    ),
}


def _room(bench, name):
    room, rng = bench(model=_MODELS["mlp"]), np.random.default_rng(0)
    if name == "mlp":
        return room
    x = jnp.asarray(rng.normal(size=(6, 8, 8, 1)), jnp.float32)
    if name == "bert":
        ids = jnp.asarray(rng.integers(0, 9, (6, 5)))
        x = {"input_ids": ids, "attention_mask": jnp.arange(5) < jnp.arange(6)[:, None]}
    room.network = _MODELS[name].pure()
    room.batches = {k: {**b, "x": x} for k, b in room.batches.items()}
    start, room.stats = room.network.init(jax.random.key(0), x)
    room.source = Source(start, room.stats, start["head"])
    room.params = jax.tree.map(lambda a: a * 1.1, start)
    room.mask = jax.tree.map(lambda _: True, start)
    return room


def _draws(room, term, seed, count=200):
    def draw(i):
        key = jax.random.fold_in(jax.random.key(seed), i)
        return term(View(room.context(key=key, step=i), "term", 0))

    return np.asarray(jax.jit(lambda: jax.lax.map(draw, jnp.arange(count)))())


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        ("mlp", 3),
        ("cnn", 4),
        ("cnn", 2),
        pytest.param("resnet", 5, marks=pytest.mark.slow),
        pytest.param("bert", 3, marks=pytest.mark.slow),
    ],
)
def test_the_mean_over_steps_is_the_exact_difference(bench, model, groups):
    room = _room(bench, model)
    exact = JacobianDifference(estimator="exact")(View(room.context(), "term", 0))
    term = JacobianDifference(estimator="forward", stage_groups=groups)
    term.check(room.setup)
    values = _draws(room, term, 0)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - exact) < 3 * error
    # The estimators agree with each other too.
    others = _draws(room, JacobianDifference(), 1)
    error = np.hypot(error, others.std(ddof=1) / np.sqrt(len(others)))
    assert abs(values.mean() - others.mean()) < 3 * error


def test_what_can_t_be_grouped_is_refused(bench):
    room = bench(model=_MODELS["mlp"])
    for fields, message in (
        ({"stage_groups": 0}, r"stage_groups=0.*at least 1"),
        ({"stage_groups": 2}, r"stage_groups=2: expected estimator='forward'"),
        (
            {"stage_groups": 2, "estimator": "forward", "wrt": "inputs"},
            r"and wrt='params', or stage_groups=1",
        ),
        (
            {"stage_groups": 3, "estimator": "forward", "select": "layer.*"},
            r"lie in 2 stages \(layer1, layer2\); expected a number from 1 to 2",
        ),
    ):
        with pytest.raises(UserError, match=message):
            JacobianDifference(**fields).check(room.setup)
    term = JacobianDifference(estimator="forward", stage_groups=2)
    told = term.describe(room.setup)
    assert "by one of layer1 layer2 | head at each step" in told


# --- runs -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _InMemory:
    weights: Weights

    def read(self):
        return self.weights


def _source(digits, model):
    run = tl.setup(digits(model=model, monitor=None, batch=8))
    return _InMemory(Weights(*jax.device_get((run.params, run.state.stats))))


def _tuning(digits, model, term, **changes):
    terms = {"task": tl.losses.CrossEntropy()} | ({"near": term} if term else {})
    fields = {"terms": terms, "steps": 8, "batch": 8, "monitor": None}
    changes.setdefault("init", _source(digits, model))
    return digits(model=model, **{**fields, **changes})


@pytest.mark.parametrize("fields", [{"every": 2}, {"directions": 2, "fraction": 0.5}])
def test_the_host_takes_the_steps_that_the_device_would_take(digits, fields):
    model = tl.models.MLP(widths=(6, 5))
    term = JacobianDifference(
        weight=1e-2, estimator="forward", stage_groups=3, **fields
    )
    exp = _tuning(digits, model, term)
    by_host, by_device = (
        tl.setup(dataclasses.replace(exp, steps_per_dispatch=count))
        for count in (None, 4)
    )
    rows = by_host.advance(8), by_device.advance(8)
    assert len(by_host.compiled.dispatches) == 3 + ("every" in fields)
    assert len(by_device.compiled.dispatches) == 1
    for host, device in zip(*rows):
        np.testing.assert_allclose(host["near"], device["near"], rtol=1e-4)
    for a, b in zip(*(jax.tree.leaves(r.params) for r in (by_host, by_device))):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("directions", [0, 2])
def test_a_resumed_run_ends_bit_for_bit_the_same(
    digits, tmp_path, assert_resumes, directions
):
    model = tl.models.MLP(widths=(6, 5))
    tl.train(tl.setup(digits(model=model, steps=2), tmp_path / "s"), progress=False)
    term = JacobianDifference(
        estimator="forward", stage_groups=3, directions=directions, weight=0.01
    )
    init = tl.pretrained.FromRun(str(tmp_path / "s"))
    assert_resumes(_tuning(digits, model, term, init=init), 3)


def test_a_phase_with_fewer_stages_than_groups(digits):
    model = tl.models.MLP(widths=(6, 5))
    term = JacobianDifference(weight=1e-2, estimator="forward", stage_groups=3)
    phases = (tl.optim.Phase(until=0.5, frozen="layer1"), tl.optim.Phase())
    run = tl.setup(_tuning(digits, model, term, phases=phases, steps=12))
    is_zero = [row["near"] == 0 for row in run.advance(12)]
    # θ = θ₀ at step 0. Two stages are two groups, the third is empty.
    empty = [S.group_of_draw(i, 3) == 2 for i in range(6)]
    assert is_zero == [True, *empty[1:], *[False] * 6]


def _flops(digits, model, fields=None, **changes):
    term = JacobianDifference(estimator="forward", **fields) if fields else None
    run = tl.setup(_tuning(digits, model, term, **changes))
    return run.compile()


@pytest.mark.parametrize(
    "model",
    [
        tl.models.MLP(widths=(96, 96)),
        pytest.param(tl.models.CNN(widths=(16, 32), units=64), marks=pytest.mark.slow),
    ],
)
def test_late_groups_cost_little_and_half_of_the_batch_at_most_one_and_a_half(
    digits, model
):
    changes = {"init": _source(digits, model), "batch": 128}
    plain = _flops(digits, model, **changes).flops
    groups = len(model.stages)
    fields = {"directions": 4, "stage_groups": groups}
    compiled = _flops(digits, model, fields, **changes)
    costs = {
        kind.variants[0][1]: dispatch.flops / plain
        for kind, dispatch in compiled.dispatches.items()
    }
    # The derivative by the head takes no pass; that by the last but one stage, one
    # product more, and as many more in the backward pass.
    assert costs[groups - 1] < 1.1
    assert costs[groups - 1] < costs[groups - 2] < min(costs[0], 1.5)
    mean = sum(costs.values()) / groups
    np.testing.assert_allclose(compiled.flops / plain, mean, rtol=1e-6)
    half = _flops(digits, model, {**fields, "fraction": 0.5}, **changes).flops / plain
    whole = _flops(digits, model, {"directions": 4}, **changes).flops / plain
    np.testing.assert_allclose(half, (1 + mean) / 2, rtol=0.03)
    assert half <= 1.5
    assert mean < 0.8 * whole


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        # Multiply-adds of an example beyond those of the plain step. The first layer
        # that trains has x·u alone, since its input is a constant. The next one has
        # x·u, ẋ·w, one more cotangent by input and one more by kernel.
        (tl.models.MLP(widths=(64, 96)), 64 * 96 + 4 * 96 * 10),
        # From 4 × 4 pixels after block1; 3 × 3 kernels see 10 of 12 rows and columns,
        # as XLA does not count zeros. The head has ẋ's cotangent besides.
        pytest.param(
            tl.models.CNN(widths=(16, 32), units=64),
            100 * 16 * 32 + 4 * (2 * 2 * 32 * 64) + 5 * 64 * 10,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_below_frozen_stages_nothing_is_derived(digits, model, extra):
    """Arithmetic beyond that of the plain step, by hand against XLA's count."""
    batch, first = 256, model.stages[0]
    optim = tl.optim.AdamW(lr=1e-2, groups={first: FROZEN, ".*": 1.0})
    init = _source(digits, model)
    changes = {"init": init, "batch": batch, "optim": optim, "cache": "off"}
    plain, full = (
        _flops(digits, model, fields, **changes).flops
        for fields in (None, {"directions": 4})
    )
    np.testing.assert_allclose(full - plain, 2 * batch * extra, rtol=0.1)
