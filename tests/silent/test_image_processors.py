"""Settings of image processors and sentence encoders, against transformers' own.

Origins: the image processors of transformers (PIL's) on the same files; the pooling
formulas of sentence-transformers in numpy.
"""

import json

import numpy as np
import PIL.Image
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.data import images, preprocess
from jaxtl.models import bert
from jaxtl.pretrained import hub, image_processor
from jaxtl.training import inputs

transformers = pytest.importorskip("transformers")

CLASSES = {
    name: getattr(transformers, f"{name}ImageProcessorPil")
    for name in image_processor.DEFAULTS
}
SMALL = {"size": {"height": 12, "width": 10}, "crop_size": {"height": 8, "width": 8}}


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture with hard edges, where methods of resampling differ."""
    x = np.random.default_rng(0).integers(0, 2, (23, 31, 3)).astype(np.uint8) * 255
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    PIL.Image.fromarray(x).save(path)
    return path


def write(folder, content):
    (folder / image_processor.FILE).write_text(json.dumps(content, default=str))
    return folder


def ours(folder, picture):
    """The model's input that jaxtl makes of a picture, channels first."""
    framing, scale = hub.image_resizing(folder), hub.image_normalization(folder)
    pre = tl.data.Preprocess(scale=255, channels=3, **framing, **scale)
    x = preprocess.apply(pre, preprocess.load_image(picture, pre))
    return np.asarray(x).transpose(2, 0, 1)


def check(folder, processor, picture):
    write(folder, processor.to_dict())
    want = processor(PIL.Image.open(picture))["pixel_values"][0]
    np.testing.assert_allclose(ours(folder, picture), want, atol=2e-5 * abs(want).max())


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_and_its_defaults(name, picture, tmp_path):
    check(tmp_path, CLASSES[name](), picture)
    bare = {"image_processor_type": f"{name}ImageProcessor"}
    write(tmp_path, bare)
    want = CLASSES[name]()(PIL.Image.open(picture))["pixel_values"][0]
    np.testing.assert_allclose(ours(tmp_path, picture), want, atol=1e-4)


@pytest.mark.parametrize("code", images.RESAMPLING.values(), ids=images.RESAMPLING)
@pytest.mark.parametrize("name", ["ViT", "CLIP"])
def test_every_method_of_resampling(name, code, picture, tmp_path):
    size = {"height": 9, "width": 7} if name == "ViT" else {"shortest_edge": 9}
    processor = CLASSES[name](size=size, crop_size=8, resample=code)
    check(tmp_path, processor, picture)


