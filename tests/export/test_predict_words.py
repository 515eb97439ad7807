"""A model of tagged words from a file of columns to the tags of a text."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.export import predict, write_bundle
from jaxtl.terms import losses

pytest.importorskip("tokenizers")

SENTENCES = [
    "anna|B-PER smith|I-PER visits|O paris|B-LOC",
    "john|B-PER likes|O york|B-LOC",
]


def experiment(folder, **options):
    blocks = [s.replace("|", " ").split(" ") for s in SENTENCES * 8]
    lines = ["\n".join(map(" ".join, zip(b[::2], b[1::2]))) for b in blocks]
    (folder / "train.conll").write_text("\n\n".join(lines) + "\n")
    model = tl.models.Bert(
        vocab=128, width=16, layers=1, heads=2, hidden=16, context=16, **options
    )
    return tl.Experiment(
        model=model,
        data=tl.data.CoNLL(str(folder / "train.conll"), val=4, test=4),
        optim=tl.optim.AdamW(lr=0.03),
        metrics={"f1": tl.metrics.EntityF1(scheme="IOB2", per_type=True)},
        monitor="f1[PER]",
        steps=30,
        batch=8,
    )


def test_a_tagger_learns_and_predicts_a_tag_per_word(tmp_path):
    run = tl.setup(experiment(tmp_path, predict="token"), tmp_path / "run")
    tl.train(run)
    values = tl.evaluate(run, "test", which="best")
    assert values["entity_f1"] == values["f1[LOC]"] == 1
    write_bundle.export(tmp_path / "run", tmp_path / "out")
    long = " ".join(["john"] * 20)
    (tmp_path / "in.txt").write_text(f"john visits paris\n\n{long}\n")
    rows = predict.predict(tmp_path / "out", tmp_path / "in.txt")
    assert [row["label"] for row in rows[:3]] == ["B-PER", "O", "B-LOC"]
    assert [row["origin"][-2:] for row in rows[2:4]] == [":1", ":3"]
    assert (len(rows), rows[-1]["label"]) == (23, None)
    columns = predict.predict(tmp_path / "out", tmp_path / "train.conll")
    assert [row["word"] for row in columns[:2]] == ["anna", "smith"]


def test_a_model_without_outputs_per_piece_is_refused(tmp_path):
    with pytest.raises(UserError, match="'entities' needs one output vector per piece"):
        tl.setup(experiment(tmp_path))


def test_the_loss_is_the_mean_over_labelled_pieces():
    """Against torch's cross-entropy with weights and ignored labels."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 4)).astype(np.float32)
    y = rng.integers(-1, 4, (3, 5))
    weights = np.float32([1, 2, 0.5, 3])
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits.reshape(-1, 4)),
        torch.tensor(y.ravel()),
        torch.tensor(weights),
        ignore_index=-1,
        label_smoothing=0.1,
    )
    value = losses.cross_entropy_of_pieces(
        jnp.asarray(logits), jnp.asarray(y), 0.1, jnp.asarray(weights)
    )
    np.testing.assert_allclose(value[0] / value[1], expected, rtol=1e-5)
