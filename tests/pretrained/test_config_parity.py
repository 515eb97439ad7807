"""Every key of transformers' configurations: equal outputs, no effect, or refused.

The models are tiny and random; the reference is the installed transformers.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.models import bert, gpt2, llama, resnet, vit
from jaxtl.pretrained import FromHub, convert, registry
from jaxtl.pretrained.match import match

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB = 31
IDS = np.array([[5, 9, 2, 17, 30, 4, 3], [8, 6, 12, 7, 11, 1, 1]], np.int32)
MASK = IDS != 1
TEXT = {"input_ids": IDS, "attention_mask": MASK}
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
LARGER = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)

ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "pad_token_id": 1,
}
# family -> (transformers' model, its tiny configuration, its table, inputs)
FAMILIES = {
    "bert": ("BertForSequenceClassification", ENCODER, bert.BERT_CONFIG, TEXT),
    "roberta": ("RobertaForSequenceClassification", ENCODER, bert.ROBERTA_CONFIG, TEXT),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCAB,
            "n_embd": 8,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 16,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        gpt2.CONFIG,
        TEXT,
    ),
    "llama": (
        "LlamaForCausalLM",
        {
            "vocab_size": VOCAB,
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 16,
        },
        llama.CONFIG,
        TEXT,
    ),
    "vit": (
        "ViTForImageClassification",
        {
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 12,
            "image_size": 8,
            "patch_size": 4,
        },
        vit.CONFIG,
        IMAGES,
    ),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 4, "hidden_sizes": [16, 32, 64, 128], "depths": [1] * 4},
        resnet.CONFIG,
        LARGER,
    ),
}

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
}
# family -> key -> values, each of which must give transformers' outputs.
HONORED = {
    "bert": {
        "vocab_size": [40],
        "hidden_size": [12],
        "num_hidden_layers": [1],
        "num_attention_heads": [4],
        "intermediate_size": [5],
        "max_position_embeddings": [9],
        "type_vocab_size": [1, 3],
        "hidden_act": ["relu", "gelu_new", "silu", "tanh"],
        "layer_norm_eps": [0.1],
        "hidden_dropout_prob": [0.3],
        "classifier_dropout": [0.2],
        "is_decoder": [True],
    },
    "gpt2": {
        "vocab_size": [40],
        "n_embd": [12],
        "n_layer": [1],
        "n_head": [4],
        "n_positions": [9],
        "n_inner": [5],
        "layer_norm_epsilon": [0.1],
        "activation_function": ["relu", "gelu", "swish", "linear"],
        "resid_pdrop": [0.3],
        "embd_pdrop": [0.2],
        "tie_word_embeddings": [False],
        "pad_token_id": [4, -1],
        "scale_attn_weights": [False],
        "scale_attn_by_inverse_layer_idx": [True],
    },
    "llama": {
        "vocab_size": [40],
        "hidden_size": [12],
        "num_hidden_layers": [1],
        "num_attention_heads": [4],
        "num_key_value_heads": [1],
        "head_dim": [6],
        "intermediate_size": [5],
        "max_position_embeddings": [9],
        "rms_norm_eps": [0.1],
        "hidden_act": ["relu", "gelu", "sigmoid", "gelu_pytorch_tanh"],
        "tie_word_embeddings": [True],
        "pad_token_id": [4, -1],
        "attention_bias": [True],
        "mlp_bias": [True],
        "rope_parameters": [
            {"rope_type": "default", "rope_theta": 50.0},
            {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
            {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4},
            LLAMA3,
            YARN,
            YARN | {"attention_factor": 1.5, "beta_fast": 4.0, "truncate": False},
            YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "beta_slow": 0.5},
        ],
        "rope_scaling": [LLAMA3, YARN],
        "rope_theta": [50.0],
    },
    "vit": {
        "image_size": [12, [8, 8]],
        "patch_size": [2, [4, 4]],
        "hidden_size": [12],
        "num_hidden_layers": [1],
        "num_attention_heads": [4],
        "intermediate_size": [5],
        "hidden_act": ["relu", "gelu_fast"],
        "layer_norm_eps": [0.1],
        "hidden_dropout_prob": [0.3],
        "qkv_bias": [False],
        "num_channels": [1],
    },
    "resnet": {
        "embedding_size": [4],
        "hidden_act": ["gelu", "tanh"],
        "downsample_in_first_stage": [True],
        "downsample_in_bottleneck": [True],
        "depths": [[2, 1, 1, 1]],
        "hidden_sizes": [[16, 32, 64, 128]],
        "layer_type": ["basic"],
        "num_channels": [1],
    },
}
HONORED["roberta"] = HONORED["bert"] | {"pad_token_id": [0, 4]}
# Harmless keys that another part reads, or whose values here are not numbers.
NOT_VARIED = {
    "id2label",
    "label2id",
    "num_labels",
    "dtype",
    "torch_dtype",
    "model_type",
    "transformers_version",
    "return_dict",
    "use_return_dict",
}
OTHER_VALUES = {
    "architectures": ["Other"],
    "chunk_size_feed_forward": 1,
    "problem_type": "regression",
    "summary_type": "mean",
    "summary_activation": "tanh",
    "pooler_act": "relu",
    "stage_names": ["a"],
    "out_features": ["stage2"],
    "out_indices": [2],
}


def reference(family, config):
    """transformers' model of a configuration, with random weights."""
    torch.manual_seed(0)
    return perturbed(getattr(transformers, FAMILIES[family][0])(config))


