"""Size and middle cut of images: as transformers', stored, applied by default."""

import json

import jax
import numpy as np
import PIL.Image
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.data import images, preprocess
from jaxtl.pretrained import hub
from jaxtl.training import inputs

VIT = {"do_resize": True, "size": {"height": 8, "width": 8}, "do_normalize": False}
RESNET = {"do_resize": True, "size": {"shortest_edge": 224}, "crop_pct": 0.875}
CLIP = {"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": 8}


def said(folder, found):
    (folder / "preprocessor_config.json").write_text(json.dumps(found))
    return hub.image_resizing(folder)


def test_every_form_of_the_file_is_read(tmp_path):
    def framed(size, shortest, resample=None):
        return {"size": size, "shortest": shortest, "resample": resample}

    assert hub.image_resizing(tmp_path) == {}
    assert said(tmp_path, VIT) == framed((8, 8), None)
    assert said(tmp_path, {**VIT, "size": 8}) == framed((8, 8), None)
    assert said(tmp_path, RESNET) == framed((224, 224), 256, "bicubic")
    big = {**RESNET, "size": {"shortest_edge": 384}}
    assert said(tmp_path, big) == framed((384, 384), None, "bicubic")
    assert said(tmp_path, CLIP) == framed((8, 8), 10)
    stretched = {**CLIP, "size": {"height": 12, "width": 10}}
    assert said(tmp_path, stretched) == framed((8, 8), (12, 10))
    assert said(tmp_path, {**VIT, "do_resize": False}) == {}
    # of microsoft/beit-base-patch16-224, and of what transformers 4.40 wrote
    notes = {"reduce_labels": False, "_valid_processor_keys": ["images", "size"]}
    assert said(tmp_path, VIT | notes) == framed((8, 8), None)
    with pytest.raises(UserError, match="reduce_labels true is not supported"):
        said(tmp_path, {**VIT, "reduce_labels": True})
    with pytest.raises(UserError, match="gives images of different sizes"):
        said(tmp_path, {"size": {"shortest_edge": 10}})


@pytest.mark.parametrize("shape", [(20, 33), (31, 12), (16, 16)])
def test_images_are_framed_as_in_transformers(shape, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    x = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    PIL.Image.fromarray(x).save(tmp_path / "a.png")
    theirs = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 10},
        crop_size=8,
        resample=PIL.Image.Resampling.BILINEAR,
        do_normalize=False,
        do_rescale=False,
    )
    want = np.asarray(theirs(PIL.Image.fromarray(x))["pixel_values"][0])
    pre = tl.data.Preprocess(scale=255, size=8, shortest=10)
    got = preprocess.load_image(tmp_path / "a.png", pre)
    np.testing.assert_array_equal(got, want.transpose(1, 2, 0))
    # From an array, resized in floating point: a rounding apart at most.
    near = images.resize(x[None], (8, 8), 10)[0].astype(int)
    assert np.abs(near - got).max() <= 1


def test_the_processor_of_a_pair_as_transformers_5_writes_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("torch")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="a"
    )
    of_images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 10}, crop_size=8, image_mean=[0.1, 0.2, 0.3]
    )
    processor = transformers.CLIPProcessor(of_images, tokenizer)
    processor.save_pretrained(tmp_path)
    if not (tmp_path / hub.PROCESSOR).is_file():
        pytest.skip("an older transformers, with a file for the image processor alone")
    framed = {"size": (8, 8), "shortest": 10, "resample": "bicubic"}
    assert hub.image_resizing(tmp_path) == framed
    assert hub.image_normalization(tmp_path)["mean"] == [0.1, 0.2, 0.3]
    # It counts before a file of its own, as in transformers.
    assert said(tmp_path, VIT) == framed
    again = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    assert (again.size["shortest_edge"], again.crop_size["height"]) == (10, 8)
    content = {"image_processor": {**CLIP, "corp_size": 8}}
    (tmp_path / hub.PROCESSOR).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"processor_config.json: .*'corp_size'"):
        hub.image_resizing(tmp_path)
    # That of an older version has no settings of images.
    (tmp_path / hub.PROCESSOR).write_text('{"processor_class": "CLIPProcessor"}')
    assert hub.image_resizing(tmp_path)["size"] == (8, 8)
    assert hub.image_resizing(tmp_path)["shortest"] is None


def test_a_cut_needs_enough_to_cut_from():
    for bad in (
        {"size": 8, "shortest": 7},
        {"shortest": 8},
        {"size": 8, "shortest": 9.5},
    ):
        with pytest.raises(UserError, match=r"shortest=.* at least those of size"):
            tl.data.Preprocess(**bad)
        with pytest.raises(UserError, match=r"shortest=.* at least those of size"):
            tl.data.ImageFolder("x", **bad)


@pytest.fixture
def directory(tmp_path):
    """A tiny ViT as transformers stores it, whose images are 8×8."""
    folder = tmp_path / "vit"
    folder.mkdir()
    fields = dict(patch=4, width=8, layers=1, heads=2, hidden=8, outputs=3)
    model = tl.models.ViT(size=8, **fields)
    params, _ = model.pure().init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    config = {
        "model_type": "vit",
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(VIT))
    tl.pretrained.write_file(folder / "model.safetensors", model, params)
    image_folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (image_folder / name).mkdir(parents=True)
        for i in range(6):
            shape = (9 + i, 20, 3)  # of several sizes
            x = rng.integers(0, 256, shape).astype(np.uint8)
            PIL.Image.fromarray(x).save(image_folder / name / f"{i}.png")
    return folder, image_folder


def test_the_model_s_size_is_applied_stored_and_used_again(directory, tmp_path):
    folder, image_folder = directory
    weights = tl.pretrained.FromHub(str(folder), reset="head")
    exp = tl.Experiment(
        model=weights.model(),
        init=weights,
        data=tl.data.ImageFolder(str(image_folder), val=3, test=3),
        steps=1,
        batch=4,
    )
    run = tl.setup(exp, tmp_path / "run")
    tl.train(run, progress=False)
    assert run.parts.datasets["target"].example_shape == (8, 8, 3)
    kept = tl.load_model(tmp_path / "run")
    assert kept.preprocess.size == (8, 8)
    assert kept.dataset.example_shape == (8, 8, 3)
    tl.resume(tmp_path / "run")


def test_a_size_that_is_given_decides(directory):
    folder, image_folder = directory
    weights = tl.pretrained.FromHub(str(folder))

    def size(data, **fields):
        exp = tl.Experiment(model=weights.model(**fields), init=weights, data=data)
        framed = inputs.sources(exp)["target"]
        return framed.size, framed.shortest

    assert size(tl.data.ImageFolder(str(image_folder))) == ((8, 8), None)
    assert size(tl.data.ImageFolder(str(image_folder), size=16)) == (16, None)
    # A model built for another size gets images of that, cut in proportion.
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP))
    assert size(tl.data.ImageFolder(str(image_folder))) == ((8, 8), 10)
    assert size(tl.data.ImageFolder(str(image_folder)), size=16) == ((16, 16), 20)
