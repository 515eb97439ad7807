"""Text types against transformers: outputs, states, gradients, files, keys.

Origin: the installed transformers, on tiny models with random weights. Printed with
`python -m pytest -n 0 -s -m slow tests/pretrained/test_text_types.py -k every`: the
largest differences of each type, and the lines of its module.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from parity_row import parity_row
from text_types import LENGTH, PLAIN_TYPES, TYPES, VOCAB, configurations
from type_parity import difference, gradient_difference, loaded_again

from jaxtl.core.types import Tokens
from jaxtl.models import generation
from jaxtl.pretrained import FromHub, registry, write
from jaxtl.pretrained.match import match

SIDES = ("left", "right")
ENCODERS = [k for k in TYPES if "mask" in registry.config_table(k).predicts]
DECODERS = [k for k in TYPES if k not in ENCODERS]

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def text(side, seed=0):
    """Ids with padding on one side; the id of padding is that of no real token."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, VOCAB, (3, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < np.array([[LENGTH], [5], [2]])
    mask = mask if side == "right" else np.ascontiguousarray(mask[:, ::-1])
    return {"input_ids": ids, "attention_mask": mask}


def padded(x, pad):
    return {**x, "input_ids": np.where(x["attention_mask"], x["input_ids"], pad)}


def in_torch(x):
    return {k: torch.tensor(np.array(v)).long() for k, v in x.items()}


