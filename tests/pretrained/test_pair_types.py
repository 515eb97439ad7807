"""Types of texts, and of images with texts, against transformers.

Origin: the installed transformers, on tiny models with random weights. Printed with
`python -m pytest -n 0 -s -m slow tests/pretrained/test_pair_types.py -k gives`: the
largest differences of each type, and the lines of its module.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from pair_types import END, PAD, TYPES, nested
from parity_row import parity_row
from type_parity import (
    configurations_of,
    difference,
    gradient_difference,
    loaded_again,
)

from jaxtl.data.tokenizer import Tokenizer
from jaxtl.pretrained import FromHub, registry, write
from jaxtl.pretrained.match import match

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def reference(kind, entries):
    """transformers' model with random weights, in float32 and evaluation mode."""
    model_class = getattr(transformers, TYPES[kind].model)
    torch.manual_seed(0)
    theirs = model_class(model_class.config_class(**nested(entries))).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            # Initial norms are ones and biases zeros, which would hide a mix-up.
            p.add_(0.3 * torch.randn(p.shape))
    return theirs


def inputs(kind, entries):
    """(our inputs, transformers' arguments): texts padded on the right."""
    entries = nested(entries)
    text = entries.get("text_config", entries)
    rng = np.random.default_rng(0)
    lengths = np.array([7, 3, 5])
    mask = np.arange(7) < lengths[:, None]
    ids = rng.integers(4, END - 1, (3, 7)).astype(np.int32)
    # an end-of-text token, a second one, and one with a higher id before it
    ids[np.arange(3), lengths - 1] = text.get("eos_token_id", END)
    ids[0, 3] = text.get("eos_token_id", END)
    ids[2, 1] = END + 1
    fill = text.get("pad_token_id", PAD)
    x = {"input_ids": np.where(mask, ids, fill), "attention_mask": mask}
    theirs = {k: torch.tensor(v).long() for k, v in x.items()}
    if "siglip" in kind:  # its texts are padded to the context, without a mask
        rest = text["max_position_embeddings"] - 7
        ids = torch.nn.functional.pad(theirs["input_ids"], (0, rest), value=fill)
        theirs = {"input_ids": ids}
        x["input_ids"] = np.where(mask, ids[:, :7], 0).astype(np.int32)
    if "vision_config" in entries:
        vision = entries["vision_config"]
        side, channels = vision["image_size"], vision.get("num_channels", 3)
        images = rng.normal(size=(3, side, side, channels)).astype(np.float32)
        theirs["pixel_values"] = torch.tensor(images.transpose(0, 3, 1, 2))
        x["image"] = images
    return x, theirs


def load(kind, folder, x):
    """(our model, its parameters), every tensor accounted for."""
    init = FromHub(str(folder))
    model = init.model(predict=registry.config_table(kind).predicts[0])
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    params, _, _, rows = match(*shapes, init.read_for(model))
    assert {row.status for row in rows} == {"loaded"}
    return model, params


def outputs_of(out):
    """Our outputs by name, with transformers' logits of a pair."""
    if not isinstance(out, dict):
        return {"": out}
    products = out["image_embeddings"] @ out["text_embeddings"].T
    return {**out, "logits": out["logit_scale"] * products + out["logit_bias"]}


def compare_outputs(kind, theirs, model, params, x, theirs_x):
    """Differences of {outputs, states}; those of real tokens."""
    with torch.no_grad():
        expected = theirs(**theirs_x, output_hidden_states=True)
    out = jax.jit(lambda p: model.pure().apply(p, {}, x))(params)
    worst = {"outputs": 0.0, "states": 0.0}
    for ours, name in TYPES[kind].outputs.items():
        value = difference(outputs_of(out.logits)[ours], expected[name])
        worst["outputs"] = max(worst["outputs"], value)
    for prefix, states in hidden_states(expected).items():
        names = [n.removeprefix(prefix) for n in out.features if n.startswith(prefix)]
        names = [n for n in names if n.startswith(("embeddings", "layer_"))]
        assert len(names) == len(states)
        for name, state in zip(names, states):
            tokens = out.features[prefix + name]
            real = np.asarray(tokens.mask)
            value = difference(
                tokens.states[real], state[:, : real.shape[1]].numpy()[real]
            )
            worst["states"] = max(worst["states"], value)
    return worst


def hidden_states(expected):
    """Prefix of our stages -> transformers' hidden states."""
    if getattr(expected, "hidden_states", None) is not None:
        return {"": expected.hidden_states}
    return {
        "image_": expected.vision_model_output.hidden_states,
        "text_": expected.text_model_output.hidden_states,
    }


def compare_gradients(kind, theirs, model, params, x, theirs_x):
    """The largest difference of the gradients of a random sum of the outputs."""
    theirs.zero_grad()
    expected, rng = theirs(**theirs_x), np.random.default_rng(1)
    weights, total = {}, 0.0
    for ours, name in TYPES[kind].outputs.items():
        value = expected[name]
        weights[ours] = rng.normal(size=tuple(value.shape)).astype(np.float32)
        total = total + (value * torch.tensor(weights[ours])).sum()
    total.backward()

    def loss(p):
        outputs = outputs_of(model.pure().apply(p, {}, x).logits)
        return sum((outputs[name] * w).sum() for name, w in weights.items())

    ours = jax.jit(jax.grad(loss))(params)
    return gradient_difference(theirs, model.layouts()["hf"], ours)


