"""Directories written from runs, against transformers' pipelines on raw files.

Each base directory says something else than the run: its sizes, normalization, casing,
length, kind of head, names and type are all changed by the run.
"""

import csv
import dataclasses
import json

import exported_runs
import jax
import numpy as np
import PIL.Image
import pytest
from scipy import special

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Data, Table
from jaxtl.data.preprocess import Preprocess
from jaxtl.export import hf_card, weights

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

WORDS = ["Good", "good", "film", "bad", "Book", "the", "é", "a", "b", "##s"]
TEXTS = [
    " ".join(np.random.default_rng(i).choice([*WORDS[:-1], "Goods"], 3 + i % 9))
    for i in range(24)
]
SMALL = {"vocab_size": 40, "initializer_range": 0.4}
SIDES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT_SIDES = {**SMALL, **SIDES, "intermediate_size": 20, "max_position_embeddings": 20}
FAMILIES = {
    "bert": ("BertForSequenceClassification", TEXT_SIDES),
    "roberta": (
        "RobertaForSequenceClassification",
        {**TEXT_SIDES, "type_vocab_size": 1, "pad_token_id": 1},
    ),
    "gpt2": (
        "GPT2ForSequenceClassification",
        {**SMALL, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20},
    ),
    "llama": ("LlamaForSequenceClassification", TEXT_SIDES),
    "vit": (
        "ViTForImageClassification",
        {**SIDES, "intermediate_size": 20, "image_size": 8, "patch_size": 4}
        | {"initializer_range": 0.4},
    ),
    # both towers, of which the run takes that of images
    "clip": (
        "CLIPModel",
        {
            "vision_config": {**SIDES, "intermediate_size": 20, "image_size": 8}
            | {"patch_size": 4, "initializer_factor": 3.0},
            "text_config": {**TEXT_SIDES, "eos_token_id": 3},
        },
    ),
    "siglip": (
        "SiglipModel",
        {
            "vision_config": {**SIDES, "intermediate_size": 20, "image_size": 8}
            | {"patch_size": 4},
            "text_config": TEXT_SIDES,
        },
    ),
    "resnet": (
        "ResNetForImageClassification",
        {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
        | {"embedding_size": 8, "layer_type": "basic"},
    ),
}
PAIRS = {"clip": "CLIP", "siglip": "Siglip"}
IMAGES = ("vit", *PAIRS, "resnet")
SIZED = ("vit", *PAIRS)
TASKS = {"classification": 3, "multilabel": 3, "regression": 1}
NAMES = {"classification": ("x", "y", "z"), "multilabel": ("u", "v", "w")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedIds(Data):
    """Token ids with several tags each, from a file of arrays."""

    path: str

    def read(self):
        file = np.load(self.path)
        x = {name: file[name] for name in ("input_ids", "attention_mask")}
        return Table(
            x=x, y=file["y"], class_names=NAMES["multilabel"], task="multilabel"
        )


def base_directory(folder, kind, task):
    """A directory of transformers that differs from the run in all but its weights."""
    name, sides = FAMILIES[kind]
    config_class = getattr(transformers, name).config_class
    labels = dict(enumerate(NAMES.get(task, ("LABEL_0",))))
    torch.manual_seed(0)
    config = config_class(**sides, id2label=labels)
    getattr(transformers, name)(config).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    content |= {"dtype": "bfloat16", "problem_type": None, "architectures": ["Other"]}
    (folder / "config.json").write_text(json.dumps(content))
    if kind in IMAGES:
        side = 8 if kind in SIZED else 16
        name = f"{PAIRS.get(kind, 'ViT')}ImageProcessorPil"
        getattr(transformers, name)(size=side).save_pretrained(folder)
        return
    special_tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {word: i for i, word in enumerate([*special_tokens, *WORDS])}
    if kind == "roberta":
        order = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
        vocab |= {word: i for i, word in enumerate(order)}
    transformers.BertTokenizer(vocab=vocab).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    if kind == "gpt2":  # else transformers takes GPT-2's own tokenizer
        content = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
        file.write_text(json.dumps(content))


def targets(task, n):
    rng = np.random.default_rng(0)
    if task == "classification":
        return np.arange(n) % 3
    shape = (n, 3) if task == "multilabel" else (n,)
    values = rng.normal(size=shape)
    return (values > 0).astype(np.float32) if task == "multilabel" else values


def texts_of(folder, task, tokenizer):
    y = targets(task, len(TEXTS))
    if task == "multilabel":
        np.savez(folder / "ids.npz", y=y, **tokenizer(TEXTS))
        return TaggedIds(path=str(folder / "ids.npz"), val=4, test=6)
    with open(folder / "texts.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        names = NAMES["classification"]
        labels = [names[v] if task == "classification" else repr(float(v)) for v in y]
        rows.writerows(zip(TEXTS, labels))
    return tl.data.Text(
        str(folder / "texts.csv"),
        text="text",
        label="label",
        tokenizer=tokenizer,
        task=task,
        val=4,
        test=6,
    )


def pictures_of(folder, task):
    rng, n = np.random.default_rng(1), 18
    # Files are resized as PIL does it, which arrays are not: they have the size.
    sides = (14, 19) if task == "classification" else (12, 12)
    pictures = rng.integers(0, 256, (n, *sides, 3)).astype(np.uint8)
    y = targets(task, n)
    files = []
    for i, x in enumerate(pictures):
        name = NAMES["classification"][y[i]] if task == "classification" else "all"
        (folder / name).mkdir(exist_ok=True)
        files.append(folder / name / f"{i:02}.png")
        PIL.Image.fromarray(x).save(files[-1])
    framing = {"size": 12, "shortest": 13, "resample": "bicubic"}
    shares = {"val": 4, "test": 6}
    pre = tl.data.Preprocess(scale=255, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4))
    if task == "classification":
        data = tl.data.ImageFolder(str(folder), preprocess=pre, **framing, **shares)
        return data, sorted(files)
    np.savez(folder / "pictures.npz", x=pictures, y=y)
    fields = {"class_names": NAMES.get(task), "task": task, "preprocess": pre}
    return tl.data.Arrays(
        str(folder / "pictures.npz"), size=12, **fields, **shares
    ), files


def run_and_inputs(tmp_path, kind, task):
    """A stored run, and the raw inputs of its test rows."""
    base, raw = tmp_path / "base", tmp_path / "raw"
    base.mkdir()
    raw.mkdir()
    base_directory(base, kind, task)
    reset = ("head",) if kind in PAIRS else ()
    init = tl.pretrained.FromHub(str(base), reset=reset)
    fields = {"size": 12} if kind in SIZED else {}
    fields |= {"predict": "class"} if kind in PAIRS else {}
    if kind in IMAGES:
        data, inputs = pictures_of(raw, task)
        inputs = [str(file) for file in inputs]
    else:
        fields = {"predict": "class"}
        lower = None if task == "multilabel" else False
        tokenizer = tl.data.Tokenizer(str(base), max_length=9, lower=lower)
        data, inputs = texts_of(raw, task, tokenizer), TEXTS
    model = init.model(**fields)
    run = exported_runs.train(tmp_path / "run", model=model, data=data, init=init)
    rows = run.parts.datasets["target"].rows["test"]
    return run, [inputs[i] for i in rows]


def scores(folder, kind, inputs, limit=None):
    """The pipeline's scores, (n, labels in the order of their ids)."""
    if kind in IMAGES:
        pipe = transformers.pipeline("image-classification", str(folder))
        answers = pipe(inputs, top_k=None)
    else:
        pipe = transformers.pipeline("text-classification", str(folder))
        options = {} if limit is None else {"max_length": limit}
        answers = pipe(inputs, top_k=None, truncation=True, **options)
    ids = pipe.model.config.label2id
    table = np.zeros((len(answers), len(ids)))
    for row, answer in enumerate(answers):
        for entry in answer:
            table[row, ids[entry["label"]]] = entry["score"]
    return table


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_pipeline_gives_the_run_s_own_predictions(kind, task, tmp_path):
    run, inputs = run_and_inputs(tmp_path, kind, task)
    out, _ = exported_runs.logits(run)
    want = np.asarray(out, np.float64)
    if task == "classification":
        want = special.softmax(want, -1)
    elif task == "multilabel":
        want = special.expit(want)
    want = want.reshape(len(want), -1)
    folder = weights.write_weights(tmp_path / "run", tmp_path / "written")
    # Token ids were cut by the run, of which its directory then knows nothing.
    got = scores(folder, kind, inputs, 9 if task == "multilabel" else None)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert list(config["id2label"].values()) == [*NAMES.get(task, ("LABEL_0",))]


def test_a_language_model_goes_on_as_transformers_generates(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    base_directory(base, "gpt2", "classification")
    torch.manual_seed(0)
    sides = {**FAMILIES["gpt2"][1], "vocab_size": 15}
    ends = {"bos_token_id": 2, "eos_token_id": 3}
    config = transformers.GPT2Config(**sides, **ends)
    transformers.GPT2LMHeadModel(config).save_pretrained(base)
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS))
    tokenizer = tl.data.Tokenizer(str(base), max_length=9)
    init = tl.pretrained.FromHub(str(base))
    data = tl.data.Lines(str(tmp_path / "lines.txt"), tokenizer=tokenizer, val=4)
    exported_runs.train(tmp_path / "run", model=init.model(), data=data, init=init)
    folder = weights.write_weights(tmp_path / "run", tmp_path / "written")
    config = json.loads((folder / "config.json").read_text())
    assert "id2label" not in config
    assert json.loads((folder / "generation_config.json").read_text()) == ends
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    trained = tl.load_model(tmp_path / "run")
    x = tokenizer(TEXTS[:3])
    logits = trained.network.apply(trained.params, trained.stats, x).logits
    for row, text in enumerate(TEXTS[:3]):
        ids = theirs(text, truncation=True, return_tensors="pt")
        got = model(input_ids=ids["input_ids"]).logits[0].detach().numpy()
        want = logits[row][x["attention_mask"][row]]
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_targets_that_were_stored_with_an_offset_come_back(tmp_path):
    model = tl.models.ViT(size=8, patch=4, width=8, layers=1, heads=2, hidden=8)
    model = dataclasses.replace(model, outputs=1)
    params, _ = model.pure().init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    config = {"model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pre = tl.data.Preprocess(scale=255, size=8, target_offset=(50.0,))
    folder = tl.pretrained.write_directory(
        tmp_path / "out",
        model,
        params,
        like=tmp_path,
        task="regression",
        preprocess=pre,
    )
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder)
    got = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).logits.detach().numpy()
    want = model.pure().apply(params, {}, x).logits + 50
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pooling": "mean"}, r"Bert\.pooling='mean' has no entry"),
        ({"pooling": "first", "normalize": True}, r"Bert\.(pooling|normalize)="),
    ],
)
def test_a_model_that_transformers_has_no_class_for_is_refused(fields, says, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    base_directory(base, "bert", "classification")
    model = tl.pretrained.FromHub(str(base)).model(outputs=2, **fields)
    with pytest.raises(UserError, match=says):
        tl.pretrained.write_directory(tmp_path / "out", model, {}, like=base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("predict", "head", "outputs"),
    [
        ("span", "QuestionAnswering", ["start_logits", "end_logits"]),
        ("choice", "MultipleChoice", ["logits"]),
    ],
)
def test_the_card_s_lines_run_where_transformers_has_no_pipeline(
    predict, head, outputs, tmp_path
):
    config = transformers.BertConfig(**TEXT_SIDES)
    getattr(transformers, f"BertFor{head}")(config).save_pretrained(tmp_path)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    init = tl.pretrained.FromHub(str(tmp_path))
    model = init.model(predict=predict)
    exp = tl.Experiment(model=model, data=tl.data.Digits(), init=init)
    meta = {"task": "classification", "step": 1}
    card = hf_card.markdown(exp, model, meta, Preprocess(), None)
    lines = [x[4:] for x in card.splitlines() if x.startswith("    ")]
    lines[-1] = f"outputs = {lines[-1]}"
    code = "\n".join(lines).replace("THIS_FOLDER", str(tmp_path))
    names = {
        "QUESTION": "good film",
        "CONTEXT": "the bad film",
        "CHOICES": ["a", "b c"],
    }
    exec(code, names)
    assert [k for k in names["outputs"] if k.endswith("logits")] == outputs