def perturbed(model):
    """The model in evaluation mode, no norm at 1 and no bias at 0."""
    model.eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.add_(torch.rand(b.shape))
    return model


def logits(model, x):
    """transformers' logits for inputs of ours."""
    with torch.no_grad():
        if isinstance(x, dict):
            out = model(**{k: torch.tensor(v).long() for k, v in x.items()})
        else:
            out = model(torch.tensor(x.transpose(0, 3, 1, 2)))
    return (out[0] if isinstance(out, tuple) else out.logits).numpy()


def ours(config, tensors, x):
    """Our logits for the same weights, without compiling the whole pass."""
    model = registry.model_from_config(config, outputs=2)
    network = model.pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    weights = convert.to_weights(tensors, model.layouts()["hf"])
    params, stats, *_ = match(*shapes, weights)
    return network.apply(params, stats, x).logits


def config_of(family, **changes):
    kind = type(getattr(transformers, FAMILIES[family][0]).config_class())
    return kind(**{**FAMILIES[family][1], **changes})


def inputs(family, config):
    x = FAMILIES[family][3]
    if isinstance(x, dict):
        return x
    side = getattr(config, "image_size", x.shape[1])
    side = side[0] if isinstance(side, list | tuple) else side
    x = np.tile(x, (1, 2, 2, 1))[:, :side, :side]
    return np.ascontiguousarray(x[..., : config.num_channels])


CHANGES = [
    (family, key, value)
    for family, keys in HONORED.items()
    for key, values in keys.items()
    for value in values
]


