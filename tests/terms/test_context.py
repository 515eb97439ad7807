"""The objective: Σ weight · term over one context."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.config import traced
from jaxtl.optim import schedules
from jaxtl.terms import context as terms_context
from jaxtl.terms.base import Term, streams_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value(Term):
    """A term of a given value."""

    value: float = traced(1.0)
    reads: tuple[str, ...] = ("target",)

    @property
    def streams(self):
        return self.reads

    def __call__(self, context):
        return jnp.asarray(self.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reporting(Value):
    """A term that reports, draws a number and counts."""

    def __call__(self, context):
        context.set_state({"count": context.state.get("count", 0) + 1})
        return jnp.asarray(self.value), {"draw": jax.random.uniform(context.key)}


def test_the_loss_is_the_weighted_sum(bench):
    terms = {
        "a": Value(value=2.0, weight=0.5),
        "b": Value(value=3.0, weight=schedules.Linear(peak=1.0)),
        "c": Reporting(value=jnp.bfloat16(4.0), weight=-1.0),
    }
    total, metrics = terms_context.loss(terms, bench().context(step=5))
    assert float(total) == pytest.approx(0.5 * 2 + 0.5 * 3 - 4)  # b: half-way of 10
    assert total.dtype == jnp.float32
    assert {k: float(metrics[k]) for k in "abc"} == {"a": 2.0, "b": 3.0, "c": 4.0}
    assert metrics["loss"] == total
    assert set(metrics) == {"loss", "a", "b", "c", "c/draw"}


def test_metrics_carry_no_gradient(bench):
    def report(x):
        term = dataclasses.replace(Value(), value=x)
        return terms_context.loss({"a": term}, bench().context())[1]["a"]

    assert float(jax.grad(report)(3.0)) == 0.0


def test_every_term_draws_its_own_numbers(bench):
    terms = {"a": Reporting(), "b": Reporting()}
    metrics = terms_context.loss(terms, bench().context())[1]
    again = terms_context.loss(terms, bench().context())[1]
    other = terms_context.loss(terms, bench().context(seed=1))[1]
    assert metrics["a/draw"] == again["a/draw"]
    assert len({float(m) for m in (metrics["a/draw"], metrics["b/draw"])}) == 2
    assert metrics["a/draw"] != other["a/draw"]


def test_state_is_stored_under_the_terms_name(bench):
    context = bench().context()
    terms_context.loss({"a": Reporting(), "b": Value()}, context)
    assert context.term_states["a"] == {"count": 1}


def test_a_forward_pass_is_run_once_per_stream(bench):
    made = bench()
    calls = []

    def apply(*args, **settings):
        calls.append(settings)
        return made.network.apply(*args, **settings)

    context = made.context(
        program={"network": dataclasses.replace(made.network, apply=apply)}
    )
    first = context.forward()
    assert context.forward("target") is first
    context.forward("source")
    assert len(calls) == 2
    assert calls[0]["train"] == made.network.stages
    assert calls[0]["key"] != calls[1]["key"], "dropout differs between streams"
    np.testing.assert_allclose(
        first.logits,
        made.network.apply(made.params, made.stats, made.batches["target"]["x"]).logits,
        rtol=1e-6,
    )


def test_streams_come_once_each_in_order():
    terms = {
        "a": Value(reads=("target", "source")),
        "b": Value(reads=()),
        "c": Value(reads=("unlabelled", "target")),
    }
    assert streams_of(terms) == ("target", "source", "unlabelled")
