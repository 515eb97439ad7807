"""Zero-shot classification by prompts against transformers on the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.models import zero_shot

END = 19
CLASSES = ("cat", "red dog", "bee")
TEMPLATES = ("a photo of a {}", "{} here", "the {}")


def tokenize(texts):
    """Ids of words by their letters, ended and padded as CLIP's tokenizer does."""
    rows = [[1 + sum(map(ord, w)) % 17 for w in t.split()] for t in texts]
    length = max(map(len, rows)) + 1
    ids = np.full((len(rows), length), END, np.int32)
    mask = np.zeros(ids.shape, bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row) + 1] = True
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(transformers' model, the same as two towers, its parameters)."""
    transformers, torch = map(pytest.importorskip, ("transformers", "torch"))
    torch.manual_seed(0)
    sides = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sides["num_attention_heads"] = 2
    words = {"vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": END}
    config = transformers.CLIPConfig(
        text_config={**sides, **words},
        vision_config={**sides, "image_size": 8, "patch_size": 4},
        projection_dim=6,
        logit_scale_init_value=1.5,
    )
    theirs = transformers.CLIPModel(config).eval()
    folder = tmp_path_factory.mktemp("clip")
    theirs.save_pretrained(folder)
    shared = {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "embedding": 6}
    shared["predict"] = "embedding"
    pair = tl.models.TwoTowers(
        image=tl.models.CLIPVision(size=8, patch=4, **shared),
        text=tl.models.CLIPText(vocab=20, context=8, end=END, **shared),
        width=6,
    )
    weights = tl.pretrained.FromFile(str(folder / "model.safetensors"))
    params = {"head": {"log_scale": jnp.float32(1.5)}}
    for prefix, tower in (("image_", pair.image), ("text_", pair.text)):
        read = jax.tree.map(np.asarray, weights.read_for(tower).params)
        params |= {prefix + stage: part for stage, part in read.items()}
    return theirs, pair, params


def their_embeddings(model, templates):
    """The classifier of CLIP's authors: prompts' embeddings averaged, of length 1."""
    import torch

    columns = []
    for name in CLASSES:
        x = tokenize([template.replace("{}", name) for template in templates])
        x = {k: torch.from_numpy(v.astype(np.int64)) for k, v in x.items()}
        states = model.text_model(**x).pooler_output
        embeddings = model.text_projection(states)
        embeddings = embeddings / embeddings.norm(dim=-1, keepdim=True)
        mean = embeddings.mean(0)
        columns.append(mean / mean.norm())
    return torch.stack(columns)


@pytest.mark.parametrize("templates", [TEMPLATES[:1], TEMPLATES])
def test_logits_are_those_of_transformers(clip, templates):
    import torch

    theirs, pair, params = clip
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        want = their_embeddings(theirs, templates)
        states = theirs.vision_model(pixel_values=pixels).pooler_output
        u = theirs.visual_projection(states)
        u = u / u.norm(dim=-1, keepdim=True)
        logits = theirs.logit_scale.exp() * u @ want.T
        if len(templates) == 1:  # as the pipeline of transformers calls the model
            x = tokenize([templates[0].replace("{}", name) for name in CLASSES])
            x = {k: torch.from_numpy(v.astype(np.int64)) for k, v in x.items()}
            logits = theirs(**x, pixel_values=pixels).logits_per_image
    got = tl.models.class_embeddings(pair, params, tokenize, CLASSES, templates)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    classifier = tl.models.ZeroShotClassifier(pair=pair, outputs=len(CLASSES)).pure()
    tower = {k: v for k, v in params.items() if k.startswith("image_")}
    for bias in (0.0, -3.0):  # the second as SigLIP has one
        of_pair = {**params, "head": {**params["head"], "bias": jnp.float32(bias)}}
        ours = tl.models.zero_shot_logits(pair, of_pair, images, got)
        np.testing.assert_allclose(ours, logits.numpy() + bias, atol=1e-4)
        head = zero_shot.prompt_head(pair, of_pair, got)
        out = classifier.apply({**tower, "head": head}, {}, images)
        np.testing.assert_allclose(out.logits, logits.numpy() + bias, atol=1e-4)


def test_a_pass_may_start_and_stop_at_any_stage(clip):
    pair = clip[1]
    network = tl.models.ZeroShotClassifier(pair=pair, outputs=3).pure()
    images = jnp.ones((2, 8, 8, 3))
    initial, stats = network.init(jax.random.key(0), images)
    assert set(initial) == set(network.stages)
    whole = network.apply(initial, stats, images)
    for before, after in zip(network.stages, network.stages[1:]):
        first = network.apply(initial, stats, images, stop=before)
        assert list(first.features)[-1] == before
        rest = network.apply(initial, stats, first.logits, start=after)
        np.testing.assert_allclose(rest.logits, whole.logits, atol=1e-5)


def test_many_prompts_are_embedded_in_parts(clip, monkeypatch):
    _, pair, params = clip
    whole = tl.models.class_embeddings(pair, params, tokenize, CLASSES, TEMPLATES)
    monkeypatch.setattr(zero_shot, "_CHUNK", 4)
    parts = tl.models.class_embeddings(pair, params, tokenize, CLASSES, TEMPLATES)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_prompts_without_a_place_are_refused(clip):
    _, pair, params = clip
    for templates, shown in ((("a photo",), "'a photo'"), ((), "no template")):
        with pytest.raises(tl.UserError, match=shown):
            tl.models.class_embeddings(pair, params, tokenize, CLASSES, templates)
    with pytest.raises(tl.UserError, match="there is none"):
        tl.models.class_embeddings(pair, params, tokenize, ())
