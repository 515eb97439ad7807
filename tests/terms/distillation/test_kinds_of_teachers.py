"""Runs with several teachers, an earlier run of the same model, and without labels: the
first loss is that of the teachers' outputs in float64, and training lowers it."""

import jax
import numpy as np
import pytest
from scipy import special

import jaxtl as tl
from jaxtl.training import checkpointing

TEMPERATURE = 3.0
ROWS = 40
MODEL = tl.models.MLP(widths=(8,))
X = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
Y = np.argmax(X[:, :3], axis=1)


def _experiment(model=MODEL, labels=None, **changes):
    return tl.Experiment(
        model=model,
        data=tl.data.Arrays(x=X, y=Y, val=0, test=0, labels=labels),
        optim=tl.optim.AdamW(lr=1e-2),
        batch=ROWS,  # every step reads all rows
        steps=100,
        monitor=None,
        test=False,
        **changes,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The run of the student's own model, and of a larger one."""
    place = tmp_path_factory.mktemp("teachers")
    for name, model in (("same", MODEL), ("large", tl.models.MLP(widths=(12, 9)))):
        run = tl.setup(_experiment(model), place / name)
        run.advance(100)
        checkpointing.save(run)
    return place


def _probabilities(network, params):
    z = np.asarray(network.apply(params, {}, X).logits, np.float64)
    return special.softmax(z / TEMPERATURE, axis=1)


@pytest.mark.parametrize("cache", ["memory", "off"])
@pytest.mark.parametrize(
    ("names", "stream"),
    [(("same",), "target"), (("same", "large"), "target"), (("large",), "unlabelled")],
    ids=["born-again", "an ensemble", "without labels"],
)
def test_the_first_loss_is_the_teachers_and_training_lowers_it(
    place, names, stream, cache
):
    sources = tuple(tl.pretrained.FromRun(str(place / name)) for name in names)
    teacher = sources if len(sources) > 1 else sources[0]
    kd = tl.distillation.KD(teacher=teacher, temperature=TEMPERATURE, stream=stream)
    labels = 0 if stream == "unlabelled" else None
    run = tl.setup(_experiment(labels=labels, terms={"kd": kd}, cache=cache))
    first = _probabilities(run.network, jax.tree.map(np.array, run.params))
    runs = [tl.load_model(place / name) for name in names]
    p = np.mean([_probabilities(t.network, t.params) for t in runs], axis=0)
    expected = TEMPERATURE**2 * np.mean(np.sum(p * np.log(p / first), axis=1))
    losses = [row["kd"] for row in run.advance(100)]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < 0.2 * losses[0]
    last = _probabilities(run.network, run.params)
    assert np.mean(last.argmax(1) == p.argmax(1)) > 0.9
