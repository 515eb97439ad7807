"""Terms of features: projectors are trained and clipped with the model, memories move,
and what can't be compared is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Bench

import jaxtl as tl
from jaxtl.core import checkpoint
from jaxtl.core import tree as trees
from jaxtl.core.types import Tokens
from jaxtl.pretrained.trained_network import TrainedNetwork
from jaxtl.terms.distillation import crd, feature_pairs

d = tl.distillation
FromRun = tl.pretrained.FromRun


def test_beside_one_vector_a_text_is_averaged_over_its_real_tokens():
    states = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    mask = np.array([[True, True, False], [True, True, True]])
    first, second, _ = feature_pairs.paired(Tokens(states, mask), np.ones((2, 5)))
    assert first.shape == (2, 1, 4)
    assert second.shape == (2, 1, 5)
    np.testing.assert_allclose(first[0, 0], states[0, :2].mean(0), atol=1e-6)


def _run(place, term, **changes):
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=tl.data.Digits(labels_per_class=5, test=50, val=0),
        terms={"term": term},
        **{"batch": 16, "steps": 3, "monitor": None, "test": False, **changes},
    )
    return tl.setup(exp)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of a teacher with two hidden layers."""
    params, _ = MLP.pure().init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    place = tmp_path_factory.mktemp("teacher") / "weights"
    checkpoint.write_tree(place, {"params": params}, {})
    return place


MLP = tl.models.MLP(outputs=10, widths=(7, 6))


def test_projectors_are_trained_and_clipped_with_the_model(file):
    term = d.FitNets(
        teacher=tl.pretrained.FromCheckpoint(str(file)),
        teacher_model=MLP,
        stages={"layer1": "layer1"},
    )
    groups = {"terms/term/.*bias": 0.5, ".*": 1.0}
    optim = tl.optim.SGD(lr=1.0, momentum=0.0, clip=1e-3, groups=groups)
    run = _run(file, term, optim=optim)
    before = trees.copy(run.state.trainable)
    run.advance(1)
    moved = trees.sub(run.state.trainable, before)
    projector = moved["terms"]["term"]["layer1"]
    size = trees.sum_squares(moved) + 3 * trees.sum_squares(projector["bias"])
    assert float(trees.sum_squares(projector)) > 0
    np.testing.assert_allclose(np.sqrt(size), 1e-3, rtol=1e-3)


def test_a_memory_moves_at_the_rows_of_a_batch():
    memory = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    new = crd.moved(memory, jnp.asarray([2]), jnp.asarray([[0.8, -0.6]]), 0.5)
    np.testing.assert_allclose(new, [[1, 0], [0, 1], [0.98995, 0.141421]], atol=1e-5)


@pytest.fixture(scope="module")
def images():
    """The setup of a CNN whose teacher is a ResNet, both as shapes alone."""
    x = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)

    def shapes(model):
        network = model.pure()
        params, stats = jax.eval_shape(network.init, jax.random.key(0), x)
        return network, params, stats

    network, params, stats = shapes(tl.models.CNN(outputs=3, widths=(4, 6), units=5))
    teacher, *weights = shapes(tl.models.ResNet(outputs=3, depth=8))
    trained = TrainedNetwork(
        params=weights[0], stats=weights[1], network=teacher, where="runs/large"
    )
    setup = Bench().setup
    return dataclasses.replace(
        setup,
        program=dataclasses.replace(
            setup.program, network=network, batch_sizes={"target": 4}
        ),
        features=jax.eval_shape(network.apply, params, stats, x).features,
        batches=lambda stream: iter([{"x": np.zeros(x.shape, np.float32)}]),
        load_run=lambda source: trained,
    )


def _batch(size, parts=1):
    return lambda s: dataclasses.replace(
        s,
        program=dataclasses.replace(
            s.program, batch_sizes={"target": size}, accumulate=parts
        ),
    )


PAIR = {"block2": "stage2"}
BAD = {
    "stage of the model": (
        d.SP,
        {"stages": {"blok2": "stage2"}},
        "did you mean 'block2'",
    ),
    "stage of the teacher": (
        d.FitNets,
        {"stages": {"block2": "stage4"}},
        r"the teacher of runs/large has no such stage.*\(stages: .*stage3",
    ),
    "no mapping": (d.VID, {"stages": ("block2",)}, "expected a mapping from stages"),
    "vectors": (d.AT, {"stages": {"hidden": "stage3"}}, "one vector per example"),
    "widths": (
        d.FitNets,
        {"projector": "none", "stages": PAIR},
        "has 6 channels and the teacher's 32",
    ),
    "several teachers": (
        d.NST,
        {"teacher": (FromRun("a"), FromRun("b"))},
        "with one teacher, got 2; take a term for each",
    ),
    "two pairs": (d.CRD, {"stages": {**PAIR, "block1": "stem"}}, "compares one pair"),
    "no negatives": (d.CRD, {"negatives": 0}, "negatives=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_t_be_compared_is_refused(images, name):
    kind, fields, message = BAD[name]
    with pytest.raises(tl.UserError, match=message):
        kind(**{"teacher": FromRun("runs/large"), **fields}).check(images)


@pytest.mark.parametrize("kind", [d.SP, d.RKD, d.PKT, d.DIST])
def test_one_example_has_none_to_be_compared_with(images, kind):
    term, setup = kind(teacher=FromRun("runs/large")), images
    term.check(setup)
    with pytest.raises(tl.UserError, match=r"batch=1: .* needs 2 or more"):
        term.check(_batch(1)(setup))
    with pytest.raises(tl.UserError, match="batch=4 in 4 micro-batches"):
        term.check(_batch(4, 4)(setup))


def test_every_pair_of_stages_has_projectors_of_its_own(images):
    stages = {"block1": "stem", "block2": "stage3", "hidden": "stage1"}
    for kind in (d.FitNets, d.VID):
        term = kind(teacher=FromRun("runs/large"), stages=stages)
        term.check(images)
        init = functools.partial(term.init, setup=images)
        assert set(jax.eval_shape(init, jax.random.key(0))) == set(stages)
