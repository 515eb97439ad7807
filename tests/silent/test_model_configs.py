"""Model directories of another library and the ids that meet a model.

Origins: numpy arrays that were written by hand under the names of published files; the
keys that versions 2 to 5 of transformers write; tests/pretrained/test_config_parity.py
compares the outputs with transformers itself.
"""

import dataclasses
import json
from typing import ClassVar

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_rows import filled

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.token_ids import check_ids, check_vocabulary
from jaxtl.data.dataset import Data, Table
from jaxtl.data.preprocess import Preprocess
from jaxtl.export.predictor import Predictor
from jaxtl.models import generation
from jaxtl.models.layers import bert_embeddings
from jaxtl.pretrained import FromHub, FromRun, convert, registry, tensor_files
from jaxtl.pretrained.match import match

BERT = {
    "model_type": "bert",
    "vocab_size": 29,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}
ROBERTA = {**BERT, "model_type": "roberta", "max_position_embeddings": 14}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 29,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 12,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 29,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VIT = {
    "model_type": "vit",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 8,
    "patch_size": 4,
}
DEBERTA = {**BERT, "model_type": "deberta-v2"}
MODERNBERT = {**BERT, "model_type": "modernbert"}
MODERNBERT.pop("type_vocab_size")
RESNET = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8, 16, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
CONFIGS = {
    config["model_type"]: config
    for config in (BERT, ROBERTA, DEBERTA, MODERNBERT, GPT2, LLAMA, VIT, RESNET)
}
TABLES = {name: registry.config_table(name) for name in CONFIGS}
# The configuration of bert-base-uncased as published, at a smaller size.
PUBLISHED = {
    **BERT,
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "use_cache": True,
}
TEXT = {"input_ids": np.array([[3, 5, 7, 2], [4, 8, 1, 1]])}
TEXT["attention_mask"] = TEXT["input_ids"] != 1


# ------------------------------------------------------------------ keys


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("hidden_atc", "relu", r"key 'hidden_atc' \('relu'\) is unknown"),
        ("quantization_config", {"bits": 4}, "quantization_config .*stored quantized"),
        ("pruned_heads", {"0": [1]}, "pruned_heads .*removed from some layers"),
        ("is_encoder_decoder", True, "is_encoder_decoder true is not supported"),
        ("auto_map", {"AutoModel": "m.M"}, "'m.M', code in the directory"),
        ("is_causal", False, r"key 'is_causal' \(false\) is unknown"),
    ],
)
def test_a_key_that_would_be_ignored_is_refused_with_its_value(
    family, key, value, says
):
    with pytest.raises(UserError, match=says) as error:
        registry.model_from_config({**CONFIGS[family], key: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "key", "value", "says"),
    [
        ("bert", "hidden_act", "gelu_nwe", "'gelu_nwe'.*did you mean 'gelu_new'"),
        ("bert", "position_embedding_type", "relative_key", "expected 'absolute'"),
        ("bert", "hidden_size", "8", "hidden_size is '8'; expected a whole number"),
        ("bert", "layer_norm_eps", None, "layer_norm_eps is null; expected a number"),
        ("bert", "is_decoder", 1, "is_decoder is 1; expected true or false"),
        ("bert", "classifier_dropout", 1.0, "expected a rate"),
        ("roberta", "pad_token_id", -1, "pad_token_id is -1"),
        ("gpt2", "n_ctx", 11, "n_ctx is 11 and n_positions, another name of it, is 12"),
        ("gpt2", "activation_function", "mish", "'mish', which is unknown"),
        ("llama", "rope_scaling", {"type": "su"}, "rope type 'su' is not supported"),
        ("llama", "rope_scaling", {"type": "linear"}, "lacks 'factor'"),
        (
            "llama",
            "rope_parameters",
            {"rope_type": "linear", "factor": 2.0, "facotr": 3.0},
            r"does not read 'facotr' \(3.0\); did you mean 'factor'",
        ),
        ("llama", "partial_rotary_factor", 0.5, "does not read 'partial_rotary"),
        ("llama", "attention_bias", "no", "attention_bias is 'no'"),
        ("vit", "image_size", [8, 12], "a height and a width that are equal"),
        ("vit", "head_dim", 2, "key 'head_dim'"),
        ("deberta-v2", "z_steps", 2, "z_steps 2 is not supported"),
        (
            "deberta-v2",
            "attention_head_size",
            3,
            "attention_head_size is 3.*expected 4",
        ),
        (
            "deberta-v2",
            "pooler_hidden_size",
            16,
            "pooler_hidden_size is 16; expected 8",
        ),
        ("deberta-v2", "conv_kernel_size", 2, "conv_kernel_size is 2; expected an odd"),
        ("deberta-v2", "norm_rel_ebd", "batch_norm", "norm_rel_ebd is 'batch_norm'"),
        ("deberta-v2", "pos_att_type", ["c2c"], "pos_att_type.*c2c"),
        ("deberta-v2", "classifier_dropout", 0.1, "key 'classifier_dropout'"),
        (
            "modernbert",
            "attention_dropout",
            0.1,
            "attention_dropout 0.1 is not supported",
        ),
        ("modernbert", "mlp_dropout", 0.1, "mlp_dropout 0.1 is not supported"),
        ("modernbert", "classifier_pooling", "max", "classifier_pooling is 'max'"),
        ("modernbert", "layer_types", ["sliding"], "layer_types"),
        (
            "modernbert",
            "rope_parameters",
            {"full_attention": {"rope_type": "yarn"}},
            "'full_attention' has rope type 'yarn'; expected 'default'",
        ),
        ("resnet", "layer_type", "wide", "layer_type is 'wide'"),
        ("resnet", "hidden_sizes", [4, 8, 16], "expected a list of 4 numbers"),
        ("resnet", "depths", [], "expected a list of one or more numbers"),
    ],
)
def test_a_value_that_is_not_understood_is_refused(family, key, value, says):
    with pytest.raises(UserError, match=says):
        registry.model_from_config({**CONFIGS[family], key: value})