@pytest.mark.parametrize(("family", "key", "value"), CHANGES, ids=str)
def test_a_key_that_is_honored_gives_transformers_logits(family, key, value):
    changes = {key: value}
    if key == "layer_type":
        changes["hidden_sizes"] = [4, 8, 16, 32]
    config = config_of(family, **changes)
    x = inputs(family, config)
    theirs = reference(family, config)
    want = logits(theirs, x)
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
    saved = json.loads(config.to_json_string(use_diff=False))
    if key in ("rope_scaling", "rope_theta"):  # as older versions wrote them
        saved = {k: v for k, v in saved.items() if k != "rope_parameters"} | changes
    got = np.asarray(ours(saved, tensors, x))
    real = MASK if want.ndim == 3 else ...
    scale = max(1.0, np.abs(want).max())
    np.testing.assert_allclose(got[real], want[real], atol=1e-4 * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_transformers_is_in_the_table(family):
    config, table = config_of(family), FAMILIES[family][2]
    fields = {f.name for f in dataclasses.fields(config)}
    private = {name for name in vars(config) if name.startswith("_")}
    names = {*config.to_dict(), *vars(config), *fields, *config.attribute_map} - private
    assert sorted(names - table.known) == []
    # and each of them is varied above, or below, or with heads in test_text_types
    rest = names - set(HONORED[family]) - set(table.all_harmless) - set(table.all_only)
    assert sorted(rest - set(table.aliases) - {"tie_word_embeddings"}) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_harmless_keys_do_not_change_transformers_logits(family):
    base, table = config_of(family), FAMILIES[family][2]
    x = inputs(family, base)
    theirs = reference(family, base)
    want = logits(theirs, x)
    keys = set(table.all_harmless) & set(base.to_dict())
    varied = [k for k in sorted(keys - NOT_VARIED) if not k.startswith("_")]
    assert len(varied) > 5
    for key in varied:
        value = getattr(base, key)
        other = OTHER_VALUES.get(key, not value if isinstance(value, bool) else None)
        if other is None:
            other = (value or 0) + (0.25 if isinstance(value, float) else 1)
        if key == "add_cross_attention" and hasattr(base, "hidden_act"):
            continue  # transformers demands is_decoder with it
        changed = reference(family, config_of(family, **{key: other}))
        changed.load_state_dict(theirs.state_dict(), strict=False)
        got = logits(changed, x)
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("family", FAMILIES)
def test_honored_keys_change_what_transformers_computes(family):
    """Else the comparison above would prove nothing."""
    base, training = config_of(family), ("dropout", "pdrop")
    x = inputs(family, base)
    want, unchanged = logits(reference(family, base), x), []
    for key in HONORED[family]:
        changed = False
        for value in HONORED[family][key]:
            if key == "layer_type":
                continue
            config = config_of(family, **{key: value})
            model = reference(family, config)
            got = logits(model, inputs(family, config))
            changed |= got.shape != want.shape or np.abs(got - want).max() > 1e-4
        if not changed and not any(part in key for part in training):
            unchanged.append(key)
    same_here = {"layer_type", "embedding_size", "hidden_sizes"}
    if family in ("gpt2", "llama"):  # read by a classifier, see below
        same_here.add("pad_token_id")
    if family == "llama":  # the largest length, which has no weights
        same_here.add("max_position_embeddings")
    assert set(unchanged) <= same_here


# name -> (transformers' class, changes of its configuration)
PADDED = {
    "bert": ("BertForSequenceClassification", {}),
    "bert-token": ("BertForTokenClassification", {}),
    "bert-decoder": ("BertForTokenClassification", {"is_decoder": True}),
    "roberta": ("RobertaForTokenClassification", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt2-class": ("GPT2ForSequenceClassification", {"pad_token_id": 1}),
    "llama": ("LlamaForCausalLM", {}),
    "llama-class": ("LlamaForSequenceClassification", {"pad_token_id": 1}),
}


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_gives_transformers_logits(name, side):
    kind, changes = PADDED[name]
    family = name.split("-")[0]
    config = config_of(family, architectures=[kind], **changes)
    theirs = perturbed(getattr(transformers, kind)(config))
    order = slice(None, None, -1 if side == "left" else None)
    x = {key: np.ascontiguousarray(value[:, order]) for key, value in TEXT.items()}
    want = logits(theirs, x)
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
    got = np.asarray(ours(config.to_dict(), tensors, x))
    real = x["attention_mask"] if want.ndim == 3 else ...
    np.testing.assert_allclose(got[real], want[real], atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_head_beside_tied_embeddings_is_kept_as_in_transformers(family, tmp_path):
    """config.json ties the head to the embeddings; the file has another head."""
    config = config_of(family, tie_word_embeddings=False)
    reference(family, config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(saved))
    theirs = getattr(transformers, FAMILIES[family][0]).from_pretrained(tmp_path)
    model = FromHub(str(tmp_path)).model()
    assert not model.tied
    weights = FromHub(str(tmp_path)).read_for(model)
    got = model.pure().apply(jax.tree.map(np.asarray, weights.params), {}, TEXT).logits
    want = logits(theirs.eval(), TEXT)
    np.testing.assert_allclose(np.asarray(got)[MASK], want[MASK], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "BertForMaskedLM"),
        ("bert", "BertForPreTraining"),
        ("bert", "BertForQuestionAnswering"),
        ("bert", "BertForMultipleChoice"),
        ("bert", "BertLMHeadModel"),
        ("roberta", "RobertaForMaskedLM"),
        ("roberta", "RobertaForMultipleChoice"),
        ("vit", "ViTForMaskedImageModeling"),
        ("vit", "ViTModel"),
    ],
)
def test_the_body_of_another_task_gives_transformers_states(family, kind, tmp_path):
    """The directory as transformers writes it, with its head left out."""
    decoder = {"is_decoder": True, "add_cross_attention": True}
    config = config_of(family, **(decoder if kind == "BertLMHeadModel" else {}))
    if family == "vit":
        config.encoder_stride = config.patch_size
    theirs = perturbed(getattr(transformers, kind)(config))
    theirs.save_pretrained(tmp_path)
    init = FromHub(str(tmp_path))
    model = init.model(outputs=2)
    x = inputs(family, config)
    initial = model.pure().init(jax.random.key(0), x)
    params, _, _, rows = match(*initial, init.read_for(model), reset="head")
    assert {row.status for row in rows} <= {"loaded", "skipped", "re-initialized"}
    last = "norm" if family == "vit" else f"layer_{model.layers - 1}"
    states = model.pure().apply(params, {}, x).features[last].states
    body = getattr(theirs, family) if family != "vit" or kind != "ViTModel" else theirs
    with torch.no_grad():
        if isinstance(x, dict):
            out = body(**{k: torch.tensor(v).long() for k, v in x.items()})
        else:
            out = body(torch.tensor(x.transpose(0, 3, 1, 2)))
    want = out.last_hidden_state.numpy()
    real = MASK if isinstance(x, dict) else ...
    np.testing.assert_allclose(np.asarray(states)[real], want[real], atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_classifier_reads_transformers_last_token_or_refuses(family):
    """transformers goes by the ids; 3 is also the last real token of the first text."""
    kind = f"{'GPT2' if family == 'gpt2' else 'Llama'}ForSequenceClassification"
    for pad, agree in ((1, True), (3, False), (30, False)):
        config = config_of(family, architectures=[kind], pad_token_id=pad)
        theirs = perturbed(getattr(transformers, kind)(config))
        tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
        if agree:
            got = ours(config.to_dict(), tensors, TEXT)
            np.testing.assert_allclose(got, logits(theirs, TEXT), atol=1e-4)
            continue
        with pytest.raises(UserError, match=f"of which {pad} "):
            ours(config.to_dict(), tensors, TEXT)
