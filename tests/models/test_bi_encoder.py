"""Bi-encoders compute what sentence-transformers does; runs of them give embeddings."""

import json

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.export import predict, write_bundle

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
SIZES = {"vocab": 16, "width": 8, "layers": 1, "heads": 2, "hidden": 8, "context": 32}
FIRST, SECOND = ["a b c", "d", "e f g h a b"], ["a c", "d d d e", "h"]


def write_json(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def modules(*kinds):
    places = ("", "1_Pooling", "2_Dense", "3_Normalize")
    return [
        {"type": f"sentence_transformers.models.{kind}", "path": place}
        for kind, place in zip(kinds, places)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sentence encoder of random weights: transformer, pooling, map, unit length."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(WORDS)}
    sizes |= {"hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 32}
    torch.manual_seed(0)
    config = transformers.BertConfig(**sizes, initializer_range=0.5)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    write_json(folder / "modules.json", modules(*kinds))
    write_json(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    named = "torch.nn.modules.activation.Tanh"
    dense = {"in_features": 8, "out_features": 5, "bias": True}
    write_json(folder / "2_Dense/config.json", {**dense, "activation_function": named})
    weights = {"linear.weight": torch.randn(5, 8), "linear.bias": torch.randn(5)}
    safetensors.save_file(weights, folder / "2_Dense/model.safetensors")
    return folder


def reference(folder, texts):
    """The embeddings by torch: mean over the real tokens, the map, unit length."""
    import safetensors.torch
    import torch
    import transformers

    model = transformers.BertModel.from_pretrained(folder).eval()
    ids = tl.data.Tokenizer(str(folder))(texts)
    ids = {name: torch.tensor(values) for name, values in ids.items()}
    with torch.no_grad():
        states = model(**ids).last_hidden_state
        mask = ids["attention_mask"][..., None].float()
        mean = (states * mask).sum(1) / mask.sum(1)
        map_ = safetensors.torch.load_file(folder / "2_Dense/model.safetensors")
        mapped = torch.tanh(mean @ map_["linear.weight"].T + map_["linear.bias"])
        return torch.nn.functional.normalize(mapped).numpy()


def test_a_directory_of_sentence_transformers_is_read_and_written(folder, tmp_path):
    weights = tl.pretrained.FromHub(str(folder))
    model = weights.model(predict="similarity")
    assert model.stages == ("embeddings", "layer_0", "pooling", "head")
    x = tl.data.Tokenizer(str(folder)).separately(FIRST, SECOND)
    read = weights.read_for(model)
    assert {*read.params} == {"embeddings", "layer_0", "pooling"}
    out = model.pure().apply(jax.tree.map(np.asarray, read.params), {}, x)
    a, b = reference(folder, FIRST), reference(folder, SECOND)
    np.testing.assert_allclose(out.features["pooling"], np.stack([a, b], 1), atol=1e-5)
    np.testing.assert_allclose(out.logits[:, 0], (a * b).sum(1), atol=1e-5)
    tokenizer = tl.data.Tokenizer(str(folder))
    params = jax.tree.map(np.asarray, read.params)
    options = {"like": folder, "tokenizer": tokenizer}
    written = tl.pretrained.write_directory(tmp_path / "out", model, params, **options)
    np.testing.assert_array_equal(reference(written, FIRST), a)
    assert tl.pretrained.FromHub(str(written)).model(predict="similarity") == model


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "modules.json",
            modules("Transformer", "Pooling", "Normalize", "Dense"),
            "modules Transformer, Pooling, Normalize, Dense are not supported",
        ),
        (
            "modules.json",
            modules("Transformer", "Pooling", "LSTM"),
            "'LSTM' of the sentence encoder is not supported",
        ),
        ("2_Dense/config.json", {"out_features": 5, "baias": 1}, "did you mean 'bias'"),
        (
            "2_Dense/config.json",
            {"out_features": 5, "activation_function": "torch.nn.Tahn"},
            "activation_function is 'torch.nn.Tahn'; .*did you mean 'Tanh'",
        ),
        ("2_Dense/config.json", {"out_features": "5"}, "out_features is '5'"),
        ("1_Pooling/config.json", {"pooling_mode_men": True}, "'pooling_mode_men'"),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "dot"},
            "similarity_fn_name 'dot' is not supported",
        ),
    ],
)
def test_what_is_not_honored_is_refused(folder, tmp_path, file, content, says):
    for path in folder.rglob("*.json"):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    write_json(tmp_path / file, content)
    with pytest.raises(UserError, match=says):
        tl.pretrained.FromHub(str(tmp_path)).model(predict="similarity")


ENCODERS = (
    tl.models.GPT2(**{k: v for k, v in SIZES.items() if k != "hidden"}),
    tl.models.Llama(**SIZES),
    tl.models.Deberta(**SIZES),
    tl.models.ModernBert(**SIZES),
    tl.models.SiglipText(**SIZES),
)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: type(e).__name__)
def test_any_model_of_texts_is_an_encoder(encoder):
    network = tl.models.BiEncoder(encoder=encoder).pure()
    x = {"input_ids": np.ones((3, 2, 4), np.int32)}
    x["attention_mask"] = np.ones((3, 2, 4), bool)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    assert jax.eval_shape(network.apply, *shapes, x).logits.shape == (3, 1)