# Of `PretrainedConfig.to_dict()` in transformers 4, which older files hold.
OLDER_KEYS = """
    return_dict output_hidden_states output_attentions torchscript torch_dtype
    use_bfloat16 tf_legacy_loss pruned_heads tie_word_embeddings
    chunk_size_feed_forward is_encoder_decoder is_decoder cross_attention_hidden_size
    add_cross_attention tie_encoder_decoder max_length min_length do_sample
    early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
    return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens architectures finetuning_task id2label label2id
    tokenizer_class prefix bos_token_id pad_token_id eos_token_id sep_token_id
    decoder_start_token_id task_specific_params problem_type _name_or_path
    transformers_version model_type num_labels _commit_hash
"""


@pytest.mark.parametrize("family", TABLES)
def test_the_keys_of_older_versions_are_known(family):
    table = TABLES[family]
    assert set(OLDER_KEYS.split()) <= table.known
    reasons = table.all_harmless.values()
    assert all(len(reason) > 10 for reason in reasons)
    # A key is in one part of the table.
    parts = [table.honored, table.read_by_family, table.all_harmless, table.all_only]
    assert sum(map(len, parts)) == len(set().union(*parts))


@given(
    st.sampled_from(sorted(TABLES)),
    st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=3),
    st.one_of(st.integers(), st.booleans(), st.text(max_size=5), st.floats()),
)
def test_any_other_key_is_refused_by_name(family, key, value):
    if key not in TABLES[family].known:
        with pytest.raises(UserError, match=f"key {key!r}"):
            TABLES[family].check({key: value})


def test_published_configurations_are_read():
    assert registry.model_from_config(PUBLISHED).context == 12
    older = {**GPT2, "n_ctx": 12, "summary_type": "cls_index", "_num_labels": 1}
    assert registry.model_from_config(older).context == 12
    model = registry.model_from_config(
        {**LLAMA, "pretraining_tp": 1, "rope_scaling": None, "rope_theta": 5e5}
    )
    assert model.rope_theta == 5e5
    assert model.kv_heads is None
    square = registry.model_from_config({**VIT, "image_size": [8, 8]})
    assert square.size == 8
    model = registry.model_from_config({**ROBERTA, "pad_token_id": None})
    assert (model.offset, model.context) == (2, 12)


