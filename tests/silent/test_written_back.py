"""What a directory for transformers says of the run that it was written from.

Origin: transformers' own classes and pipelines, on directories whose base said
something else. Round trips of every family and task are in `tests/export`.
"""

import dataclasses
import json

import jax
import numpy as np
import PIL.Image
import pytest

import jaxtl as tl
from jaxtl.pretrained import hf_inputs, hub, write_directory

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SIDES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDES |= {"intermediate_size": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
VIT = {"model_type": "vit", "image_size": 32, "patch_size": 4, **SIDES}
BERT = {"model_type": "bert", "vocab_size": 12, "max_position_embeddings": 9, **SIDES}
STALE = {
    "architectures": ["ViTModel"],
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
    "num_labels": 7,
    "id2label": {"0": "old"},
    "label2id": {"old": 0},
    "problem_type": "single_label_classification",
}
PRE = tl.data.Preprocess(
    scale=255, size=8, shortest=10, resample="lanczos", mean=0.2, std=(0.1, 0.3, 0.5)
)


def leaves_of(model, x):
    """Random parameters, quicker than to compile an initialization."""
    params, _ = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), params)


def written(tmp_path, base, fields, x, **options):
    like = tmp_path / "like"
    like.mkdir()
    (like / "config.json").write_text(json.dumps(base))
    (like / "preprocessor_config.json").write_text('{"image_mean": [0.9, 0.9, 0.9]}')
    model = tl.pretrained.FromHub(str(like)).model(**fields)
    params = leaves_of(model, x)
    if "bias" in options:
        bias = options.pop("bias")
        params["head"]["dense"]["kernel"] *= 0
        params["head"]["dense"]["bias"] = np.asarray(bias, np.float32)
    folder = write_directory(tmp_path / "out", model, params, like=like, **options)
    return folder, model, params, json.loads((folder / "config.json").read_text())


def picture(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (14, 19, 3)).astype(np.uint8)
    PIL.Image.fromarray(x).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


IMAGE = np.zeros((1, 8, 8, 3), np.float32)
TEXT = {"input_ids": np.ones((1, 4), np.int32)}


@pytest.mark.parametrize(
    ("task", "want"),
    [
        ("multilabel", [0.47, 0.54, 0.58]),  # a softmax gives .26, .35, .40
        ("classification", [0.26, 0.34, 0.40]),
        ("regression", [-0.12, 0.16, 0.323]),
    ],
)
def test_the_head_is_of_the_run_s_task(task, want, tmp_path):
    options = {"task": task, "preprocess": PRE, "bias": [-0.12, 0.16, 0.323]}
    names = ("x", "y", "z")
    folder, _, _, config = written(
        tmp_path,
        {**VIT, **STALE},
        {"size": 8, "outputs": 3},
        IMAGE,
        class_names=names,
        **options,
    )
    pipe = transformers.pipeline("image-classification", str(folder))
    scores = {e["label"]: e["score"] for e in pipe(picture(tmp_path), top_k=None)}
    np.testing.assert_allclose([scores[n] for n in names], want, atol=6e-3)
    assert config["architectures"] == ["ViTForImageClassification"]
    assert config["image_size"] == 8
    assert config["dtype"] == "float32"
    assert not {"torch_dtype", "num_labels"} & set(config)


def test_one_output_is_one_label(tmp_path):
    fields = {"size": 8, "outputs": 1}
    folder, *_ = written(tmp_path, {**VIT, **STALE}, fields, IMAGE, task="regression")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert (config.num_labels, config.problem_type) == (1, "regression")


FRAMINGS = [
    PRE,
    dataclasses.replace(PRE, shortest=None, resample=None),
    dataclasses.replace(PRE, shortest=(12, 9), resample="box"),
    dataclasses.replace(PRE, mean=None, std=None),
]


@pytest.mark.parametrize("pre", FRAMINGS, ids=range(len(FRAMINGS)))
def test_pictures_are_prepared_as_in_the_run(pre, tmp_path):
    file = hf_inputs.image_processor(pre)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    x = tl.data.preprocess.load_image(picture(tmp_path), pre)
    want = np.asarray(tl.data.preprocess.apply(pre, x)).transpose(2, 0, 1)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    got = processor(PIL.Image.open(tmp_path / "a.png"))["pixel_values"][0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    again = hub.image_resizing(tmp_path)
    assert (again["size"], again["shortest"]) == (pre.size, pre.shortest)


def test_texts_are_cut_and_cased_as_in_the_run(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Good", "good", "film", "a"]
    like = tmp_path / "like"
    like.mkdir()
    vocab = {word: i for i, word in enumerate(words)}
    transformers.BertTokenizer(vocab=vocab).save_pretrained(like)
    tokenizer = tl.data.Tokenizer(str(like), max_length=6, lower=False)
    for name, content in hf_inputs.tokenizer_files(tokenizer, like, True).items():
        (tmp_path / name).write_text(json.dumps(content))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts, pairs = ["Good film a", "good " * 9], ["a Good", "film"]
    for second in (None, pairs):
        x = tokenizer(texts, second)
        got = theirs(texts, second, truncation=True, padding="max_length")
        length = x["input_ids"].shape[1]
        for name, values in x.items():
            np.testing.assert_array_equal(np.array(got[name])[:, :length], values)
    again = tl.data.Tokenizer(str(tmp_path))(texts)
    np.testing.assert_array_equal(again["input_ids"], tokenizer(texts)["input_ids"])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_head_of_tokens_is_one_in_transformers(kind, tmp_path):
    base = {**BERT, **STALE, "model_type": kind, "pad_token_id": 1}
    fields = {"predict": "token", "outputs": 3}
    folder, model, params, config = written(tmp_path, base, fields, TEXT)
    assert config["architectures"][0].endswith("ForTokenClassification")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    ids = np.array([[2, 5, 7, 3]])
    got = theirs(torch.tensor(ids)).logits.detach().numpy()
    want = model.pure().apply(params, {}, {"input_ids": ids}).logits
    np.testing.assert_allclose(got, want, atol=1e-4)
