"""Domain generalization: each equation against numpy and torch, and its bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.models import CNN
from jaxtl.optim import schedules
from jaxtl.terms import generalization
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base, group_dro, irm, vrex

STREAMS = ("source", "target", "photo")
TERMS = [getattr(generalization, name) for name in generalization.__all__]


def _logits(seed=0, sizes=(4, 7, 5), classes=3):
    rng = np.random.default_rng(seed)
    z = [3 * rng.normal(size=(n, classes)) for n in sizes]
    return z, [rng.integers(0, classes, n) for n in sizes]


def _cross_entropy(z, y):
    """Mean over examples, by a loop."""
    total = 0.0
    for row, label in zip(z, y):
        total += np.log(np.exp(row).sum()) - row[label]
    return total / len(z)


def _harness(bench, **fields):
    return bench(streams=(*STREAMS, "unlabelled"), **fields)


def _run(harness, term, seed=0, state=None):
    """Returns (value, metrics, context) of a term on the bench."""
    term.check(harness.setup)
    constants = term.constants(harness.setup)
    state = term.init_state(harness.setup) if state is None else state
    context = harness.context(state=state, constants=constants, seed=seed)
    result = term(View(context, "term", 0))
    value, extra = result if isinstance(result, tuple) else (result, {})
    return value, extra, context


def _forward(harness, stream):
    out = harness.network.apply(
        harness.params, harness.stats, harness.batches[stream]["x"]
    )
    return np.asarray(out.logits, np.float64), np.asarray(harness.batches[stream]["y"])


def test_risks_are_each_domains_mean():
    z, y = _logits()
    actual = base.risks(dict(enumerate(z)), dict(enumerate(y)))
    expected = [_cross_entropy(a, b) for a, b in zip(z, y)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_erm_counts_every_domain_the_same(bench):
    harness = _harness(bench)
    value, extra, _ = _run(harness, generalization.PooledERM(streams=STREAMS))
    outputs = [_forward(harness, s) for s in STREAMS]
    assert len({len(y) for _, y in outputs}) == 3  # batches of unequal size
    risks = [_cross_entropy(*pair) for pair in outputs]
    np.testing.assert_allclose(value, np.mean(risks), rtol=1e-5)
    hits = [np.mean(z.argmax(1) == y) for z, y in outputs]
    np.testing.assert_allclose(extra["accuracy"], np.mean(hits), rtol=1e-6)
    np.testing.assert_allclose(extra["worst"], np.min(hits), rtol=1e-6)


def test_the_penalty_is_torchs_squared_gradient_by_a_scale():
    torch = pytest.importorskip("torch", reason="the penalty is held to autograd's")
    z, y = _logits()

    def gradient(z, y):
        w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(w * torch.tensor(z), torch.tensor(y))
        return torch.autograd.grad(loss, [w])[0].item()

    for logits, labels in zip(z, y):
        actual = irm.penalty(jnp.asarray(logits), jnp.asarray(labels))
        np.testing.assert_allclose(actual, gradient(logits, labels) ** 2, rtol=1e-5)
        actual = irm.penalty(jnp.asarray(logits), jnp.asarray(labels), halves=True)
        halves = [gradient(logits[i::2], labels[i::2]) for i in (0, 1)]
        np.testing.assert_allclose(actual, np.prod(halves), rtol=1e-5)


def test_the_penaltys_own_gradient_is_torchs():
    torch = pytest.importorskip("torch", reason="the penalty is held to autograd's")
    [z], [y] = _logits(sizes=(6,))
    logits = torch.tensor(z, requires_grad=True)
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(w * logits, torch.tensor(y))
    slope = torch.autograd.grad(loss, [w], create_graph=True)[0]
    (slope**2).backward()
    actual = jax.grad(irm.penalty)(jnp.asarray(z), jnp.asarray(y))
    np.testing.assert_allclose(actual, logits.grad, rtol=1e-4, atol=1e-6)


def test_the_product_of_halves_is_unbiased_and_the_square_is_not():
    # Over all draws of 2 of 5 examples, in order: the mean product is that of slopes
    # drawn independently but for repetition, which the loop counts out.
    [z], [y] = _logits(sizes=(5,))
    slopes = np.asarray(irm.scale_gradients(jnp.asarray(z), jnp.asarray(y)), np.float64)
    pairs = [(i, j) for i in range(5) for j in range(5)]
    both = [np.array(pair) for pair in pairs]
    products = [irm.penalty(jnp.asarray(z[p]), jnp.asarray(y[p]), True) for p in both]
    squares = [irm.penalty(jnp.asarray(z[p]), jnp.asarray(y[p])) for p in both]
    np.testing.assert_allclose(np.mean(products), slopes.mean() ** 2, rtol=1e-4)
    bias = slopes.var() / 2  # of the mean of two
    np.testing.assert_allclose(np.mean(squares), slopes.mean() ** 2 + bias, rtol=1e-4)


def test_distributions_as_labels_are_what_their_indices_are():
    [z], [y] = _logits(sizes=(6,))
    z = jnp.asarray(z)
    whole = jax.nn.one_hot(y, 3)
    np.testing.assert_allclose(
        irm.penalty(z, whole), irm.penalty(z, jnp.asarray(y)), rtol=1e-6
    )


def test_irm_and_vrex_on_the_models_logits(bench):
    harness = _harness(bench)
    outputs = [_forward(harness, s) for s in STREAMS]
    risks = [_cross_entropy(*pair) for pair in outputs]
    value, extra, _ = _run(harness, generalization.VREx(streams=STREAMS))
    expected = np.mean([(r - np.mean(risks)) ** 2 for r in risks])
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(extra["worst"], max(risks), rtol=1e-5)
    value, _, _ = _run(harness, generalization.IRM(streams=STREAMS))
    penalties = []
    for z, y in outputs:
        step = 1e-5
        up, down = (_cross_entropy(w * z, y) for w in (1 + step, 1 - step))
        penalties.append(((up - down) / (2 * step)) ** 2)
    np.testing.assert_allclose(value, np.mean(penalties), rtol=1e-3)


def test_equal_risks_have_no_variance():
    assert vrex.variance(jnp.full(4, 0.7)) < 1e-12


def test_group_weights_follow_exponentiated_gradient():
    weights, log_weights = np.full(3, 1 / 3), jnp.log(jnp.full(3, 1 / 3))
    rng = np.random.default_rng(0)
    for _ in range(20):
        risks = rng.uniform(0, 3, 3)
        log_weights = group_dro.updated_log_weights(
            log_weights, jnp.asarray(risks), 0.3
        )
        for g in range(3):
            weights[g] = weights[g] * np.exp(0.3 * risks[g])
        weights = weights / sum(weights)
        np.testing.assert_allclose(np.exp(log_weights), weights, rtol=1e-4)


def test_group_weights_that_float32_can_not_hold_still_come_back():
    start = jnp.log(jnp.full(2, 0.5))
    extreme = group_dro.updated_log_weights(start, jnp.asarray([200.0, 0.0]), 1.0)
    assert np.exp(extreme[1]) == 0.0
    recovered = group_dro.updated_log_weights(extreme, jnp.asarray([0.0, 200.0]), 1.0)
    np.testing.assert_allclose(np.exp(recovered), 0.5, rtol=1e-4)


def test_group_dro_keeps_its_weights_between_steps(bench):
    harness = _harness(bench)
    term = generalization.GroupDRO(streams=STREAMS, eta=0.5, adjustment=2.0)
    sizes = [harness.setup.examples[s] for s in STREAMS]
    risks = [_cross_entropy(*_forward(harness, s)) for s in STREAMS]
    risks = np.asarray(risks) + 2.0 / np.sqrt(sizes)
    weights, state = np.full(3, 1 / 3), term.init_state(harness.setup)
    for _ in range(3):
        value, extra, context = _run(harness, term, state=state)
        state = context.term_states["term"]
        weights = weights * np.exp(0.5 * risks)
        weights /= weights.sum()
        np.testing.assert_allclose(value, weights @ risks, rtol=1e-4)
        np.testing.assert_allclose(np.exp(state["log_weights"]), weights, rtol=1e-4)
        np.testing.assert_allclose(extra["largest_weight"], weights.max(), rtol=1e-4)


def test_the_weights_of_group_dro_get_no_gradient(bench):
    harness = _harness(bench)
    term = generalization.GroupDRO(streams=STREAMS, eta=3.0)
    constants, state = term.constants(harness.setup), term.init_state(harness.setup)

    def value(params, fixed):
        context = harness.context(params, state=state, constants=constants)
        view = View(context, "term", 0)
        if fixed is None:
            return term(view)[0]
        logits = base.domain_logits(view, STREAMS)
        return fixed @ base.risks(logits, base.domain_labels(view, STREAMS))

    risks = [_cross_entropy(*_forward(harness, s)) for s in STREAMS]
    weights = np.exp(3.0 * np.asarray(risks))
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    actual, expected = (jax.grad(value)(harness.params, w) for w in (None, weights))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_batchnorm_sees_all_domains_together(bench):
    harness = _harness(bench)
    model = CNN(outputs=3, widths=(2,), units=4, norm=True).pure()
    rng = np.random.default_rng(0)
    batches = {
        name: {
            "x": jnp.asarray(rng.normal(i, 1 + i, (4 + i, 6, 6, 1)), jnp.float32),
            "y": jnp.asarray(rng.integers(0, 3, 4 + i)),
        }
        for i, name in enumerate(STREAMS)
    }
    whole = jnp.concatenate([batches[s]["x"] for s in STREAMS])
    params, stats = model.init(jax.random.key(0), whole)
    fields = {"params": params, "stats": stats, "batches": batches}
    program = {"network": model, "train_stages": model.stages}
    context = harness.context(program=program, **fields)
    outputs = context.joint_forward(STREAMS)
    expected = model.apply(params, stats, whole, train=model.stages)
    logits = jnp.concatenate([outputs[s].logits for s in STREAMS])
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(context.stats), jax.tree.leaves(expected.stats)):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert outputs["photo"].features["block1"].shape[0] == 6
    assert context.joint_forward(STREAMS) is outputs
    for streams, moved in ((("photo",), True), ((), False), (("unlabelled",), False)):
        context = harness.context(
            program={**program, "stats_streams": streams}, **fields
        )
        context.joint_forward(STREAMS)
        same = jax.tree.leaves(context.stats)[0] is jax.tree.leaves(stats)[0]
        assert same != moved


@pytest.mark.parametrize("cls", TERMS, ids=lambda cls: cls.__name__)
def test_bad_input_is_one_sentence(bench, cls):
    setup = _harness(bench).setup
    for streams, message in (
        ((), "two or more different streams"),
        (("source",), "two or more different streams"),
        (("source", "source"), "two or more different streams"),
        (("source", "phot"), "did you mean 'photo'"),
        (("source", "unlabelled"), "has none"),
        ("source", r"expected a tuple of names, such as \('source', …\)"),
    ):
        with pytest.raises(UserError, match=message) as error:
            cls(streams=streams).check(setup)
        assert str(error.value).startswith("terms.term.streams=")
    regression = dataclasses.replace(setup.program, task="regression")
    with pytest.raises(UserError, match="classification"):
        cls(streams=STREAMS).check(dataclasses.replace(setup, program=regression))
    classes = {"": ("a", "b"), "photo": ("b", "a")}
    with pytest.raises(UserError, match="classes"):
        cls(streams=STREAMS).check(dataclasses.replace(setup, classes=classes))


def test_numbers_out_of_range_are_told(bench):
    setup = _harness(bench).setup
    for cls, field, value in (
        (generalization.PooledERM, "label_smoothing", 2.0),
        (generalization.GroupDRO, "eta", -1.0),
        (generalization.GroupDRO, "adjustment", -1.0),
        (generalization.InterDomainMixup, "alpha", 0.0),
        (generalization.MixStyle, "alpha", 0.0),
        (generalization.MixStyle, "probability", 1.5),
        (generalization.MLDG, "rate", -0.1),
        (generalization.MLDG, "beta", -0.1),
    ):
        with pytest.raises(UserError, match=rf"terms.term.{field}="):
            cls(streams=STREAMS, **{field: value}).check(setup)


def test_a_batch_of_one_has_no_halves(bench):
    harness = _harness(bench, batch=1)
    with pytest.raises(UserError, match="at least 2 examples"):
        _run(harness, generalization.IRM(streams=STREAMS, halves=True))


def test_an_experiment_whose_target_is_only_evaluated(digits):
    def domain(seed, shift):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, 60)
        x = (np.eye(3)[y] * 3 + rng.normal(shift, 0.3, (60, 3))).astype(np.float32)
        return tl.data.Arrays(x=x, y=y)

    names = ("art", "photo")
    run = tl.setup(
        digits(
            data=dataclasses.replace(domain(2, 0.5), labels=0),
            streams={"art": domain(0, 0.0), "photo": domain(1, 1.0)},
            terms={
                "task": generalization.GroupDRO(streams=names, eta=0.1),
                "vrex": generalization.VREx(
                    streams=names, weight=schedules.Linear(peak=1.0, warmup=3.0)
                ),
            },
            steps=40,
            batch=16,
        )
    )
    first = run.step()
    last = run.advance(39)[-1]
    assert last["loss"] < first["loss"]
    weights = np.exp(run.state.terms["task"]["log_weights"])
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    assert tl.evaluate(run, "test")["accuracy"] > 0.8