def test_llama_3_frequencies_follow_the_published_formula():
    """Meta's apply_scaling (llama-models, 2024), in float64."""
    from jaxtl.models.layers.rotary import RotaryPositions, rotary_frequencies

    rope = RotaryPositions(theta=500_000.0, factor=8.0, bands=(1.0, 4.0, 8192.0))
    expected = []
    for frequency in 1 / 500_000 ** (np.arange(0, 128, 2) / 128):
        wavelength = 2 * np.pi / frequency
        smooth = (8192 / wavelength - 1) / (4 - 1)
        if wavelength < 8192 / 4:
            expected.append(frequency)
        elif wavelength > 8192 / 1:
            expected.append(frequency / 8)
        else:
            expected.append((1 - smooth) * frequency / 8 + smooth * frequency)
    np.testing.assert_allclose(rotary_frequencies(rope, 128), expected, rtol=2e-5)


# ------------------------------------------------------------------ directories


def directory(folder, config, rename=None, drop="", **extra):
    """A directory with random weights in the layout of its family; its tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    fields = {"outputs": 2} if config["model_type"] != "gpt2" else {}
    model = registry.model_from_config(config, **fields)
    images = np.zeros((1, 8, 8, 3), np.float32)
    x = images if config["model_type"] == "vit" else TEXT
    rng = np.random.default_rng(0)
    shapes, stats = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    params = trees.map_with_path(lambda path, s: filled(path, s, rng), shapes)
    tensors = convert.to_tensors(params, stats, model.layouts()["hf"])
    tensors = {n: x for n, x in tensors.items() if not (drop and n.startswith(drop))}
    tensors = {(rename or str)(name): x for name, x in tensors.items()} | extra
    tensor_files.write(folder / "model.safetensors", tensors, {"format": "pt"})
    return params, tensors


def load(folder, reset="head", **fields):
    model = FromHub(str(folder)).model(**fields)
    x = np.zeros((1, 8, 8, 3), np.float32) if hasattr(model, "patch") else TEXT
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    weights = FromHub(str(folder)).read_for(model)
    params, _, _, rows = match(*shapes, weights, reset=reset)
    return model, params, rows


def skipped(rows):
    return {row.source for row in rows if row.status == "skipped"}


def published(name):
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


PREDICTIONS = {"cls.predictions.bias": np.zeros(29, np.float32)}


def test_bert_base_uncased_loads_as_published(tmp_path):
    params, tensors = directory(
        tmp_path / "bert", PUBLISHED, published, "classifier", **PREDICTIONS
    )
    assert "bert.embeddings.LayerNorm.gamma" in tensors
    model, loaded, rows = load(tmp_path / "bert", outputs=2)
    for stage in ("embeddings", "layer_0", "pooler"):
        jax.tree.map(np.testing.assert_array_equal, loaded[stage], params[stage])
    assert skipped(rows) == {"cls.predictions.bias"}
    note = FromHub(str(tmp_path / "bert")).read_for(model).note()
    assert note == "left out of the file: cls.predictions.bias"


def test_a_run_tunes_a_copy_of_bert_base_uncased(tmp_path, capsys):
    """Random weights under the published names, its word pieces, and two classes."""
    hub = tmp_path / "bert"
    directory(hub, PUBLISHED, published, "classifier", **PREDICTIONS)
    words = [f"w{i}" for i in range(24)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (hub / "vocab.txt").write_text("\n".join(pieces) + "\n")
    rng = np.random.default_rng(0)
    rows = [(" ".join(rng.choice(words[i % 2 :: 2], 6)), i % 2) for i in range(96)]
    table = "".join(f"{text}\t{('even', 'odd')[label]}\n" for text, label in rows)
    (tmp_path / "train.tsv").write_text(table)
    (tmp_path / "tune.py").write_text(f"""import jaxtl as tl


