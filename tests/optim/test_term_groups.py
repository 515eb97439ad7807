"""Groups of terms' own parameters, against two optimizers of optax side by side."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN
from jaxtl.optim import optimizer as optim_optimizer
from jaxtl.optim.optimizer import AdamW, Group
from jaxtl.peft import LoRA
from jaxtl.training import show
from jaxtl.training.run import Run

LORA = LoRA(rank=1, select="layer1/dense/kernel")
START = {"layer0": {"kernel": jnp.array([[3.0, -2.0]]), "bias": jnp.array([1.0])}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bowl(tl.Term):
    """½ Σ p² + Σ p⁴ of the term's own parameters, whose gradient is p + 4 p³."""

    def init(self, key, setup):
        return START

    def __call__(self, context):
        leaves = jax.tree.leaves(context.term_params)
        return sum(jnp.sum(0.5 * p**2 + p**4) for p in leaves)


def experiment(digits, groups, **more):
    terms = {
        "task": tl.losses.CrossEntropy(),
        "domain": Bowl(),
        "second": Bowl(),
    }
    optim = AdamW(lr=0.01, weight_decay=0.1, groups=groups)
    return digits(
        terms=terms, model=tl.models.MLP(widths=(4,)), optim=optim, steps=3, **more
    )


def by_hand(lr, decay):
    """START after three steps of optax's own AdamW; biases are not decayed."""
    rule = optax.adamw(
        lr,
        weight_decay=decay,
        mask=lambda p: {"layer0": {"kernel": True, "bias": False}},
    )
    params, state = START, rule.init(START)
    for _ in range(3):
        grads = jax.tree.map(lambda p: p + 4 * p**3, params)
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return trees.flatten(params)


def test_a_terms_rate_and_decay_are_its_own(digits, capsys):
    groups = {
        "terms/domain/.*": Group(lr=10.0, weight_decay=0.5),
        "terms/second/layer0/bias": 0.5,
        ".*": 1.0,
    }
    run = tl.setup(experiment(digits, groups))
    show.show(run)
    rows = capsys.readouterr().out.splitlines()
    row = next(line for line in rows if "terms/domain/layer0/kernel" in line)
    assert row.split()[-3:] == ["1×2", "terms/domain/.*", "0.1"]
    row = next(line for line in rows if "terms/second/layer0/kernel" in line)
    assert row.split()[-3:] == ["1×2", "terms", "0.01"]
    plain = tl.setup(experiment(digits, {".*": 1.0}))
    for started in (run, plain):
        started.advance(3)
    trained = {n: trees.flatten(p) for n, p in run.state.trainable["terms"].items()}
    for path, expected in by_hand(0.1, 0.5).items():
        np.testing.assert_allclose(trained["domain"][path], expected, rtol=1e-5)
    kernel, bias = "layer0/kernel", "layer0/bias"
    slow, half = by_hand(0.01, 0.1)[kernel], by_hand(0.005, 0.1)[bias]
    np.testing.assert_allclose(trained["second"][kernel], slow, rtol=1e-5)
    np.testing.assert_allclose(trained["second"][bias], half, rtol=1e-5)
    # The model's parameters don't move otherwise than without a group of the term.
    jax.tree.map(np.testing.assert_array_equal, run.params, plain.params)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"terms/domian/.*": 10.0, ".*": 1.0},
            r"'terms/domian/.*' matches no parameter; did you mean 'terms/domain'",
        ),
        (
            {"terms": 1.0, "terms/domain": 2.0, ".*": 1.0},
            r"'terms/domain' decides nothing.*\['terms'\]",
        ),
        (
            {"terms/domain": FROZEN, ".*": 1.0},
            r"'terms/domain'\]=FROZEN: .* a factor of 0.0 leaves them",
        ),
        ({"terms/domain": "fast", ".*": 1.0}, r"'terms/domain'\]='fast': expected"),
    ],
)
def test_mistakes_are_told(digits, groups, message):
    with pytest.raises(UserError, match=message):
        tl.setup(experiment(digits, groups))


def test_terms_without_parameters_are_told():
    optimizer = AdamW(groups={"terms/task": 2.0, ".*": 1.0})
    with pytest.raises(UserError, match="no term of this experiment has parameters"):
        optim_optimizer.term_labels(optimizer, {})


def test_the_model_needs_no_pattern_where_terms_alone_have_one(digits):
    [phase] = tl.setup(experiment(digits, {"terms/domain": 2.0})).parts.phases
    assert phase.optimizer.groups == {"terms/domain": 2.0, ".*": 1.0}
    adapted = experiment(digits, {"terms.*": 2.0, ".*": 1.0}, peft=LORA)
    [phase] = tl.setup(adapted).parts.phases
    expected = {"terms.*": 2.0, "head": 1.0, ".*": FROZEN}
    assert phase.optimizer.groups == expected


def test_a_run_that_is_reopened_without_terms_keeps_their_groups(digits):
    exp = experiment(digits, {"terms/domain": 2.0})
    [phase] = Run(exp, terms={}).parts.phases  # as `setup.reopen` does
    assert "terms/domain" in phase.optimizer.groups
