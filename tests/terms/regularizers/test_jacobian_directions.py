"""Fixed directions of the Jacobian difference, against whole Jacobians in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN
from jaxtl.pretrained import FromRun
from jaxtl.terms.context import Context, View
from jaxtl.terms.regularizers import JacobianDifference
from jaxtl.terms.regularizers.jacobian_directions import fixed_direction
from jaxtl.terms.regularizers.jacobian_stages import group_of_draw
from jaxtl.training import checkpointing

FIELDS = {"estimator": "forward", "directions": 3}
MODEL = tl.models.MLP(widths=(6, 5), activation="gelu")


@pytest.fixture(scope="module")
def source(digits, tmp_path_factory):
    """The directory of a run."""
    folder = tmp_path_factory.mktemp("source") / "run"
    tl.train(tl.setup(digits(model=MODEL), folder), progress=False)
    return str(folder)


def experiment(digits, source, reset=(), **fields):
    """Digits with the term, from the source's weights."""
    terms = {
        "task": tl.losses.CrossEntropy(),
        "near": JacobianDifference(**{**FIELDS, **fields}),
    }
    return digits(model=MODEL, init=FromRun(source, reset=reset), terms=terms)


def value_of(run, rows, key):
    """The term at the run's parameters on these examples, and its inputs."""
    dataset = run.parts.datasets["target"]
    x = jnp.asarray(dataset.x[rows], jnp.float32) / run.preprocess.scale
    context = Context(
        program=run.program,
        params=run.params,
        stats=run.state.stats,
        source=run.source,
        batches={"target": {"x": x, "y": jnp.asarray(dataset.y[rows]), "row": rows}},
        key=key,
        step=jnp.int32(run.steps_done),
        steps=jnp.int32(run.exp.steps),
        constants=run.fixed.term_constants,
    )
    return run.program.terms["near"](View(context, "near", 1)), x


@pytest.mark.parametrize(
    ("frozen", "parts"), [("", 1), ("always", 1), ("at first", 1), ("", 3)]
)
def test_a_step_takes_one_fixed_direction(digits, source, frozen, parts):
    exp = experiment(digits, source, fraction=0.5, stage_groups=parts)
    if frozen == "at first":
        # The directions move what any phase trains.
        phases = (tl.optim.Phase(until=0.9, frozen="layer1"), tl.optim.Phase())
        exp = dataclasses.replace(exp, phases=phases)
    if frozen == "always":
        groups = {"layer1": FROZEN, ".*": 1.0}
        optim = dataclasses.replace(exp.optim, groups=groups)
        exp = dataclasses.replace(exp, optim=optim)
    run = tl.setup(exp)
    run.advance(next(n for n in (3, 4, 5) if group_of_draw(n, parts) == parts - 1))
    rows = np.asarray(run.parts.datasets["target"].rows["train"][:8])
    moved = {
        k: v
        for k, v in run.params.items()
        if not (frozen == "always" and k == "layer1")
    }
    start = {k: run.source.params[k] for k in moved}
    network = run.program.network

    def jacobian(params, fixed, row):
        flat, unravel = ravel_pytree(params)

        def outputs(flat):
            full = {**fixed, **unravel(flat)}
            return network.apply(full, {}, row[None]).logits[0]

        return np.asarray(jax.jacrev(outputs)(flat), np.float64)

    values = set()
    for seed in range(12):
        value, x = value_of(run, rows, jax.random.key(seed))
        number = jax.random.randint(
            jax.random.fold_in(jax.random.key(seed), 1001), (), 0, 3
        )
        direction = fixed_direction(number, moved)
        if parts == 3:  # the one in the last of three stages
            zeros = jax.tree.map(jnp.zeros_like, direction)
            stage = network.stages[-1]
            direction = {**zeros, stage: direction[stage]}
        u = np.asarray(ravel_pytree(direction)[0], np.float64)
        gaps = [
            jacobian(moved, run.params, row) - jacobian(start, run.source.params, row)
            for row in x[:4]
        ]
        expected = parts * np.mean([np.sum((gap @ u) ** 2) for gap in gaps])
        np.testing.assert_allclose(value, expected, rtol=1e-3)
        values.add(round(float(value), 4))
    assert len(values) == 3


def test_a_run_with_fixed_directions_resumes_to_the_same_bits(digits, source, tmp_path):
    exp = experiment(digits, source)
    whole = tl.setup(exp)
    whole.advance(6)
    run = tl.setup(exp, tmp_path / "parts")
    run.advance(3)
    checkpointing.save(run)
    parts = tl.resume(tmp_path / "parts")
    parts.advance(3)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)


def test_what_can_t_be_kept_is_refused(digits, source):
    exp = experiment(digits, source)
    augmented = dataclasses.replace(exp, augment=(tl.data.Noise(scale=0.1),))
    with pytest.raises(UserError, match="augmentation gives other inputs"):
        tl.setup(augmented)
    for fields in ({"estimator": "projected"}, {"wrt": "inputs"}, {"probes": 2}):
        with pytest.raises(UserError, match="expected estimator='forward'"):
            tl.setup(experiment(digits, source, **fields))
    with pytest.raises(UserError, match=r"the source has no layer2/"):
        tl.setup(experiment(digits, source, reset="layer2", stage="layer2"))
