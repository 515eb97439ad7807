"""Weights by file and by directory: what is built, what is read, what is said."""

import json
import pathlib

import jax
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import Bert, Llama, MobileNet, ResNet
from jaxtl.models.resnet import ResNetImageNet
from jaxtl.models.vgg import VGG
from jaxtl.pretrained import FromFile, FromHub, convert, registry, tensor_files, write
from jaxtl.pretrained.match import match

IMAGES = np.zeros((1, 32, 32, 3), np.float32)
TEXT = {"input_ids": np.ones((1, 4), np.int32)}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": 29,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 12,
    "id2label": {"0": "a", "1": "b", "2": "c"},
}


def initial(model, x, seed=0):
    """Returns random trees; quicker than to compile an initialisation."""
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.uniform(0.05, 0.5, s.shape).astype(np.float32), shapes
    )


def same(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    assert set(a) == set(b)
    for path in a:
        assert np.asarray(a[path]).tobytes() == np.asarray(b[path]).tobytes(), path


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face directory of a tiny BERT with three classes, and its trees."""
    like = tmp_path / "like"
    like.mkdir()
    (like / "config.json").write_text(json.dumps(BERT))
    (like / "vocab.txt").write_text("[PAD]\n")
    model = registry.model_from_config(BERT, outputs=3)
    params, _ = initial(model, TEXT)
    out = tmp_path / "bert"
    write.write_directory(out, model, params, like=like, class_names=("a", "b", "c"))
    return out, params


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (ResNet(outputs=4, depth=14, width=4), IMAGES),
        (ResNetImageNet(outputs=4, depth=18, width=4), IMAGES),
        (ResNetImageNet(outputs=4, sizes=(1, 2, 1, 1), width=4), IMAGES),
        (VGG(outputs=4, depth=13, width=4, hidden=8, pooled=2), IMAGES),
        (VGG(outputs=4, depth=11, width=4, hidden=8, pooled=2, norm=True), IMAGES),
        (MobileNet(outputs=4, alpha=0.125), IMAGES),
    ],
    ids=lambda v: getattr(v, "depth", "") if not isinstance(v, np.ndarray) else "",
)
def test_a_written_file_is_recognised_and_read_back_to_the_bit(model, x, tmp_path):
    params, stats = initial(model, x)
    path = write.write_file(tmp_path / "m.safetensors", model, params, stats)
    source = FromFile(str(path))
    found = source.model()
    same(initial_shapes(found, x), initial_shapes(model, x))
    weights = source.read()
    same(weights.params, params)
    same(weights.stats, stats)
    assert set(weights.meta["preprocess"]) == {"mean", "std"}


def initial_shapes(model, x):
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    return jax.tree.map(lambda s: np.array(s.shape), shapes)


def test_the_real_files_are_recognised(data_dir):
    folder = data_dir / "pretrained"
    expected = {
        "resnet20-12fca82f.safetensors": ResNet(outputs=10, depth=20),
        "resnet56-4bfd9763.safetensors": ResNet(outputs=10, depth=56),
        "mobilenet_v1_0.25_224_imagenet.safetensors": MobileNet(
            outputs=1000, alpha=0.25
        ),
    }
    for name, model in expected.items():
        assert FromFile(str(folder / name)).model() == model
    assert isinstance(
        FromFile(str(folder / "stories260k_llama.safetensors")).model(), Llama
    )
    with pytest.raises(UserError, match="of no family that is recognized"):
        FromFile(str(folder / "glove_twitter_25d_12k.npz")).read()


def test_paths_are_found_under_the_data_folder(folder, monkeypatch):
    out, params = folder
    monkeypatch.setenv("JAXTL_DATA_DIR", str(out.parent))
    same(FromHub("bert").read().params, params)
    with pytest.raises(UserError, match="did you mean 'bert'"):
        FromHub("bret").read()


def test_a_directory_builds_its_model_and_weights(folder):
    out, params = folder
    model = FromHub(str(out)).model(outputs=3)
    assert model == Bert(
        outputs=3, vocab=29, width=16, layers=2, heads=4, hidden=20, context=12
    )
    weights = FromHub(str(out)).read()
    same(weights.params, params)
    assert weights.meta["config"]["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert (out / "vocab.txt").is_file()


def test_a_new_head_and_the_advice_for_it(folder):
    out, old = folder
    model = FromHub(str(out)).model(outputs=5)
    params, stats = initial(model, TEXT, seed=1)
    weights = FromHub(str(out)).read_for(model)
    with pytest.raises(UserError, match=r'reset=\("head",\)'):
        match(params, stats, weights)
    new, _, source, rows = match(params, stats, weights, reset="head")
    same(new["head"], params["head"])
    same(new["layer_1"], old["layer_1"])
    same(source.head, old["head"])
    assert convert.count_statuses(rows)["re-initialized"] == 2
    assert next(r.source for r in rows if r.path == "embeddings/token/embedding") == (
        "bert.embeddings.word_embeddings.weight"
    )


def test_a_sentence_encoder_s_pooling_is_its_own(folder):
    out, _ = folder
    (out / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": True}
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert FromHub(str(out)).model(outputs=2).pooling == "mean"
    assert FromHub(str(out)).model(outputs=2, pooling="first").pooling == "first"


@pytest.mark.parametrize(
    ("layers", "says"), [(4, "deeper than the weights"), (1, "of a deeper model")]
)
def test_another_number_of_layers_is_told_both_ways(folder, layers, says):
    out, _ = folder
    model = FromHub(str(out)).model(outputs=3, layers=layers)
    params, stats = initial(model, TEXT)
    with pytest.raises(UserError, match=says):
        match(params, stats, FromHub(str(out)).read_for(model))


def test_a_grey_stem_and_its_normalisation(tmp_path):
    model = ResNet(outputs=4, depth=8, width=4)
    params, stats = initial(model, IMAGES)
    path = write.write_file(tmp_path / "m.safetensors", model, params, stats)
    weights = FromFile(str(path), channels=1).read_for(model)
    assert len(weights.meta["preprocess"]["mean"]) == 1
    grey = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    ours, stats = initial(model, grey)
    ours, stats, *_ = match(ours, stats, weights)
    network = model.pure()
    expected = network.apply(params, stats, np.repeat(grey, 3, -1)).logits
    got = network.apply(ours, stats, grey).logits
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "bret"}, "model_type 'bret' is unknown; did you mean 'bert'"),
        ({"model_type": "xlm_roberta"}, "did you mean 'xlm-roberta'"),
        ({"model_type": "bart"}, r"model_type 'bart' is unknown \(known"),
        ({"model_type": "deberta"}, r"model_type 'deberta' is unknown \(known"),
        ({"model_type": None}, "model_type None is unknown"),
        ({"hidden_size": ...}, "lacks 'hidden_size'"),
        ({"hidden_act": "gelu_nwe"}, "did you mean 'gelu_new'"),
        (
            {"position_embedding_type": "relative_key"},
            "'relative_key' is not supported",
        ),
    ],
)
def test_a_configuration_that_is_not_understood(change, says):
    config = {k: v for k, v in {**BERT, **change}.items() if v is not ...}
    with pytest.raises(UserError, match=says):
        registry.model_from_config(config)


@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        ("swin", {"path_norm": True}),  # of microsoft/swin-tiny-patch4-window7-224
        ("swinv2", {"path_norm": True}),
        ("qwen2", {"use_mrope": False}),  # of Qwen/Qwen2.5-0.5B
        ("gpt2", {"n_special": 0, "predict_special_tokens": True}),  # of gpt2-medium
        ("gemma2", {"sliding_window_size": 4096}),  # of google/gemma-2-9b
        ("roberta", {"language": "english", "name": "Roberta"}),
        ("electra", {"generator_size": "0.25"}),
        ("bert", {"cell": {}, "emb_size": 312, "pre_trained": "", "structure": []}),
        ("llama", {"unsloth_fixed": True}),
        ("bert", {"sbert_ce_default_activation_function": "torch.nn.Identity"}),
        ("modernbert", {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}),
    ],
)
def test_notes_of_published_files_that_transformers_reads_nowhere(kind, notes):
    table = registry.config_table(kind)
    table.check({"model_type": kind, **notes})
    assert notes.keys() <= table.all_harmless.keys()


def test_a_field_that_the_model_lacks():
    with pytest.raises(UserError, match="unexpected keyword argument 'deth'"):
        registry.model_from_config(BERT, deth=3)


def test_directories_that_lack_something(folder, tmp_path):
    out, _ = folder
    with pytest.raises(UserError, match="is a file; give the directory"):
        FromHub(str(out / "config.json")).read()
    (out / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"should hold model\.safetensors"):
        FromHub(str(out)).read()
    (out / "config.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        FromHub(str(out)).model()
    (out / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        FromHub(str(out)).model()


def test_a_model_of_the_hub_without_network(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="not in the local cache") as error:
        FromHub("hf:owner/model").read()
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="should be 'hf:owner/name'"):
        FromHub("hf:model").read()


def test_a_cached_model_of_the_hub_is_read_offline(folder, monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    out, params = folder
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, "*.safetensors" in allow_patterns))
        return str(out)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    same(FromHub("hf:owner/model", revision="v1").read().params, params)
    assert set(asked) == {("owner/model", "v1", True)}


def test_a_file_of_another_family_and_an_unknown_layout(folder):
    out, _ = folder
    path = str(out / "model.safetensors")
    with pytest.raises(UserError, match="no tensor of the file belongs to this model"):
        FromFile(path).read_for(ResNet(outputs=2))
    with pytest.raises(UserError, match="did you mean 'akamaster'"):
        FromFile(path, layout="akamastr").read_for(ResNet(outputs=2))
    with pytest.raises(UserError, match="reads no images"):
        FromFile(path, channels=1).read_for(FromHub(str(out)).model(outputs=3))


def test_a_finetuned_model_opens_in_transformers(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    out, params = folder
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    x = {"input_ids": np.arange(8).reshape(2, 4)}
    model = FromHub(str(out)).model(outputs=3)
    ours = model.pure().apply(params, {}, x).logits
    with torch.no_grad():
        got = theirs.eval()(torch.tensor(x["input_ids"])).logits
    np.testing.assert_allclose(got, ours, atol=1e-5)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="reads /proc"
)
def test_loading_a_large_file_needs_little_more_memory_than_the_file(tmp_path):
    """Peak above the start, in a fresh process, of a 128 MB file."""
    import subprocess
    import sys

    big = np.ones((32, 1024, 1024), np.float32)
    tensor_files.write(
        tmp_path / "big.safetensors", {f"t{i}": x for i, x in enumerate(big)}
    )
    code = """
import re, sys
import numpy as np
from jaxtl.pretrained import tensor_files, match, convert
from jaxtl.models.weight_layout import Rule, WeightLayout
import jax, jax.numpy as jnp
jnp.zeros(1).block_until_ready()
rules = [Rule(f"t{i}", f"s{i}/kernel", "linear") for i in range(32)]
def peak():  # Not getrusage's: that starts from the parent's.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
file = tensor_files.read(sys.argv[1])
weights = convert.to_weights(file.tensors, WeightLayout(tuple(rules)))
shapes = {f"s{i}": {"kernel": jax.ShapeDtypeStruct((1024, 1024), "float32")}
          for i in range(32)}
params, *_ = match.match(shapes, {}, weights)
jax.block_until_ready(params)
print((peak() - before) / 1024)
"""
    root = pathlib.Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.safetensors")],
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
    )
    assert float(found.stdout) <= 1.3 * 128
