"""CLIP and SigLIP beyond the parity of their types: configurations, files, sizes.

Origin: the installed transformers.
"""

import json

import jax
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.models import CLIPVision
from jaxtl.pretrained import FromHub, registry
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
    "projection_dim": 6,
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


def test_an_embedding_has_the_width_of_its_space():
    model = CLIPVision(predict="embedding", outputs=3, size=12, patch=4, embedding=6)
    images = np.zeros((1, 12, 12, 3), np.float32)
    with pytest.raises(UserError, match=r"has 6 outputs .* outputs=3 .*'class'"):
        jax.eval_shape(model.pure().init, jax.random.key(0), images)


@pytest.mark.parametrize("size", [8, 20])
def test_another_image_size_gives_transformers_embeddings(size, tmp_path):
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**VISION, initializer_factor=5.0)
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    theirs.save_pretrained(tmp_path)
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.tensor(x.transpose(0, 3, 1, 2))
        want = theirs(pixels, interpolate_pos_encoding=True).image_embeds
    init = FromHub(str(tmp_path))
    model = init.model(size=size, predict="embedding")
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    params, *_ = match(*shapes, init.read_for(model))
    got = model.pure().apply(params, {}, x).logits
    np.testing.assert_allclose(got, want, atol=1e-4)