def reference(kind, entries, predict):
    """transformers' model with random weights, in float32."""
    table = registry.config_table(kind)
    if predict == "next" and "is_decoder" in table.honored:
        entries = {**entries, "is_decoder": True}
    name = (TYPES | PLAIN_TYPES)[kind].config
    config = getattr(transformers, name)(**entries)
    if predict in ("class", "token"):
        config.num_labels = 3
    torch.manual_seed(0)
    model = getattr(transformers, table.class_name(predict))(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Initial norms are ones and biases zeros, which would hide a mix-up.
            p.add_((0.1 if "embed" in name else 0.3) * torch.randn(p.shape))
    return model


def load(folder):
    """(our model, its parameters) of a directory, every tensor accounted for."""
    init = FromHub(str(folder))
    config = json.loads((folder / "config.json").read_text())
    fields = {"outputs": registry.head_outputs(config)}
    model = init.model(**fields, predict=registry.head_predicts(config))
    x = inputs(padded(text("right"), 1), model.predict)
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    params, _, _, rows = match(*shapes, init.read_for(model))
    assert {row.status for row in rows} <= {"loaded", "skipped"}
    duplicates = model.layouts()["hf"].duplicates
    skipped = [row.source for row in rows if row.status == "skipped"]
    assert all(name.endswith("_ids") or name in duplicates for name in skipped)
    return model, params


def inputs(x, predict):
    """The texts as one example's choices, where the model chooses one."""
    return {k: v[None] for k, v in x.items()} if predict == "choice" else x


def outputs(out):
    """transformers' logits; those of spans in one array."""
    if not hasattr(out, "start_logits"):
        return out.logits
    return torch.stack([out.start_logits, out.end_logits], -1)


def states(features, model):
    """Our outputs in the order of transformers' hidden states."""
    names = ["embeddings", *(f"layer_{i}" for i in range(model.layers))]
    if "norm" in features:  # transformers shows its last hidden state normalized
        names[-1] = "norm"
    return [features[name] for name in names]


def compare_outputs(theirs, model, params, x):
    """Differences of {logits, states}."""
    with torch.no_grad():
        theirs_x = in_torch(inputs(x, model.predict))
        expected = theirs(**theirs_x, output_hidden_states=True)
    out = model.pure().apply(params, {}, inputs(x, model.predict))
    real, logits = x["attention_mask"], outputs(expected).numpy()
    ours = states(out.features, model)
    if model.predict == "choice":
        ours = jax.tree.map(lambda leaf: leaf[0], ours)
    assert len(ours) == len(expected.hidden_states)
    assert all(isinstance(tokens, Tokens) for tokens in ours)
    pairs = zip(ours, expected.hidden_states)
    return {
        "outputs": difference(out.logits, logits, real if logits.ndim == 3 else ...),
        "states": max(difference(a.states, b.numpy(), real) for a, b in pairs),
    }


def compare_gradients(theirs, model, params, x):
    """The largest difference of the gradients of a random sum of the outputs."""
    real, x = x["attention_mask"], inputs(x, model.predict)
    theirs.zero_grad()
    out = outputs(theirs(**in_torch(x)))
    weight = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    if weight.ndim == 3:
        weight *= real[..., None]
    (out * torch.tensor(weight)).sum().backward()
    network = model.pure()
    ours = jax.jit(jax.grad(lambda p: (network.apply(p, {}, x).logits * weight).sum()))
    return gradient_difference(theirs, model.layouts()["hf"], ours(params))


def check_written(theirs, model, params, folder, like, x):
    """What we write is loaded strictly: the same tensors, bit for bit, and outputs."""
    task = "classification" if model.predict in ("class", "token") else None
    write.write_directory(folder, model, params, like=like, task=task)
    again = loaded_again(theirs, folder, model.layouts()["hf"].duplicates)
    with torch.no_grad():
        x = in_torch(inputs(x, model.predict))
        a, b = (outputs(m.eval()(**x)) for m in (theirs, again))
    np.testing.assert_allclose(a, b, atol=1e-5)


def sides(kind, entries, predict):
    """Sides of the padding where every state that counts is that of a real token."""
    # A causal model has nothing to attend to at padding on the left, nor do these two,
    # whose windows and masks leave padding nothing; the first place is there.
    is_causal = entries.get("is_decoder", False) or predict == "next"
    first = kind in ("modernbert", "deberta-v2") and predict in ("class", "choice")
    return ("right",) if first or (is_causal and kind in ENCODERS) else SIDES


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_every_option_gives_transformers_outputs_states_and_gradients(kind, tmp_path):
    worst = {"outputs": 0.0, "states": 0.0, "gradients": 0.0}
    predicts = registry.config_table(kind).predicts
    configs = configurations(kind)
    for number in range(max(len(configs), len(predicts))):
        entries = configs[number % len(configs)]
        theirs = reference(kind, entries, predicts[number % len(predicts)])
        theirs.save_pretrained(tmp_path / f"{number}")
        model, params = load(tmp_path / f"{number}")
        pad = entries.get("pad_token_id", 1)
        # torch gives the row of padding no gradient: last comes the side where no
        # head reads it.
        for side in sides(kind, entries, model.predict):
            x = padded(text(side), pad)
            for name, value in compare_outputs(theirs, model, params, x).items():
                assert value <= 1e-4, (name, number, entries)
                worst[name] = max(worst[name], value)
        value = compare_gradients(theirs, model, params, x)
        assert value <= 1e-4, ("gradients", number, entries)
        worst["gradients"] = max(worst["gradients"], value)
        written = tmp_path / f"written_{number}"
        check_written(theirs, model, params, written, tmp_path / f"{number}", x)
    module = registry.model_module(kind)
    print(f"\n{parity_row(kind, len(configs), worst, module)}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_greedy_generation_equals_transformers(kind, tmp_path):
    """From prompts within windows, and within LongRoPE's length, to beyond them."""
    theirs = reference(kind, configurations(kind)[0], "next")
    theirs.save_pretrained(tmp_path)
    model, params = load(tmp_path)
    x = {k: v[:2, :3] for k, v in text("right").items()}
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1}
    expected = theirs.generate(**in_torch(x), **options)[:, 3:].numpy()
    np.testing.assert_array_equal(generation.generate(model, params, x, 8), expected)


@pytest.mark.parametrize("kind", TYPES)
def test_the_usual_configuration_gives_transformers_outputs(kind, tmp_path):
    predict = registry.config_table(kind).predicts[-1]
    theirs = reference(kind, configurations(kind)[0], predict)
    theirs.save_pretrained(tmp_path)
    model, params = load(tmp_path)
    x = padded(text("right"), 1)
    assert max(compare_outputs(theirs, model, params, x).values()) <= 1e-4


@pytest.mark.parametrize("kind", PLAIN_TYPES)
@pytest.mark.parametrize(
    "predict", ["token", pytest.param("span", marks=pytest.mark.slow)]
)
def test_decoders_have_heads_of_tokens_and_spans(kind, predict, tmp_path):
    theirs = reference(kind, PLAIN_TYPES[kind].base, predict)
    theirs.save_pretrained(tmp_path / "theirs")
    model, params = load(tmp_path / "theirs")
    x = padded(text("right"), 1)
    assert max(compare_outputs(theirs, model, params, x).values()) <= 1e-4
    check_written(theirs, model, params, tmp_path / "ours", tmp_path / "theirs", x)


@pytest.mark.parametrize("kind", TYPES)
def test_every_key_of_transformers_is_in_the_table(kind):
    table = registry.config_table(kind)
    config = getattr(transformers, TYPES[kind].config)(**TYPES[kind].base)
    fields = {f.name for f in dataclasses.fields(config)}
    private = {name for name in vars(config) if name.startswith("_")}
    names = {*config.to_dict(), *vars(config), *fields, *config.attribute_map}
    assert sorted(names - private - table.known) == []
    # and each of them is varied above, or has no effect, or is restricted
    rest = names - private - {*table.all_harmless, *table.all_only, *table.aliases}
    assert sorted(rest - set(TYPES[kind].options)) == []
    assert set(table.honored) <= set(TYPES[kind].options)
