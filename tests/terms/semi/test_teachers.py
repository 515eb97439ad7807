"""Mean teacher, Π-model and UDA: averages in closed form, values by loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pseudo_targets import softmax

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import MLP
from jaxtl.terms.context import View
from jaxtl.terms.semi import mean_teacher, uda

NOISE = (tl.data.Noise(scale=0.5),)


def test_the_teacher_is_the_closed_form_of_an_average():
    rng, decay = np.random.default_rng(0), 0.7
    students = [rng.normal(size=4) for _ in range(8)]
    state = {
        "params": {"a": jnp.zeros(4), "frozen": None},
        "stats": {"mean": jnp.ones(4)},
    }
    for step, student in enumerate(students):
        params = {"a": jnp.asarray(student, jnp.float32), "frozen": jnp.ones(2)}
        stats = {"mean": jnp.asarray(2 * student, jnp.float32)}
        state = mean_teacher.updated_teacher(
            state, params, stats, decay, jnp.asarray(step)
        )
    assert state["params"]["frozen"] is None
    # d_t = min(0.7, t/(t+1)): the plain mean of four, an average with 0.7 from there.
    mean = np.mean(students[:3], 0)
    for student in students[3:]:
        mean = 0.7 * mean + 0.3 * student
    np.testing.assert_allclose(state["params"]["a"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["stats"]["mean"], 2 * mean, rtol=1e-5, atol=1e-6)


def test_the_value_is_the_squared_distance_to_the_teachers_view(bench):
    harness = bench(frozen=("layer1",))
    term = tl.semi.MeanTeacher(decay=0.5, view=NOISE)
    state = term.init_state(harness.setup)
    assert state["params"]["layer1"]["dense"]["kernel"] is None
    old = jax.tree.map(lambda x: x + 1.0, state["params"])
    context = harness.context(state={**state, "params": old}, step=5)
    view = View(context, "term", 0)
    augmented = context.view("unlabelled", NOISE, view.key)

    value, extra = term(view)
    head = jax.tree.map(
        lambda a, b: 0.5 * a + 0.5 * b, old["head"], harness.params["head"]
    )
    new = context.term_states["term"]["params"]["head"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new, head)
    x = harness.batches["unlabelled"]["x"]
    student = softmax(harness.network.apply(harness.params, harness.stats, x).logits)
    params = {**harness.params, "head": head}
    teacher = softmax(harness.network.apply(params, harness.stats, augmented).logits)
    np.testing.assert_allclose(value, ((student - teacher) ** 2).mean(), rtol=1e-4)
    np.testing.assert_allclose(extra["confidence"], teacher.max(-1).mean(), rtol=1e-5)


def test_no_gradient_reaches_the_teacher(bench):
    harness = bench()
    term = tl.semi.MeanTeacher()
    state = term.init_state(harness.setup)

    # At step 0 the teacher is the student: their distance is 0 and so is its gradient.
    def value(params):
        return term(View(harness.context(params, state=state, step=0), "term", 0))[0]

    value, grads = jax.value_and_grad(value)(harness.params)
    assert value == 0
    assert trees.sum_squares(grads) == 0


def test_a_quiet_teacher_draws_no_dropout(bench):
    harness = bench(model=MLP(outputs=3, widths=(8,), dropout=0.5))

    def values(noisy):
        term = tl.semi.MeanTeacher(noisy=noisy)
        confidences = []
        for seed in (0, 1):
            state = term.init_state(harness.setup)
            context = harness.context(state=state, step=0, seed=seed)
            confidences.append(term(View(context, "term", 0))[1]["confidence"])
        return confidences

    assert values(False)[0] == values(False)[1]
    assert values(True)[0] != values(True)[1]


def test_pi_model_compares_two_views_and_trains_both(bench):
    harness = bench()
    term = tl.semi.PiModel(view=NOISE)
    term.check(harness.setup)
    context = harness.context()
    view = View(context, "term", 0)
    x = harness.batches["unlabelled"]["x"]
    augmented = context.view("unlabelled", NOISE, view.key)

    def theirs(params):
        first, second = (
            jax.nn.softmax(harness.network.apply(params, harness.stats, a).logits)
            for a in (x, augmented)
        )
        return jnp.mean((first - second) ** 2)

    def ours(params):
        return term(View(harness.context(params), "term", 0))

    actual, grads = jax.value_and_grad(ours)(harness.params)
    value, expected = jax.value_and_grad(theirs)(harness.params)
    np.testing.assert_allclose(actual, value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, expected
    )


def test_uda_is_masked_kl_to_sharpened_predictions():
    rng = np.random.default_rng(3)
    weak, strong = 2 * rng.normal(size=(2, 9, 4))
    total, mask = 0.0, []
    for w, s in zip(weak, strong):
        p, q = softmax(w[None] / 0.4)[0], softmax(s[None])[0]
        mask.append(softmax(w[None]).max() >= 0.8)
        total += mask[-1] * sum(a * np.log(a / b) for a, b in zip(p, q))
    assert 0 < np.mean(mask) < 1
    value, actual = uda.consistency(
        jnp.asarray(weak, jnp.float32), jnp.asarray(strong, jnp.float32), 0.4, 0.8
    )
    np.testing.assert_array_equal(actual, mask)
    np.testing.assert_allclose(value, total / 9, rtol=1e-5)


@pytest.mark.parametrize(
    ("rise", "alpha"),
    [
        ("linear", lambda t: t),
        ("log", lambda t: 1 - np.exp(-5 * t)),
        ("exp", lambda t: np.exp(5 * (t - 1))),
    ],
)
def test_signal_annealing_counts_what_is_not_yet_learned(rise, alpha):
    logits = np.random.default_rng(4).normal(size=(12, 3)) * 2
    labels = np.arange(12) % 3
    for t in (0.0, 0.3, 1.0):
        eta = alpha(t) * (1 - 1 / 3) + 1 / 3
        np.testing.assert_allclose(
            uda.signal_threshold(rise, jnp.asarray(t), 3), eta, rtol=1e-5
        )
        losses = []
        for p, label in zip(softmax(logits), labels):
            if p[label] <= eta:
                losses.append(-np.log(p[label]))
        value, share = uda.annealed_cross_entropy(
            jnp.asarray(logits, jnp.float32), jnp.asarray(labels), eta
        )
        np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(share, len(losses) / 12, rtol=1e-6)


def test_signal_annealing_of_a_batch_that_is_learned_is_nothing():
    logits = jnp.asarray([[9.0, 0.0], [0.0, 9.0]])
    value, share = uda.annealed_cross_entropy(logits, jnp.asarray([0, 1]), 0.6)
    assert value == 0
    assert share == 0


@pytest.mark.parametrize("name", ["UDA", "FixMatch", "FlexMatch", "FreeMatch"])
def test_vectors_have_no_usual_strong_view(bench, name):
    with pytest.raises(UserError, match=r"terms.term.strong=None: .*vectors \(5,\)"):
        getattr(tl.semi, name)().check(bench().setup)


def test_pi_model_of_vectors_needs_a_view(bench):
    with pytest.raises(UserError, match="two equal passes agree"):
        tl.semi.PiModel().check(bench().setup)


def test_other_vocabularies_have_no_usual_strong_view(bench):
    harness = bench("language")
    harness.task = "classification"
    with pytest.raises(UserError, match=r"BERT's vocabularies"):
        tl.semi.FixMatch().check(harness.setup)
    tl.semi.FixMatch(strong=(tl.data.WordDropout(to=3, special=(0,)),)).check(
        harness.setup
    )


def test_operations_must_be_callable(bench):
    with pytest.raises(UserError, match="expected callables"):
        tl.semi.FixMatch(strong=("flip",)).check(bench().setup)