def check_written(kind, theirs, model, params, folder, like, theirs_x):
    """What we write is loaded strictly: the same tensors, bit for bit, and outputs."""
    write.write_directory(folder, model, params, like=like)
    again = loaded_again(theirs, folder)
    assert set(again.state_dict()) == set(theirs.state_dict())
    with torch.no_grad():
        a, b = (m.eval()(**theirs_x) for m in (theirs, again))
    for name in TYPES[kind].outputs.values():
        np.testing.assert_allclose(a[name], b[name], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_every_option_gives_transformers_outputs_states_and_gradients(kind, tmp_path):
    worst = {"outputs": 0.0, "states": 0.0, "gradients": 0.0}
    configs = configurations_of(TYPES[kind])
    for number, entries in enumerate(configs):
        x, theirs_x = inputs(kind, entries)
        theirs, like = reference(kind, entries), tmp_path / f"{number}"
        theirs.save_pretrained(like)
        model, params = load(kind, like, x)
        figures = compare_outputs(kind, theirs, model, params, x, theirs_x)
        written = tmp_path / f"written_{number}"
        check_written(kind, theirs, model, params, written, like, theirs_x)
        figures["gradients"] = compare_gradients(
            kind, theirs, model, params, x, theirs_x
        )
        for name, value in figures.items():
            assert value <= 1e-4, (name, number, entries)
            worst[name] = max(worst[name], value)
    module = registry.model_module(kind)
    print(f"\n{parity_row(kind, len(configs), worst, module)}")


@pytest.mark.parametrize("kind", TYPES)
def test_the_usual_configuration_gives_transformers_outputs(kind, tmp_path):
    entries = configurations_of(TYPES[kind])[0]
    x, theirs_x = inputs(kind, entries)
    theirs = reference(kind, entries)
    theirs.save_pretrained(tmp_path)
    model, params = load(kind, tmp_path, x)
    figures = compare_outputs(kind, theirs, model, params, x, theirs_x)
    assert max(figures.values()) <= 1e-4


@pytest.mark.parametrize("kind", TYPES)
def test_every_key_of_transformers_is_in_the_table(kind):
    table = registry.config_table(kind)
    config = getattr(transformers, TYPES[kind].model).config_class()
    fields = {f.name for f in dataclasses.fields(config)}
    private = {name for name in vars(config) if name.startswith("_")}
    names = {*config.to_dict(), *vars(config), *fields, *config.attribute_map}
    assert sorted(names - private - table.known) == []
    # and each of them is varied above, or has no effect, or is restricted
    rest = names - private - {*table.all_harmless, *table.all_only, *table.parts}
    options = set(TYPES[kind].options)
    assert sorted(rest - options) == []
    keys = {*table.honored}
    for held, part in table.parts.items():
        keys |= {f"{held}.{key}" for key in part.honored}
    # a pair has its own width of embeddings
    assert keys - options <= {"vision_config.projection_dim"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_every_option_changes_what_transformers_computes(kind):
    """Else the comparison above would prove nothing."""
    row = TYPES[kind]
    base = {**row.base, **{k: v[0] for k, v in row.options.items() if len(v) > 1}}
    outputs = list(row.outputs.values())
    with torch.no_grad():
        want = reference(kind, base)(**inputs(kind, base)[1])
        for key in set(row.options) - set(row.dead):
            group = next((g for g in row.groups if key in g), (key,))
            entries = {**base, **{k: row.options[k][-1] for k in group}}
            got = reference(kind, entries)(**inputs(kind, entries)[1])
            assert any(
                got[n].shape != want[n].shape or (got[n] - want[n]).abs().max() > 1e-5
                for n in outputs
            ), key


@pytest.mark.parametrize("kind", ["siglip", "siglip_text_model"])
def test_siglip_2_pads_texts_as_its_tokenizer_does(kind, tmp_path):
    """Its config.json names no padding; transformers' is 1, and Gemma's tokenizer's 0.

    So are the files of google/siglip2-base-patch16-224.
    """
    tokenizers = pytest.importorskip("tokenizers")
    entries = configurations_of(TYPES[kind])[0]
    theirs, like = reference(kind, entries), tmp_path / "like"
    theirs.save_pretrained(like)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "photo", "of", "cat"]
    rules = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>")
    engine = tokenizers.Tokenizer(rules)
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    engine.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    engine.add_special_tokens(words[:4])
    engine.save(str(like / "tokenizer.json"))
    config = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>"}
    (like / "tokenizer_config.json").write_text(json.dumps(config))
    texts = ["a photo of a cat", "cat", "of a photo"]
    x, theirs_x = inputs(kind, entries)
    length = nested(entries).get("text_config", entries)["max_position_embeddings"]
    x |= Tokenizer(str(like), buckets=(length,))(texts)
    engine.enable_padding(length=length, pad_id=0)
    ids = [encoding.ids for encoding in engine.encode_batch(texts)]
    theirs_x["input_ids"] = torch.tensor(ids)
    model, params = load(kind, like, x)
    figures = compare_outputs(kind, theirs, model, params, x, theirs_x)
    assert max(figures.values()) <= 1e-4
    new = tmp_path / "new"
    check_written(kind, theirs, model, params, new, like, theirs_x)
    written = json.loads((new / "config.json").read_text())
    assert written.get("text_config", written)["pad_token_id"] == 0
    (like / "tokenizer_config.json").write_text("{}")  # names none: config.json decides
    alone = FromHub(str(like)).model(predict=registry.config_table(kind).predicts[0])
    assert getattr(alone, "text", alone).fill == PAD
