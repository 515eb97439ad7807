"""A term per source: names, weights, and the loss that they make."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import config, serialization
from jaxtl.core.errors import UserError
from jaxtl.optim import schedules
from jaxtl.terms import domain
from jaxtl.terms.context import loss


def test_the_sum_is_the_mean_over_sources(bench):
    harness = bench(streams=("art", "photo", "target"))
    terms = domain.each_source(
        tl.losses.CrossEntropy(weight=3.0), ("art", "photo"), "task"
    )
    assert list(terms) == ["task_art", "task_photo"]
    total, metrics = loss(terms, harness.context(term_states={}))
    np.testing.assert_allclose(
        total, 3.0 * (metrics["task_art"] + metrics["task_photo"]) / 2, rtol=1e-6
    )
    assert metrics["task_art"] != metrics["task_photo"]


def test_adversaries_have_a_discriminator_each():
    terms = domain.each_source(domain.DANN(widths=(4,)), ("art", "photo"))
    assert {name: (t.source, t.target, t.weight) for name, t in terms.items()} == {
        "dann_art": ("art", "unlabelled", 0.5),
        "dann_photo": ("photo", "unlabelled", 0.5),
    }


def test_a_schedules_share_stays_a_schedule():
    weight = schedules.Linear(peak=4.0, warmup=2.0)
    term = domain.DeepCORAL(weight=weight)
    copy = domain.each_source(term, ("a", "b"))["deepcoral_a"]
    for step in range(6):
        whole = weight.value(jnp.asarray(step), jnp.asarray(6))
        half = copy.weight.value(jnp.asarray(step), jnp.asarray(6))
        np.testing.assert_allclose(half, whole / 2, rtol=1e-6)
    assert serialization.from_json(serialization.to_json(copy)) == copy
    # Its numbers are traced like any other's.
    assert config.key(config.without_hyperparameters(copy)) == config.key(
        config.without_hyperparameters(
            domain.each_source(term, ("a", "b", "c"))["deepcoral_a"]
        )
    )


def test_bad_input_is_one_sentence():
    for term, sources, message in (
        (domain.DANN(), (), "one or more streams"),
        (domain.DANN(), ("a", "a"), "each named once"),
        (domain.DANN(), "art", "as a tuple"),
        (tl.regularizers.L2SP(), ("a", "b"), "no field 'source' or 'stream'"),
    ):
        with pytest.raises(UserError, match=message):
            domain.each_source(term, sources)
