"""CLIP and SigLIP beyond the parity of their types: configurations, files, sizes.

Origin: the installed transformers.
"""

import json
import types

import jax
import numpy as np
import pytest

from jaxtl import models
from jaxtl.core.errors import UserError
from jaxtl.models import CLIP, CLIPText, CLIPVision
from jaxtl.pretrained import FromHub, describe, image_processor, registry
from jaxtl.pretrained.match import match

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VISION = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 12,
    "patch_size": 4,
}
TEXT = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 9,
}


def test_a_replaced_configuration_counts_as_in_transformers():
    config = {
        "model_type": "clip",
        "vision_config": {**VISION, "hidden_act": "gelu"},
        "vision_config_dict": {"hidden_size": 16, "num_attention_heads": 2},
    }
    # transformers changes what it is given
    theirs = transformers.CLIPConfig(**json.loads(json.dumps(config))).vision_config
    model = registry.model_from_config(config, predict="class")
    assert (model.width, model.layers) == (theirs.hidden_size, theirs.num_hidden_layers)
    assert (model.size, model.hidden) == (theirs.image_size, theirs.intermediate_size)
    assert model.activation == theirs.hidden_act


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_fields_of_a_pair_reach_its_towers(kind):
    config = {"model_type": kind, "vision_config": VISION, "text_config": TEXT}
    fields = {"size": 20, "dtype": "bfloat16", "temperature": 0.5}
    pair = registry.model_from_config(config, **fields)
    assert (pair.image.size, pair.image.dtype) == (20, "bfloat16")
    assert (pair.text.context, pair.text.dtype) == (9, "bfloat16")
    assert pair.temperature == 0.5


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"vision_config": {"hiden_size": 8}}, r"clip_vision_model.*did you mean.*hid"),
        ({"vision_config": [8]}, r"vision_config is \[8\]; expected an object"),
        (
            {"vision_config": {"model_type": "vit"}},
            "vision_config is of type 'vit'; expected 'clip_vision_model'",
        ),
        ({"visual_config": {}}, "'visual_config'.*unknown.*'vision_config'"),
    ],
)
def test_configurations_that_can_not_be_read_are_refused(entries, message):
    with pytest.raises(UserError, match=message):
        registry.model_from_config({"model_type": "clip", **entries}, predict="class")


def test_a_pair_refuses_images_alone_and_is_told_as_an_expression():
    pair = CLIP(image=CLIPVision(predict="embedding", size=12, patch=4))
    with pytest.raises(UserError, match=r"model=CLIP reads .*model\(predict='class'\)"):
        pair.check_kind((12, 12, 3), "data=Digits")
    with pytest.raises(UserError, match=r"CLIP\.text has predict='class'; expected"):
        CLIP(text=CLIPText())
    leaf = np.ones((1, 1 + 36, 8), np.float32)  # of 6 × 6 patches, not of 3 × 3
    assert pair.adapt("image_embeddings/position", leaf).shape == (1, 1 + 9, 8)
    assert pair.adapt("text_embeddings/position/embedding", leaf) is leaf
    names = {"tl": types.SimpleNamespace(models=models)}
    assert eval(describe.model_expression(pair), names) == pair


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_images_are_prepared_as_by_the_type_s_own_class(kind):
    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    theirs = getattr(transformers, f"{name}ImageProcessorPil")
    for model_type in (kind, f"{kind}_vision_model"):
        values = image_processor.settings({"do_rescale": True}, model_type)
        normalization = image_processor.normalization(values)
        np.testing.assert_allclose(normalization["mean"], theirs.image_mean)
        np.testing.assert_allclose(normalization["std"], theirs.image_std)
        resizing = image_processor.resizing(values)
        shortest = 224 if getattr(theirs, "do_center_crop", False) else None
        assert resizing["size"] == (224, 224)
        assert (resizing["shortest"], resizing["resample"]) == (shortest, "bicubic")


def test_an_embedding_has_the_width_of_its_space():
    model = CLIPVision(predict="embedding", outputs=3, size=12, patch=4, embedding=6)
    images = np.zeros((1, 12, 12, 3), np.float32)
    with pytest.raises(UserError, match=r"has 6 outputs, .* outputs=3 .*'class'"):
        jax.eval_shape(model.pure().init, jax.random.key(0), images)


