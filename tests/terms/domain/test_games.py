"""The adversarial terms as games: what descent does to each side, step by step.

Both sides take plain gradient steps of the whole objective: with the encoder held the
adversary's loss must fall, with the adversary held the encoder must raise it.
"""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtl import models
from jaxtl.core.errors import UserError
from jaxtl.terms import context as terms_context
from jaxtl.terms.domain import ADDA, CDAN, DANN, MCD, MDD

# Term, its metric that the adversary lowers, and (ADDA's has no reversal: its encoder
# descends a loss of its own) the sign of what the encoder does to it.
GAMES = [
    (DANN(reversal=1.0), "term", 1),
    (CDAN(reversal=1.0), "term", 1),
    (MDD(reversal=1.0), "term", 1),
    (ADDA(), "term/discriminator", 1),
    (MCD(reversal=10.0), "term/discrepancy", -1),
]
_IDS = [type(term).__name__ for term, _, _ in GAMES]


def _train(harness, term, term_params, moves, metric, steps=40, rate=0.02):
    """Returns the metric of each step while only `moves` ("model" or "term") steps."""

    def loss(moved, params, term_params):
        params, term_params = (
            (moved, term_params) if moves == "model" else (params, moved)
        )
        context = harness.context(params, term_params=term_params)
        return terms_context.loss({"term": term}, context)

    start = harness.params if moves == "model" else term_params

    @jax.jit
    def run(moved, params, term_params):
        def step(moved, _):
            grads, metrics = jax.grad(loss, has_aux=True)(moved, params, term_params)
            return jax.tree.map(lambda x, g: x - rate * g, moved, grads), metrics

        return jax.lax.scan(step, moved, length=steps)[1]

    return np.asarray(run(start, harness.params, term_params)[metric])


@pytest.mark.parametrize(("term", "metric", "sign"), GAMES, ids=_IDS)
def test_the_adversary_learns_while_the_encoder_stands(bench, term, metric, sign):
    harness = bench(moved=0.5)
    term.check(harness.setup)
    term_params = term.init(jax.random.key(0), harness.setup)
    # MCD's second classifier lowers its source loss as well: its sum is what falls.
    metric = "term" if isinstance(term, MCD) else metric
    values = _train(harness, term, term_params, "term", metric)
    assert values[-1] < values[0] - 0.02
    assert np.all(np.diff(values) < 1e-3)  # it falls all along


@pytest.mark.parametrize(("term", "metric", "sign"), GAMES, ids=_IDS)
def test_the_encoder_undoes_what_the_adversary_learned(bench, term, metric, sign):
    harness = bench(moved=0.5)
    term_params = term.init(jax.random.key(0), harness.setup)
    values = sign * _train(harness, term, term_params, "model", metric)
    assert values[-1] > values[0] + 0.005


@pytest.mark.parametrize("cls", [DANN, CDAN, MDD, MCD])
def test_without_reversal_the_encoder_is_left_alone(bench, cls):
    harness = bench()
    term = cls(reversal=0.0)
    term_params = term.init(jax.random.key(0), harness.setup)

    def loss(params, term_params):
        context = harness.context(params, term_params=term_params)
        return terms_context.loss({"term": term}, context)[0]

    model, adversary = jax.grad(loss, argnums=(0, 1))(harness.params, term_params)
    assert any((g != 0).any() for g in jax.tree.leaves(adversary))
    if cls is not MCD:  # whose own source loss is not reversed
        assert all((g == 0).all() for g in jax.tree.leaves(model))


@pytest.mark.parametrize(("term", "metric", "sign"), GAMES, ids=_IDS)
def test_batches_of_one_and_of_one_class_are_finite(bench, term, metric, sign):
    harness = bench(batch=1)
    for name in ("source", "unlabelled"):
        harness.batches[name] = {k: v[:1] for k, v in harness.batches[name].items()}
    term_params = term.init(jax.random.key(0), harness.setup)

    def loss(params):
        return terms_context.loss(
            {"term": term}, harness.context(params, term_params=term_params)
        )[0]

    value, grads = jax.value_and_grad(loss)(harness.params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(("term", "metric", "sign"), GAMES, ids=_IDS)
def test_a_target_without_unlabelled_rows_is_one_sentence(bench, term, metric, sign):
    harness = bench(streams=("target", "source"))
    with pytest.raises(UserError, match=r"terms\.term\.target='unlabelled': the data"):
        term.check(harness.setup)
    both = dataclasses.replace(term, target="target")
    both.check(harness.setup)


@pytest.mark.parametrize("cls", [ADDA, MCD, MDD])
def test_a_model_that_is_a_head_alone_is_one_sentence(bench, cls):
    harness = bench(model=models.MLP(outputs=3, widths=()))
    with pytest.raises(UserError, match="head"):
        cls().check(harness.setup)