def experiment():
    init = tl.pretrained.FromHub({str(hub)!r}, reset="head")
    vocabulary = {str(hub / "vocab.txt")!r}
    return tl.Experiment(
        model=init.model(outputs=2),
        init=init,
        data=tl.data.Text(
            {str(tmp_path / "train.tsv")!r},
            tokenizer=tl.data.Tokenizer(vocabulary, max_length=10),
        ),
        terms={{
            "task": tl.losses.CrossEntropy(),
            "near": tl.regularizers.L2SP(weight=0.1),
        }},
        optim=tl.optim.AdamW(lr=1e-2),
        steps=30,
        batch=16,
    )
""")
    assert (
        main.main(["run", str(tmp_path / "tune.py"), "--out", f"{tmp_path}/run"]) == 0
    )
    assert "left out of the file: cls.predictions.bias" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["val"]["accuracy"] > 0.9
    inits = FromHub(str(hub)), FromRun(f"{tmp_path}/run")
    before, after = (trees.flatten(init.read().params) for init in inits)
    query = "layer_0/attention/query/kernel"
    moved = after[query] - before[query]
    assert 0 < np.abs(moved).max() < 1


def test_a_masked_language_model_gives_its_body(tmp_path):
    """Its pooler stays at the initial values, as in transformers, and is listed."""
    params, _ = directory(
        tmp_path / "bert",
        PUBLISHED,
        drop=("classifier", "bert.pooler"),
        **PREDICTIONS,
    )
    assert FromHub(str(tmp_path / "bert")).read().params["embeddings"]
    model, loaded, rows = load(tmp_path / "bert", outputs=2)
    jax.tree.map(np.testing.assert_array_equal, loaded["layer_0"], params["layer_0"])
    initial = {r.path.split("/")[0] for r in rows if r.status == "re-initialized"}
    assert initial == {"pooler", "head"}
    note = FromHub(str(tmp_path / "bert")).read_for(model).note()
    assert note.endswith("; not in the file, initialized: pooler")
    init = FromHub(str(tmp_path / "bert")).model().pure().init
    with pytest.raises(UserError, match="outputs is not set"):
        jax.eval_shape(init, jax.random.key(0), TEXT)


def test_a_trained_head_needs_its_pooler(tmp_path):
    config = {**BERT, "architectures": ["BertForSequenceClassification"]}
    directory(tmp_path / "bert", config, drop="bert.pooler")
    with pytest.raises(UserError, match=r"from 'bert\.pooler\.dense"):
        load(tmp_path / "bert", reset=(), outputs=2)


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        (BERT, "qa_outputs.weight"),
        (BERT, "bert.encoder.layer.0.crossattention.self.key.weight"),
        (BERT, "bert.embeddings.position_ids"),
        (ROBERTA, "lm_head.dense.weight"),
        (ROBERTA, "roberta.pooler.dense.bias"),
        (GPT2, "transformer.h.0.attn.masked_bias"),
        (GPT2, "transformer.h.0.crossattention.q_attn.weight"),
        (LLAMA, "model.layers.0.self_attn.rotary_emb.inv_freq"),
        (VIT, "vit.embeddings.mask_token"),
        (VIT, "decoder.0.weight"),
    ],
)
def test_tensors_of_other_heads_and_buffers_are_left_out_by_name(
    tmp_path, config, extra
):
    params, _ = directory(tmp_path / "m", config, **{extra: np.zeros(3, np.float32)})
    fields = {} if config is GPT2 else {"outputs": 2}
    _, loaded, rows = load(tmp_path / "m", reset=(), **fields)
    assert skipped(rows) == {extra}
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path):
    extra = {"bert.encoder.layer.0.gate.weight": np.zeros(3, np.float32)}
    directory(tmp_path / "bert", BERT, **extra)
    with pytest.raises(UserError, match=r"encoder\.layer\.0\.gate\.weight"):
        load(tmp_path / "bert", reset=(), outputs=2)


@pytest.mark.parametrize(
    ("config", "prefix"),
    [(BERT, "bert."), (ROBERTA, "roberta."), (GPT2, "transformer."), (LLAMA, "model.")],
)
@pytest.mark.parametrize("new", ["", "module.", "module.{}"])
def test_prefixes_may_be_there_or_not(tmp_path, config, prefix, new):
    def rename(name):
        return new.format(prefix) + name.removeprefix(prefix)

    params, _ = directory(tmp_path / "m", config, rename)
    fields = {} if config is GPT2 else {"outputs": 2}
    _, loaded, _ = load(tmp_path / "m", reset=(), **fields)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_half_precision_and_shards_give_the_same_weights(tmp_path):
    params, tensors = directory(tmp_path / "bert", BERT)
    names = sorted(tensors)
    for i, part in enumerate((names[::2], names[1::2])):
        half = {n: tensors[n].astype(ml_dtypes.bfloat16) for n in part}
        tensor_files.write(tmp_path / "bert" / f"part{i}.safetensors", half)
    (tmp_path / "bert" / "model.safetensors").unlink()
    index = {n: f"part{i % 2}.safetensors" for i, n in enumerate(names)}
    (tmp_path / "bert" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    _, loaded, _ = load(tmp_path / "bert", reset=(), outputs=2)
    for path, leaf in trees.flatten(loaded).items():
        want = trees.flatten(params)[path].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(leaf, want.astype(np.float32))


@pytest.mark.parametrize("config", [GPT2, {**LLAMA, "tie_word_embeddings": True}])
def test_a_head_of_its_own_beside_tied_embeddings_is_kept(tmp_path, config):
    """As in transformers, which ties only what is equal."""
    head = np.random.default_rng(1).normal(size=(29, 8)).astype(np.float32)
    config = {**config, "architectures": ["ForCausalLM"]}
    directory(tmp_path / "m", config, **{"lm_head.weight": head})
    model, loaded, _ = load(tmp_path / "m", reset=())
    assert not model.tied
    np.testing.assert_array_equal(loaded["head"]["dense"]["kernel"], head.T)
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs from"):
        FromHub(str(tmp_path / "m")).read_for(model.clone(tied=True))


def test_a_copy_of_the_embeddings_stays_tied_and_may_stand_for_them(tmp_path):
    params, tensors = directory(tmp_path / "m", GPT2)
    table = tensors["transformer.wte.weight"]
    copy = {"lm_head.weight": table}
    directory(tmp_path / "m", GPT2, **copy)
    model, _, rows = load(tmp_path / "m", reset=())
    assert model.tied
    assert skipped(rows) == {"lm_head.weight"}
    directory(tmp_path / "m", GPT2, drop="transformer.wte", **copy)
    model, loaded, _ = load(tmp_path / "m", reset=())
    assert model.tied
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_a_head_that_predicts_something_else_is_not_taken(tmp_path):
    for name in ("BertForTokenClassification", "BertForMultipleChoice"):
        config = {**BERT, "architectures": [name]}
        directory(tmp_path / "bert", config)
        with pytest.raises(UserError, match=r'reset=\("head",\)'):
            load(tmp_path / "bert", reset=(), predict="class", outputs=2)
        *_, rows = load(tmp_path / "bert", predict="class", outputs=2)
        assert {"classifier.weight", "classifier.bias"} <= skipped(rows)


# ------------------------------------------------------------------ positions, ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ids(Data):
    """Token ids of two classes, from memory."""

    case: str  # equal data are read once
    x: ClassVar[dict] = {}

    def read(self):
        return Table(x=self.x, y=np.arange(len(self.x["input_ids"])) % 2)


def test_positions_of_padding():
    """BERT counts every place; RoBERTa from 2 the tokens that are no padding (id 1)."""
    ids = np.array([[1, 1, 7, 9], [5, 6, 1, 1]])
    np.testing.assert_array_equal(bert_embeddings.position_rows(ids, 0), [[0, 1, 2, 3]])
    want = [[1, 1, 2, 3], [2, 3, 1, 1]]
    np.testing.assert_array_equal(bert_embeddings.position_rows(ids, 2), want)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        ({"input_ids": [[3, 29]]}, r"input_ids holds 29 in row 0.* 29 ids .* 0 to 28"),
        ({"input_ids": [[3, 4], [-1, 2]]}, "input_ids holds -1 in row 1"),
        ({"input_ids": [[3, 1.5]]}, "input_ids holds 1.5"),
        (
            {"input_ids": [[3, 4]], "token_type_ids": [[0, 2]]},
            "token_type_ids holds 2 in row 0, but the model has 2 token types",
        ),
    ],
)
def test_ids_beyond_the_model_are_refused_with_numbers(x, says, monkeypatch):
    model = registry.model_from_config(BERT, outputs=2)
    x = {name: np.array(values) for name, values in x.items()}
    with pytest.raises(UserError, match=says):
        check_ids(x, model.id_sizes(), "data")
    exp = tl.Experiment(data=Ids(case=says), model=model, steps=0, batch=2)
    monkeypatch.setattr(Ids, "x", {k: np.repeat(v, 20, 0) for k, v in x.items()})
    with pytest.raises(UserError, match=says.split(" in row")[0]):
        tl.setup(exp)


def test_a_text_that_is_longer_than_the_context_is_refused_at_setup(monkeypatch):
    model = registry.model_from_config(BERT, outputs=2)
    monkeypatch.setattr(Ids, "x", {"input_ids": np.ones((40, 13), int)})
    with pytest.raises(UserError, match=r"text of 13 tokens.*context of 12"):
        tl.setup(tl.Experiment(data=Ids(case="long"), model=model, steps=0, batch=2))


def test_a_tokenizer_with_more_ids_than_the_model_is_refused():
    check_vocabulary(29, 29, "data")
    with pytest.raises(UserError, match="has 30 ids, but the model's vocab"):
        check_vocabulary(30, 29, "data")


def test_an_exported_model_refuses_ids_beyond_its_vocabulary(tmp_path):
    metadata = {
        "inputs": {"input_ids": {"shape": [2], "dtype": "int32"}},
        "id_sizes": {"input_ids": 29},
    }
    exported = Predictor(tmp_path, "exported", metadata, Preprocess(), {}, None)
    assert exported.as_inputs({"input_ids": np.array([[3, 28]])})
    with pytest.raises(UserError, match="x: input_ids holds 29 in row 1"):
        exported.as_inputs({"input_ids": np.array([[3, 4], [5, 29]])})


def test_generation_refuses_ids_beyond_the_vocabulary(tmp_path):
    model = registry.model_from_config(GPT2)
    with pytest.raises(UserError, match="input_ids holds 31 in row 0"):
        generation.generate(model, {}, {"input_ids": np.array([[3, 31]])}, 2)


def test_labels_of_a_stream_beyond_the_head_are_refused():
    """A source with a third class would train a class that two outputs lack."""
    x, y = np.zeros((30, 4), np.float32), np.arange(30)
    target = tl.data.Arrays(x=x, y=y % 2)
    source = tl.data.Arrays(x=x, y=y % 3)
    exp = tl.Experiment(
        data=target,
        streams={"source": source},
        model=tl.models.MLP(widths=(), outputs=2),
        steps=0,
        batch=2,
    )
    with pytest.raises(UserError, match=r"outputs=2, but a stream .* more, 3 in all"):
        tl.setup(exp)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            np.full(8, np.nan, np.float32),
            "NaN or infinity: 8 of 8 numbers of 'bert.poo",
        ),
        (np.ones(8, np.int8), "'bert.pooler.dense.bias' has dtype int8"),
    ],
)
def test_damaged_and_quantized_tensors_are_refused(tmp_path, value, says):
    directory(tmp_path / "bert", BERT, **{"bert.pooler.dense.bias": value})
    with pytest.raises(UserError, match=says):
        load(tmp_path / "bert", outputs=2)


def test_a_mask_that_is_added_to_scores_is_refused():
    model = registry.model_from_config(BERT, outputs=2)
    x = {"input_ids": np.ones((1, 2), int), "attention_mask": np.array([[0, -1e4]])}
    with pytest.raises(UserError, match=r"attention_mask holds -10000.0 in row 0"):
        check_ids(x, model.id_sizes(), "data")
