"""A run is pushed to a stand-in of the hub by huggingface_hub, and read back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hub_server import TOKEN, Hub

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core.errors import UserError
from jaxtl.evaluation import evaluate
from jaxtl.export import push

yaml = pytest.importorskip("yaml")
hub_constants = pytest.importorskip("huggingface_hub.constants")
NAME = "me/digits"


@pytest.fixture(scope="module")
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def surroundings(hub, tmp_path, monkeypatch):
    """The library speaks to the stand-in, with a cache of the test's own."""
    monkeypatch.setattr(hub_constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.Digits(limit=120),
        steps=4,
        batch=16,
    )
    folder = tmp_path_factory.mktemp("push") / "run"
    tl.train(tl.setup(exp, folder))
    return folder


def test_a_pushed_model_is_read_back(run, hub, capsys, tmp_path):
    assert main.main(["push", str(run), NAME, "--licence", "apache-2.0"]) == 0
    assert f'tl.pretrained.FromHub("{NAME}")' in capsys.readouterr().out
    files = hub.repositories[NAME]
    assert {"jaxtl.json", "model.safetensors", "README.md"} <= files.keys()
    assert "PUT lfs" in hub.requests
    weights = tl.pretrained.FromHub(NAME)
    stored = tl.load_model(run)
    read = weights.read()
    jax.tree.map(np.testing.assert_array_equal, read.params, dict(stored.params))
    assert read.output_names == tuple(map(str, range(10)))
    # An experiment from it has the same model, preprocessing and metrics.
    exp = tl.Experiment(
        model=weights.model(), init=weights, data=tl.data.Digits(limit=120), steps=0
    )
    result = json.loads((run / "result.json").read_text())
    assert tl.train(tl.setup(exp))["test"] == pytest.approx(result["test"])
    _, header, body = files["README.md"].decode().split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["library_name"] == "jaxtl"
    assert header["license"] == "apache-2.0"
    measured = header["model-index"][0]["results"][0]["metrics"]
    values = {metric["type"]: metric["value"] for metric in measured}
    assert values == pytest.approx(result["test"])
    accuracy = result["test"]["accuracy"]
    [line] = [x for x in body.splitlines() if x.startswith("| accuracy ")]
    low, high = json.loads(line.split("|")[3])
    assert low <= accuracy <= high
    assert low < high
    # What others wrote runs no code.
    evil = json.loads(files["jaxtl.json"])
    evil["model"] = {"type": "os:system", "command": "false"}
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "jaxtl.json").write_text(json.dumps(evil))
    with pytest.raises(UserError, match="names code of os, which is not run"):
        tl.pretrained.FromHub(str(tmp_path / "evil")).model()


def test_what_can_not_be_pushed_is_one_sentence(run, hub, monkeypatch):
    for name in ("digits", "a/b/c", "me/di gits", "/x"):
        with pytest.raises(UserError, match="expected owner/name"):
            push.push(run, name)
    with pytest.raises(UserError, match="refuses the name"):
        push.push(run, "me/digits--x")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(UserError, match="no permission to write to me/other"):
        push.push(run, "me/other")
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="can't be reached"):
        push.push(run, NAME)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push.push(run, NAME)
    with pytest.raises(UserError, match="not in the local cache"):
        tl.pretrained.FromHub("me/never").read()
    assert len(hub.requests) == before


def test_a_local_directory_comes_before_the_hub(run, tmp_path, monkeypatch):
    push.write_repository(run, tmp_path / "me" / "local", "me/local", None)
    monkeypatch.chdir(tmp_path)
    weights = tl.pretrained.FromHub("me/local", reset="head")
    assert weights.model(outputs=3).outputs == 3
    assert dataclasses.replace(weights, where="me/local").folder().is_dir()


def test_a_model_from_transformers_is_pushed_in_its_form(hub, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "very"]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        initializer_range=1.0,
    )
    base, run = tmp_path / "base", tmp_path / "run"
    transformers.BertModel(config).save_pretrained(base)
    (base / "vocab.txt").write_text("\n".join(words))
    texts = ["good", "very bad", "bad good", "very good"] * 8
    labels = ["up", "down", "up", "up"] * 8
    lines = [f"{text}\t{label}" for text, label in zip(texts, labels)]
    (tmp_path / "texts.tsv").write_text("\n".join(["text\tlabel", *lines]))
    init = tl.pretrained.FromHub(str(base), reset="head")
    data = tl.data.Text(str(tmp_path / "texts.tsv"), text="text", label="label")
    exp = tl.Experiment(model=init.model(), data=data, init=init, steps=2, batch=4)
    tl.train(tl.setup(exp, run))
    assert main.main(["push", str(run), "me/bert"]) == 0
    files = hub.repositories["me/bert"]
    assert "jaxtl.json" not in files
    header = yaml.safe_load(files["README.md"].decode().split("---\n", 2)[1])
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "text-classification"
    # Its files give in transformers what the run gives here.
    folder = tl.pretrained.FromHub("me/bert").folder()
    model = tl.load_model(run)
    logits, _ = evaluate.predict_split(model, "test")
    rows = model.datasets["target"].rows["test"]
    pipe = transformers.pipeline("text-classification", str(folder), top_k=None)
    with torch.no_grad():
        answers = pipe([texts[i] for i in rows])
    scores = [{x["label"]: x["score"] for x in answer} for answer in answers]
    theirs = [[score["down"], score["up"]] for score in scores]
    np.testing.assert_allclose(theirs, jax.nn.softmax(logits), rtol=1e-4)
    assert tl.pretrained.FromHub("me/bert").read().output_names == ("down", "up")
