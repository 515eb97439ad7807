"""Directions in the parameters of adapters: whole Jacobians in float64, draws, runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.terms.context import AdapterParams, View
from jaxtl.terms.regularizers import JacobianDifference
from jaxtl.terms.regularizers import jacobian_estimates as J

TERM = JacobianDifference(estimator="forward", wrt="adapters")


class _Room:
    """A perceptron in float64 with LoRA on its hidden layers."""

    def __init__(self, bench):
        model = tl.models.MLP(
            outputs=3, widths=(5, 4), activation="gelu", param_dtype="float64"
        )
        self.bench = bench(model=model)
        self.base = jax.tree.map(lambda a: a.astype(jnp.float64), self.bench.params)
        self.x = self.bench.batches["target"]["x"].astype(jnp.float64)
        self.peft = tl.peft.LoRA(rank=2, select="layer.*/kernel")
        adapters = self.peft.init(jax.random.key(3), self.base)
        self.adapters = jax.tree.map(lambda a: a.astype(jnp.float64) + 0.3, adapters)

    def weights(self, adapters):
        return self.peft.merge(self.base, adapters, {})

    def value(self, adapters, key, term=TERM):
        program = {
            "peft": self.peft,
            "base_mask": jax.tree.map(lambda _: False, self.base),
            "trainable_mask": self.peft.adapted_mask(self.base),
        }
        context = self.bench.context(
            self.weights(adapters),
            key=key,
            program=program,
            adapters=AdapterParams(adapters, self.weights),
        )
        return term(View(context, "term", 0))

    def signs(self, key):
        """The direction that the term draws from the key of a step."""
        view = View(self.bench.context(key=key), "term", 0)
        signs = J.random_signs(jax.random.split(view.key, 1)[0], self.adapters)
        return ravel_pytree(signs)[0]

    def difference(self, adapters):
        """(J(W) − J(W₀)) ∂W/∂A by whole Jacobians: (examples, 3, elements of A)."""

        def logits(weights):
            return self.bench.network.apply(weights, {}, self.x).logits

        flat, unravel = ravel_pytree(adapters)
        source = jax.jacrev(logits)(self.bench.source.params)
        source = jax.lax.stop_gradient(source)
        gaps = jax.tree.map(
            jnp.subtract, jax.jacrev(logits)(self.weights(adapters)), source
        )
        moves = jax.jacfwd(lambda a: self.weights(unravel(a)))(flat)
        return sum(
            gap.reshape(*gap.shape[:2], -1) @ move.reshape(-1, len(flat))
            for gap, move in zip(jax.tree.leaves(gaps), jax.tree.leaves(moves))
        )


def test_value_and_gradient_are_those_of_whole_jacobians(bench):
    with jax.enable_x64(True):
        room, key = _Room(bench), jax.random.key(7)

        def expected(adapters):
            along = room.difference(adapters) @ room.signs(key)
            return jnp.mean(jnp.sum(along**2, 1))

        ours, exact = (
            jax.jit(jax.value_and_grad(f))(room.adapters)
            for f in (lambda a: room.value(a, key), expected)
        )
        assert ours[0] > 1e-4
        assert ours[0].dtype == jnp.float64
        for a, b in zip(*map(jax.tree.leaves, (ours, exact))):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_mean_over_draws_is_the_norm_of_the_whole_difference(bench):
    with jax.enable_x64(True):
        room = _Room(bench)
        keys = jax.random.split(jax.random.key(0), 200)
        draws = jax.jit(
            lambda: jax.lax.map(lambda k: room.value(room.adapters, k), keys)
        )
        draws = np.asarray(draws())
        exact = jnp.mean(jnp.sum(room.difference(room.adapters) ** 2, (1, 2)))
        assert abs(draws.mean() - exact) < 3 * draws.std(ddof=1) / np.sqrt(len(draws))


@pytest.fixture
def source(digits, tmp_path):
    run = tl.setup(digits(model=tl.models.MLP(widths=(6, 5)), steps=2), tmp_path / "s")
    tl.train(run, progress=False)
    return tl.pretrained.FromRun(str(tmp_path / "s"))


def _tuning(digits, source, term, **changes):
    fields = {"peft": tl.peft.LoRA(rank=2, select="layer.*/kernel"), **changes}
    return digits(
        model=tl.models.MLP(widths=(6, 5)),
        init=source,
        terms={"task": tl.losses.CrossEntropy(), "near": term},
        batch=8,
        monitor=None,
        **fields,
    )


def test_a_resumed_run_ends_bit_for_bit_the_same(digits, source, assert_resumes):
    assert_resumes(_tuning(digits, source, dataclasses.replace(TERM, weight=0.1)), 3)


def test_host_and_device_take_the_same_steps(digits, source):
    term = dataclasses.replace(TERM, weight=0.1, every=2, fraction=0.5)
    exp = _tuning(digits, source, term)
    rows = [
        tl.setup(dataclasses.replace(exp, steps_per_dispatch=count)).advance(6)
        for count in (1, 3)
    ]
    for host, device in zip(*rows):
        np.testing.assert_allclose(host["near"], device["near"], rtol=1e-4)
    is_zero = [row["near"] == 0 for row in rows[0]]
    assert is_zero == [True, False] * 3


def test_what_moves_is_told_and_the_first_step_has_no_difference(digits, source):
    run = tl.setup(_tuning(digits, source, TERM, steps=2))
    assert "parameters that the adapters move, of layer1, layer2" in run.notes["near"]
    values = [row["near"] for row in run.advance(2)]
    assert values[0] == 0 < values[1]


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        (
            {"peft": None},
            {},
            r"wrt='adapters': the experiment has no adapters; expected",
        ),
        ({}, {"estimator": "projected"}, r"estimator='projected': wrt='adapters' exp"),
        ({}, {"directions": 2}, r"directions=2: expected .*wrt='params'"),
        ({}, {"stage_groups": 2}, r"stage_groups=2: expected .*wrt='params'"),
        ({}, {"select": "head/.*"}, r"no selected, trainable parameter"),
    ],
)
def test_what_does_not_go_together_is_refused(digits, source, changes, fields, message):
    term = dataclasses.replace(TERM, **fields)
    with pytest.raises(UserError, match=message):
        tl.setup(_tuning(digits, source, term, **changes))
