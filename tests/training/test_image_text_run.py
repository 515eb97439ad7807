"""Training of images with their texts, from a list of files to recall."""

import dataclasses
import itertools
import pathlib
import types

import jax
import numpy as np
import PIL.Image
import pytest

import jaxtl as tl
from jaxtl.cli.main import main
from jaxtl.core import tree as trees
from jaxtl.core.ranges import check_ranges
from jaxtl.data import preprocess
from jaxtl.data.augment import image
from jaxtl.pretrained import match

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
TOWERS = tl.models.TwoTowers(
    image=tl.models.MLP(widths=(16,)),
    text=tl.models.Bert(
        vocab=64, width=16, layers=1, heads=2, hidden=16, context=16, dropout=0.0
    ),
    width=8,
)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """27 pictures of one color above another, with texts that say so."""
    folder = tmp_path_factory.mktemp("pairs")
    rng, rows = np.random.default_rng(0), ["image,text"]
    for a, b, word in itertools.product(COLORS, COLORS, ("one", "two", "three")):
        x = np.zeros((4, 4, 3))
        x[:2], x[2:] = COLORS[a], COLORS[b]
        x = np.clip(x + rng.normal(0, 8, x.shape), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(x).save(folder / f"{a}{b}{word}.png")
        rows.append(f"{a}{b}{word}.png,{a} above {b} {word}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return str(folder / "captions.csv")


def _folder(captions, folder):
    """Some of the pictures, one folder for each of the upper colors."""
    for a, b in itertools.product(COLORS, COLORS):
        (folder / a).mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.open(pathlib.Path(captions).parent / f"{a}{b}one.png")
        picture.save(folder / a / f"{b}.png")
    return str(folder)


def experiment(captions, **changes):
    fields = {
        "model": TOWERS,
        "data": tl.data.ImageText(captions, val=9, test=0, split_seed=0),
        "optim": tl.optim.AdamW(
            lr=1e-2,
            groups={"image_.*": tl.FROZEN, ".*": 1.0},
            weight_decay=0.0,
        ),
        "monitor": "text_to_image_recall_at_1",
        "steps": 40,
        "batch": 18,
        "evaluate_every": 20,
    }
    return tl.Experiment(**{**fields, **changes})


@pytest.fixture(scope="module")
def run(captions, tmp_path_factory):
    """A run whose text tower learns beside a locked image tower."""
    run = tl.setup(experiment(captions), tmp_path_factory.mktemp("runs") / "run")
    run.first = jax.device_get((run.params, tl.evaluate(run)))
    run.result = tl.train(run)
    return run


def test_the_text_tower_learns_and_the_image_tower_is_locked(run):
    before, recalls = run.first
    after = jax.device_get(run.params)
    moved = {
        stage
        for stage in before
        if any(
            (a != b).any()
            for a, b in zip(
                trees.flatten(before[stage]).values(),
                trees.flatten(after[stage]).values(),
            )
        )
    }
    assert not any(stage.startswith("image_") for stage in moved)
    assert {"text_layer_0", "text_head", "head"} <= moved
    assert run.result["val"]["mean_recall"] > recalls["mean_recall"] + 0.1


def test_a_stored_model_gives_the_recall_of_its_encodings(run):
    model = tl.load_model(run.directory)
    values = tl.evaluate(model, "val")
    assert values == pytest.approx(run.result["val"], abs=1e-6)
    dataset = model.datasets["target"]
    rows = dataset.rows["val"]
    x = {name: part[rows] for name, part in dataset.x.items()}
    images = preprocess.apply(model.preprocess, x.pop("image"))
    u = np.asarray(model.config.encode_image(model.params, images))
    v = np.asarray(model.config.encode_text(model.params, x))
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, rtol=1e-5)
    order = np.argsort(-(v @ u.T), axis=1)
    for k in (1, 5):
        hits = (order[:, :k] == np.arange(len(rows))[:, None]).any(1)
        assert values[f"text_to_image_recall_at_{k}"] == pytest.approx(hits.mean())


def test_a_run_of_pairs_classifies_by_prompts(run, captions, tmp_path):
    _folder(captions, tmp_path / "test")
    prompts = tuple(f"{{}} above {b} one" for b in COLORS)
    init = tl.pretrained.FromPrompts(tl.pretrained.FromRun(str(run.directory)), prompts)
    model = tl.load_model(run.directory)
    exp = tl.Experiment(
        model=tl.models.ZeroShotClassifier(pair=model.config),
        init=init,
        data=tl.data.ImageFolder(str(tmp_path)),
    )
    zero_shot = tl.setup(exp)
    assert "3 prompts for each of 3 classes" in zero_shot.notes["init.tensors"]
    accuracy = tl.train(zero_shot)["test"]["accuracy"]
    dataset = zero_shot.datasets["target"]
    embeddings = tl.models.class_embeddings(
        model.config, model.params, run.datasets["target"].tokenizer,
        dataset.class_names, prompts,
    )  # fmt: skip
    images = preprocess.apply(model.preprocess, dataset.x)
    logits = tl.models.zero_shot_logits(model.config, model.params, images, embeddings)
    assert accuracy == np.mean(np.argmax(logits, axis=1) == dataset.y)
    exp = dataclasses.replace(exp, init=dataclasses.replace(init, names={"read": "a"}))
    with pytest.raises(tl.UserError, match="'read' is no class; did you mean 'red'"):
        tl.setup(exp)
    long = {"a": "red " + "one " * 20, "b": "red " + "one " * 30}
    cut = dataclasses.replace(init, prompts="{}", names=long, class_names=("a", "b"))
    kernel = cut.read_for(exp.model).params["head"]["dense"]["kernel"]
    np.testing.assert_array_equal(kernel[:, 0], kernel[:, 1])  # 16 tokens of both


def test_the_head_of_a_tower_s_weights_stays_behind():
    leaf = np.ones((2, 2), np.float32)
    stored = match.Weights({"layer1": {"dense": leaf}, "head": {"old": leaf}})
    image = types.SimpleNamespace(read=lambda: stored)
    weights = tl.pretrained.FromTowers(image=image).read_for(TOWERS)
    assert weights.params == {"image_layer1": {"dense": leaf}}
    assert weights.absent == ("image_head", "text_.*", "head")


def test_towers_begin_with_weights_of_their_own(captions, tmp_path_factory):
    """LiT: a trained image model is locked, a text model of its own learns."""
    folder = tmp_path_factory.mktemp("towers")
    source = tl.Experiment(
        model=tl.models.MLP(widths=(16,)),
        data=tl.data.ImageFolder(_folder(captions, folder / "images"), val=0, test=0.5),
        steps=2,
    )
    tl.train(tl.setup(source, folder / "image"))
    init = tl.pretrained.FromTowers(image=tl.pretrained.FromRun(str(folder / "image")))
    run = tl.setup(experiment(captions, init=init))
    trained = tl.load_model(folder / "image").params
    for stage in ("layer1",):
        ours, theirs = run.params["image_" + stage], trained[stage]
        assert trees.flatten(ours).keys() == trees.flatten(theirs).keys()
        for path, leaf in trees.flatten(theirs).items():
            np.testing.assert_array_equal(trees.flatten(ours)[path], leaf)
    rows = {row.path.split("/")[0]: row.status for row in run.parts.model.loading}
    assert rows["image_layer1"] == "loaded"
    fresh = {stage for stage, status in rows.items() if status == "re-initialized"}
    assert fresh >= {"image_head", "text_head", "text_embeddings", "head"}
    with pytest.raises(tl.UserError, match="got MLP"):
        init.read_for(TOWERS.image)
    with pytest.raises(tl.UserError, match=r"FromTowers\.text does not describe"):
        init.model(image=TOWERS.image)
    with pytest.raises(tl.UserError, match="expected the weights of a tower"):
        tl.pretrained.FromTowers()


def test_weights_from_prompts_need_a_pair_and_a_classifier_of_it(run, captions):
    init = tl.pretrained.FromPrompts(tl.pretrained.FromRun(str(run.directory)))
    with pytest.raises(tl.UserError, match=r"tl\.models\.ZeroShotClassifier\(pair=…\)"):
        init.model()
    with pytest.raises(tl.UserError, match="got MLP"):
        init.read_for(TOWERS.image)
    other = dataclasses.replace(TOWERS, width=4)
    with pytest.raises(tl.UserError, match="text_head/dense/bias of the pair"):
        init.for_classes(("a",)).read_for(tl.models.ZeroShotClassifier(pair=other))
    with pytest.raises(tl.UserError, match="no class names"):
        init.for_classes(()).read_for(tl.models.ZeroShotClassifier(pair=TOWERS))
    with pytest.raises(tl.UserError, match="weights of a pair"):
        tl.pretrained.FromPrompts("clip")


def test_micro_batches_are_told_and_pairs_are_not_exported(run, captions, capsys):
    setup = tl.setup(experiment(captions, accumulate=3))
    assert "micro-batches of 6 examples" in setup.parts.terms.notes["accumulate"]
    with pytest.raises(tl.UserError, match="there is 1 in each"):
        tl.setup(experiment(captions, accumulate=18))
    out = str(run.directory.parent / "exported")
    assert main(["export", str(run.directory), out]) != 0
    assert "predicts nothing of one file" in capsys.readouterr().err


def test_models_of_one_kind_refuse_pairs(captions):
    for model in (TOWERS.image, TOWERS.text):
        with pytest.raises(tl.UserError, match=r"tl\.models\.TwoTowers"):
            tl.setup(experiment(captions, model=model))
    with pytest.raises(tl.UserError, match=r"tl\.data\.ImageText"):
        tl.setup(experiment(captions, data=tl.data.Digits()))


def test_image_operations_get_the_image_and_text_operations_the_text():
    x = {
        "image": np.arange(48.0, dtype=np.float32).reshape(1, 4, 4, 3),
        "input_ids": np.full((1, 8), 7, np.int32),
        "attention_mask": np.ones((1, 8), bool),
    }
    operations = (tl.data.Flip(probability=1.0), tl.data.WordDropout(probability=1.0))
    out = image.apply_augmentations(operations, jax.random.key(0), x)
    np.testing.assert_array_equal(out["image"], x["image"][:, :, ::-1])
    assert (np.asarray(out["input_ids"]) != 7).any()
    pre = tl.data.Preprocess(scale=2.0, mean=1.0, std=4.0)
    there = preprocess.apply(pre, x)
    np.testing.assert_allclose(there["image"], (x["image"] / 2 - 1) / 4)
    assert there["input_ids"] is x["input_ids"]
    back = preprocess.restore(pre, there)
    np.testing.assert_allclose(back["image"], x["image"] / 2, atol=1e-6)


def test_towers_that_do_not_fit_are_refused():
    check_ranges(dataclasses.replace(TOWERS, bias=-10.0))  # SigLIP's is below 0
    with pytest.raises(tl.UserError, match=r"TwoTowers\.text\.outputs=5, but width=8"):
        dataclasses.replace(TOWERS, text=dataclasses.replace(TOWERS.text, outputs=5))
    with pytest.raises(tl.UserError, match="temperature"):
        dataclasses.replace(TOWERS, temperature=0.0)
    with pytest.raises(tl.UserError, match=r"TwoTowers\.image="):
        dataclasses.replace(TOWERS, image="ViT")
