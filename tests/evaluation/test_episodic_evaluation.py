"""Evaluations over episodes: of a run in training, a stored model and a resumed run."""

import dataclasses

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.analysis import linear_probe
from jaxtl.analysis.ensemble import members
from jaxtl.analysis.label_errors import cross_validate
from jaxtl.data.episodes import EpisodeSampler, FixedShape
from jaxtl.evaluation import episodes
from jaxtl.export import write_bundle


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Eighteen classes of vectors in a file: six to train, to choose and to test on."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(18), 8)
    x = (rng.normal(size=(18, 5))[y] + rng.normal(size=(144, 5))).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "classes.npz"
    np.savez(path, x=x, y=y)

    def build(term, **fields):
        sampling = tl.data.Episodes(
            ways=4, shots=2, queries=3, tasks=2, val_episodes=20, test_episodes=30
        )
        data = tl.data.Arrays(path=str(path), val=6, test=6, sampling=sampling)
        model = fields.pop("model", tl.models.MLP(widths=(7,)))
        fields = {"steps": 4, "evaluate_every": 2, **fields}
        return tl.Experiment(model=model, data=data, terms={"learn": term}, **fields)

    return build


def test_prototypes_are_evaluated_as_by_numpy(experiment):
    run = tl.setup(experiment(tl.fewshot.ProtoNet()))
    dataset, params = run.datasets["target"], run.params
    rows = dataset.rows["val"]
    layer = params["layer1"]["dense"]
    x = np.asarray(dataset.x, np.float64)
    features = np.maximum(x @ np.asarray(layer["kernel"]) + layer["bias"], 0)
    draw = EpisodeSampler(dataset.y[rows], FixedShape(4, 2, 3))
    hits = []
    for number in range(20):
        episode = draw(number)
        support, query = features[rows[episode.support]], features[rows[episode.query]]
        means = support.reshape(4, 2, -1).mean(1)
        distances = np.square(query[:, None] - means).sum(-1)
        hits.append(distances.argmin(1) == episode.query_labels)
    assert tl.evaluate(run, "val")["accuracy"] == pytest.approx(np.mean(hits))
    interval = 196 * np.mean(hits, 1).std(ddof=1) / np.sqrt(20)
    assert f"± {interval:.2f} %" in run.notes["episodes of val"]


def test_a_stored_run_is_evaluated_with_what_its_term_learned(experiment, tmp_path):
    term = tl.fewshot.MetaSGD(rate=0.2, test_steps=3)
    run = tl.setup(experiment(term), tmp_path / "run")
    untrained = tl.evaluate(run, "test")
    result = tl.train(run, progress=False)
    assert "classes: 6 to val, 6 to test, 6 to train" in result["terms"]["episodes"]
    assert result["details"]["classes"] == [f"way {i}" for i in range(1, 5)]
    stored = tl.load_model(tmp_path / "run")
    resumed = tl.resume(tmp_path / "run")
    for values in (
        tl.evaluate(stored, "test"),
        tl.evaluate(resumed, "test", which="best"),
    ):
        assert values["nll"] != pytest.approx(untrained["nll"], rel=1e-3)
        for name, value in values.items():
            assert value == pytest.approx(result["test"][name], rel=1e-5), name
    folder, message = tmp_path / "run", "outputs stand for the places of an episode's"
    for refused in (
        lambda: write_bundle.export(folder, tmp_path / "export"),
        lambda: members.load_members([run, folder]),
        lambda: linear_probe.probe(stored),
        lambda: cross_validate.predictions(folder, 2),
    ):
        with pytest.raises(tl.UserError, match=message):
            refused()


def test_other_terms_are_told_that_labels_are_places(experiment):
    with pytest.raises(tl.UserError, match=r"take a term of tl\.fewshot"):
        tl.setup(experiment(tl.losses.CrossEntropy()))


def test_batches_of_single_examples_are_no_episodes(experiment):
    exp = experiment(tl.fewshot.ProtoNet())
    data = dataclasses.replace(exp.data, sampling="uniform")
    exp = dataclasses.replace(exp, data=data)
    with pytest.raises(
        tl.UserError, match=r"give its data sampling=tl\.data\.Episodes"
    ):
        tl.setup(exp)


def test_micro_batches_hold_whole_episodes(experiment):
    exp = experiment(tl.fewshot.ProtoNet(), accumulate=4)
    with pytest.raises(
        tl.UserError, match=r"tasks=2 episodes .* multiple of accumulate"
    ):
        tl.setup(exp)


@pytest.mark.parametrize(
    ("term", "fields", "message"),
    [
        (
            tl.fewshot.MAML(steps=0),
            {},
            r"terms\.learn\.steps=0: expected a whole number",
        ),
        (
            tl.fewshot.Reptile(),
            {"model": tl.models.MLP(widths=(7,), outputs=6)},
            "Reptile needs a head of as many outputs .* ways=4, but the model has 6",
        ),
        (
            tl.fewshot.ANIL(),
            {"optim": tl.optim.AdamW(groups={"head": tl.FROZEN, ".*": 1.0})},
            r"every parameter that ANIL would adapt to an episode is frozen",
        ),
        (
            tl.fewshot.IMAML(strength=0.0),
            {},
            r"strength=0\.0: expected a number above 0",
        ),
    ],
)
def test_inner_loops_that_cannot_run(experiment, term, fields, message):
    with pytest.raises(tl.UserError, match=message):
        tl.setup(experiment(term, **fields))


def test_the_inner_loop_leaves_frozen_parameters(experiment, monkeypatch):
    """With all but the head frozen, MAML is ANIL: the same steps, the same values."""
    frozen = tl.optim.AdamW(groups={"head": 1.0, ".*": tl.FROZEN})
    runs = [
        tl.setup(experiment(term, optim=frozen, cache=cache))
        for term, cache in (
            (tl.fewshot.MAML(steps=2, rate=0.1), "off"),
            (tl.fewshot.ANIL(steps=2, rate=0.1), "memory"),
        )
    ]
    first, second = (run.step() for run in runs)
    assert first["learn"] == pytest.approx(second["learn"], rel=1e-5)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-5)
    first, second = (tl.evaluate(run, "val") for run in runs)
    assert first["nll"] == pytest.approx(second["nll"], rel=1e-5)


def test_a_note_has_no_interval_of_one_episode_and_no_accuracy_of_nan():
    term, labels = tl.fewshot.ProtoNet(), np.array([0, 1])
    logits = np.eye(2, dtype=np.float32)[None].repeat(3, 0)
    told = episodes.describe(logits[:1], labels, term)
    assert told == "ProtoNet classifies 100.00 % of the queries of one episode"
    logits[0, 0, 0] = np.nan
    assert "classifies nan ± nan %" in episodes.describe(logits, labels, term)
    assert "100.00 ± 0.00 %" in episodes.describe(logits[1:], labels, term)