def test_an_embedding_needs_the_pooling_that_a_file_may_lack():
    config = {"model_type": "siglip_vision_model", "vision_use_head": False}
    assert registry.model_from_config(config).predict == "class"
    with pytest.raises(UserError, match=r"vision_use_head is false.*predict='class'"):
        registry.model_from_config(config, predict="embedding")


@pytest.mark.parametrize("mask", [[1, 1, 1], [1, 1, 0]])
def test_a_text_without_its_end_is_refused(mask):
    model = CLIPText(vocab=9, end=8, outputs=2)
    x = {"input_ids": np.array([[1, 8, 2], [1, 2, 8 * (mask[2] == 0)]])}
    x["attention_mask"] = np.array([mask] * 2)
    with pytest.raises(UserError, match=r"data: the text in row 1 lacks .* token 8 "):
        model.check_inputs(x, "data")
    model.check_inputs({name: v[:1] for name, v in x.items()}, "data")


@pytest.mark.parametrize("mask", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
def test_padding_by_the_id_of_the_end_is_passed_over(mask):
    """As CLIP's tokenizer pads; on the left it stands before the text's own end."""
    sizes = {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "context": 5}
    network = CLIPText(vocab=9, end=8, outputs=2, **sizes).pure()
    mask, ids = np.array([mask], bool), np.zeros((2, 1, 5), np.int32)
    ids[0][mask] = ids[1][mask] = [1, 2, 8]
    ids[1][~mask] = 8
    plain, ended = ({"input_ids": i, "attention_mask": mask} for i in ids)
    shapes = jax.eval_shape(network.init, jax.random.key(0), plain)
    rng = np.random.default_rng(0)
    params, _ = jax.tree.map(lambda s: rng.normal(size=s.shape).astype("f4"), shapes)
    want = network.apply(params, {}, plain).logits
    np.testing.assert_allclose(network.apply(params, {}, ended).logits, want, atol=1e-5)


TOWERS = {
    "clip": ("CLIPVisionModelWithProjection", "image_embeds"),
    "siglip": ("SiglipVisionModel", "pooler_output"),
}


def perturbed(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    return module.eval()


@pytest.mark.parametrize(
    ("kind", "size"),
    [("clip", 8), pytest.param("clip", 20, marks=pytest.mark.slow), ("siglip", 20)],
)
def test_another_image_size_gives_transformers_embeddings(kind, size, tmp_path):
    torch.manual_seed(0)
    model_class = getattr(transformers, TOWERS[kind][0])
    theirs = perturbed(model_class(model_class.config_class(**VISION)))
    theirs.save_pretrained(tmp_path)
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.tensor(x.transpose(0, 3, 1, 2))
        out = theirs(pixels, interpolate_pos_encoding=True)
    init = FromHub(str(tmp_path))
    model = init.model(size=size, predict="embedding")
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    params, *_ = match(*shapes, init.read_for(model))
    got = model.pure().apply(params, {}, x).logits
    np.testing.assert_allclose(got, getattr(out, TOWERS[kind][1]), atol=1e-4)


@pytest.mark.parametrize(
    "pooling", [pytest.param("mean", marks=pytest.mark.slow), "attention"]
)
def test_a_classifier_takes_its_part_of_siglip(pooling, tmp_path):
    config = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT)
    torch.manual_seed(0)
    theirs = perturbed(transformers.SiglipModel(config))
    theirs.save_pretrained(tmp_path)
    init = FromHub(str(tmp_path), reset="head")
    model = init.model(predict="class", pooling=pooling, outputs=3)
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    params, stats = model.pure().init(jax.random.key(0), x)
    weights = init.read_for(model)
    pooled = [name for name in weights.left_out if "vision_model.head" in name]
    assert bool(pooled) == (pooling == "mean")
    assert any(name.startswith("text_model.") for name in weights.left_out)
    assert "\n" not in weights.note()
    params, *_ = match(params, stats, weights, "head")
    features = model.pure().apply(params, stats, x).features
    with torch.no_grad():
        out = theirs.vision_model(torch.tensor(x.transpose(0, 3, 1, 2)))
    want, got = out.last_hidden_state, features["norm"].states
    if pooling == "attention":
        want, got = out.pooler_output, features["pool"]
    np.testing.assert_allclose(got, want, atol=1e-4)