def test_the_text_tower_of_clip_is_an_encoder(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16}
    sizes |= {"hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 6}
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(**sizes, eos_token_id=15, projection_dim=5)
    theirs = transformers.CLIPTextModelWithProjection(config).eval()
    theirs.save_pretrained(tmp_path)
    init = tl.pretrained.FromHub(str(tmp_path))
    model = init.model(predict="similarity", pooling="last")
    params = jax.tree.map(np.asarray, init.read_for(model).params)
    ids = np.array([[[3, 4, 15], [5, 6, 15]], [[7, 8, 15], [9, 1, 15]]])
    x = {"input_ids": ids, "attention_mask": np.ones(ids.shape, bool)}
    with torch.no_grad():
        states = theirs.text_model(torch.tensor(ids.reshape(4, 3))).pooler_output
        a, b = states.reshape(2, 2, 8).unbind(1)
        want = torch.cosine_similarity(a, b)
    got = model.pure().apply(params, {}, x).logits[:, 0]
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "reads"),
    [("siglip", "images with texts"), ("swin", "images"), ("brt", "'brt' is unknown")],
)
def test_only_models_of_texts_become_encoders(kind, reads, tmp_path):
    write_json(tmp_path / "config.json", {"model_type": kind})
    with pytest.raises(UserError, match=reads):
        tl.pretrained.FromHub(str(tmp_path)).model(predict="similarity")


class Pooled(tl.models.Bert):
    """A model of texts whose states are pooled before the head."""

    PREDICTS = ("class",)


def test_an_encoder_needs_states_of_tokens_before_its_head():
    network = tl.models.BiEncoder(encoder=Pooled(**SIZES)).pure()
    x = {"input_ids": np.ones((3, 2, 4), int), "attention_mask": np.ones((3, 2, 4))}
    with pytest.raises(UserError, match=r"Pooled: the stage 'pooler' .* no states of"):
        jax.eval_shape(network.init, jax.random.key(0), x)


def data_of(path, **fields):
    options = {"text": "a", "pair": "b", "label": "s", "score_range": (0, 5)}
    return tl.data.Text(str(path), **{**options, **fields})


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            "a": " ".join(rng.choice([*"abcdefgh"], 4)),
            "b": " ".join(rng.choice([*"abcdefgh"], 3)),
            "s": float(rng.integers(0, 6)),
        }
        for _ in range(40)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_texts_are_tokenized_each_by_itself_and_scores_scaled(pairs, folder):
    source = data_of(pairs, tokenizer=str(folder), separate=True, score_scale=(-1, 1))
    table = source.read()
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    np.testing.assert_allclose(table.y, [row["s"] / 2.5 - 1 for row in rows])
    assert "scores from 0 to 5 are scaled to -1 to 1" in table.notes
    tokenizer = tl.data.Tokenizer(str(folder))
    for i, name in enumerate("ab"):
        alone = tokenizer([row[name] for row in rows])
        for key, values in alone.items():
            np.testing.assert_array_equal(table.x[key][:, i], values)


BERT = tl.models.Bert(**SIZES)


@pytest.mark.parametrize(
    ("fields", "model", "says"),
    [
        ({"score_range": (0, 4)}, None, r"score_range=\(0, 4\): the score of .* is 5"),
        ({"score_range": (5, 0)}, None, "the lowest and the highest"),
        ({"score_range": (0, 5), "task": "classification"}, None, "scales numbers"),
        ({"score_range": (0, 5), "pair": None}, None, "concerns pairs of texts"),
        ({"score_range": None}, None, "is classification: the label must be a score"),
        ({"score_range": None, "task": "regression"}, None, "lie in 0 to 5, but a cos"),
        ({"separate": False}, None, "leave separate= out"),
        ({"separate": True}, BERT, "tokenized each by itself; leave separate= out"),
    ],
)
def test_data_that_a_bi_encoder_can_not_compare_are_refused(pairs, fields, model, says):
    model = model or tl.models.BiEncoder(encoder=BERT)
    with pytest.raises(UserError, match=says):
        tl.setup(tl.Experiment(model=model, data=data_of(pairs, **fields), steps=1))


def test_a_run_predicts_similarities_and_gives_embeddings(pairs, folder, tmp_path):
    weights = tl.pretrained.FromHub(str(folder))
    exp = tl.Experiment(
        model=weights.model(predict="similarity"),
        init=weights,
        data=data_of(pairs),
        terms={
            "task": tl.losses.CoSENT(),
            "near": tl.losses.MultipleNegativesRanking(),
        },
        metrics={"spearman": tl.metrics.SpearmanCorrelation()},
        monitor="spearman",
        optim=tl.optim.AdamW(lr=1e-2, groups={"pooling": 1.0, ".*": tl.FROZEN}),
        cache="memory",
        steps=2,
        batch=8,
    )
    run = tl.setup(exp, tmp_path / "run")
    result = tl.train(run, progress=False)
    assert run.cached.stages == ("embeddings", "layer_0")
    stored = tl.load_model(tmp_path / "run")
    assert tl.evaluate(stored, "test")["spearman"] == result["test"]["spearman"]
    export = write_bundle.export(tmp_path / "run", tmp_path / "out")
    embeddings = tl.encode(stored, FIRST)
    np.testing.assert_allclose(tl.encode(export, FIRST), embeddings, atol=1e-6)
    lines = [f"{a}\t{b}" for a, b in zip(FIRST, SECOND)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    outputs = [r["output"] for r in predict.predict(export, tmp_path / "pairs.txt")]
    cosines = (embeddings * tl.encode(stored, SECOND)).sum(1)
    np.testing.assert_allclose(outputs, cosines, atol=1e-5)