OPTIONS = [
    {"do_normalize": False},
    {"do_rescale": False},
    {"do_rescale": False, "do_normalize": False},
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
    {**SMALL, "do_center_crop": True},
    {"size": {"shortest_edge": 9}, "crop_size": 6, "do_center_crop": True},
    {"do_convert_rgb": True, "size": 9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_step_is_done_as_the_file_says(options, picture, tmp_path):
    check(
        tmp_path,
        CLASSES["DeiT"](**{**SMALL, "do_center_crop": False, **options}),
        picture,
    )


@pytest.mark.parametrize("rescale_offset", [False, True])
@pytest.mark.parametrize("include_top", [False, True])
@pytest.mark.parametrize("do_normalize", [False, True])
def test_efficientnet_s_own_steps(
    rescale_offset, include_top, do_normalize, picture, tmp_path
):
    processor = CLASSES["EfficientNet"](
        size={"height": 9, "width": 7},
        rescale_factor=1 / 127.5,
        rescale_offset=rescale_offset,
        include_top=include_top,
        do_normalize=do_normalize,
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.5, 0.6, 0.7],
    )
    check(tmp_path, processor, picture)


def test_a_file_without_a_mean_takes_its_model_s_class(picture, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    write(tmp_path, {"size": {"shortest_edge": 9}, "crop_pct": 0.75})
    processor = CLASSES["ConvNext"](size={"shortest_edge": 9}, crop_pct=0.75)
    want = processor(PIL.Image.open(picture))["pixel_values"][0]
    np.testing.assert_allclose(ours(tmp_path, picture), want, atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_that_transformers_writes_is_in_the_table(name):
    from transformers import processing_utils

    keys = {*CLASSES[name]().to_dict(), *CLASSES[name].valid_kwargs.__annotations__}
    keys |= {*processing_utils.ImagesKwargs.__annotations__}
    unknown = keys - image_processor.TABLE.keys()
    # Of the calls of other classes, never in a file of these.
    assert unknown <= {"image_seq_length", "do_reduce_labels", "max_image_tiles"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"do_pad": True}, "do_pad true is not supported"),
        ({"resample": 7}, "resample is 7; expected a code of PIL"),
        ({"sise": 8}, "'sise' .8. is unknown; did you mean 'size'"),
        ({"size": {"longest_edge": 8}}, "expected a number of pixels"),
        ({"crop_size": 9, "size": 8, "do_center_crop": True}, "is larger than size"),
        ({"image_std": [0.5, 0, 0.5]}, "one number for each channel above 0"),
        ({"image_processor_type": "DPTImageProcessor"}, "is not supported; did you"),
        ({"do_rescale": 1}, "do_rescale is 1; expected true, false"),
        ({"include_top": True}, "include_top true is not supported for ViT"),
    ],
)
def test_settings_that_are_not_understood_are_named(change, says, picture, tmp_path):
    write(tmp_path, {"do_resize": True, "size": 8, **change})
    with pytest.raises(UserError, match=says):
        ours(tmp_path, picture)


def test_the_user_s_normalization_is_kept_and_the_difference_told(capsys):
    chosen = tl.data.Preprocess(scale=16, mean=0.2, std=0.3)
    exp = tl.Experiment(model=tl.models.MLP(), data=tl.data.Digits(preprocess=chosen))
    weights = tl.pretrained.Weights({}, {}, {"preprocess": {"mean": [0.5], "std": [1]}})
    datasets = inputs.load_datasets(exp)
    [pre] = inputs.preprocessing(exp, weights, datasets).values()
    assert (pre.mean, pre.std) == ((0.2,), (0.3,))
    said = capsys.readouterr().err
    assert (
        "mean (0.2,) and std (0.3,); the weights were trained with mean (0.5,)" in said
    )


STATES = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)


def pooled(mode, states):
    """sentence-transformers' Pooling, of one text without padding, float64."""
    x, n = states.astype(np.float64), len(states)
    weights = np.arange(1, n + 1)[:, None]
    return {
        "first": x[0],
        "mean": x.mean(0),
        "max": x.max(0),
        "mean_sqrt_len": x.sum(0) / n**0.5,
        "weighted_mean": (x * weights).sum(0) / weights.sum(),
        "last": x[-1],
    }[mode]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("key", "mode"), hub.POOLING_MODES.items())
def test_every_pooling_of_sentence_encoders(key, mode, normalize, tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    content = {"word_embedding_dimension": 3, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({**content, key: True}))
    kinds = ["Transformer", "Pooling", *(["Normalize"] * normalize)]
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    reduce = bert.Bert(**hub.pooling(tmp_path)).reduction()
    for row, got in enumerate(np.asarray(reduce(Tokens(STATES, MASK)))):
        want = pooled(mode, STATES[row][MASK[row]])
        want = want / np.linalg.norm(want) if normalize else want
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_sentence_encoders_that_are_not_understood_are_named(tmp_path):
    (tmp_path / "modules.json").write_text('[{"type": "x.models.Dense"}]')
    with pytest.raises(UserError, match="module 'Dense' of the sentence encoder"):
        hub.pooling(tmp_path)
    (tmp_path / "modules.json").unlink()
    (tmp_path / "1_Pooling").mkdir()
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(both))
    with pytest.raises(UserError, match="pooling mean, max is not supported"):
        hub.pooling(tmp_path)
