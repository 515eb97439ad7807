"""PEFT's folders, there and back: peft's own outputs on transformers' models."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import GPT2, MLP, Bert, DINOv2, ResNetImageNet
from jaxtl.peft import IA3, Adapters, LoRA, VeRA
from jaxtl.pretrained import (
    FromHub,
    convert,
    hf_peft_layout,
    hf_peft_read,
    hf_peft_write,
    tensor_files,
)

SMALL = {"vocab": 29, "width": 16, "layers": 2, "heads": 4, "context": 9}
MODELS = {
    "bert": Bert(outputs=3, hidden=20, **SMALL),
    "gpt2": GPT2(**SMALL),
    "gpt2-class": GPT2(outputs=3, predict="class", **SMALL),
}
rng = np.random.default_rng(0)
TEXT = {
    "input_ids": rng.integers(1, 29, (4, 7)).astype(np.int32),
    "attention_mask": np.arange(7) < np.array([[7], [3], [1], [5]]),
}
ATTENTION = r"layer_\d+/attention/(query|value|qkv)/kernel"
METHODS = {
    "lora": LoRA(rank=2, alpha=5.0),
    "some-layers": LoRA(rank=3, select="layer_1/(attention|mlp/out)"),
    "rslora": LoRA(rank=4, alpha=3.0, rslora=True, select=r".*/mlp/(in|out)"),
    "dora": LoRA(rank=2, dora=True),
    "ia3": IA3(),
    "vera": VeRA(rank=6, select=rf"{ATTENTION}|layer_\d+/mlp/out"),
}
TABLES = {
    "table": LoRA(rank=2, select="embeddings/(token|position)"),
    "table-dora": LoRA(rank=2, dora=True, select="embeddings/token"),
}


def theirs(name):
    """Returns transformers' model of a family, with random weights, in evaluation."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "bert":
        config = transformers.BertConfig(
            vocab_size=29,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=20,
            max_position_embeddings=9,
            num_labels=3,
            initializer_range=0.3,
        )
        return transformers.BertForSequenceClassification(config).eval()
    config = transformers.GPT2Config(
        vocab_size=29,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=9,
        num_labels=3,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    kind = "GPT2LMHeadModel" if name == "gpt2" else "GPT2ForSequenceClassification"
    return getattr(transformers, kind)(config).eval()


def ours(name, network):
    """Returns our parameters of transformers' model."""
    tensors = {k: v.detach().numpy().copy() for k, v in network.state_dict().items()}
    tensors.pop("lm_head.weight", None)
    weights = convert.to_weights(tensors, MODELS[name].layouts()["hf"])
    return jax.tree.map(np.asarray, weights.params)


def their_logits(network):
    import torch

    ids = torch.tensor(TEXT["input_ids"]).long()
    mask = torch.tensor(TEXT["attention_mask"]).long()
    # Behind the text no token counts, and GPT-2's classifier looks for the last.
    with torch.no_grad():
        return network(input_ids=ids * mask, attention_mask=mask).logits.numpy()


def our_logits(name, method, params, delta, constants):
    network = method.network(MODELS[name].pure())
    mask = TEXT["attention_mask"]
    x = {"input_ids": TEXT["input_ids"] * mask, "attention_mask": mask}
    return network.apply(method.merge(params, delta, constants), {}, x).logits


def near(a, b):
    if a.ndim == 3:
        a, b = a[TEXT["attention_mask"]], b[TEXT["attention_mask"]]
    np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(np.abs(b).max())))


def moved(delta, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype("f4"), delta
    )


CASES = [(m, k) for m in MODELS for k in METHODS]
CASES += [("bert", k) for k in TABLES] + [("gpt2-class", "table")]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_peft_opens_what_we_write_and_we_read_it_again(tmp_path, name, method):
    peft = pytest.importorskip("peft")
    method, model = {**METHODS, **TABLES}[method], MODELS[name]
    network = theirs(name)
    params = ours(name, network)
    before = their_logits(network)
    method.check(model.pure(), params)
    constants = method.constants(params)
    delta = moved(method.init(jax.random.key(0), params))
    if "head" in params:
        params["head"] = moved(params["head"], 1)
    hf_peft_write.save_adapter(tmp_path / "a", method, delta, constants, params, model)
    expected = our_logits(name, method, params, delta, constants)
    wrapped = peft.PeftModel.from_pretrained(network, tmp_path / "a").eval()
    got = their_logits(wrapped)
    near(got, np.asarray(expected))
    assert np.abs(got - before).max() > 1e-2

    again, theta, shared, whole = hf_peft_read.read_adapter(tmp_path / "a", model)
    same(theta, delta)
    same(shared, constants)
    assert {p.split("/")[0] for p in whole} <= {"head"}
    for path, x in trees.flatten(params.get("head", {})).items():
        np.testing.assert_array_equal(whole[f"head/{path}"], x)
    assert again.adapted_mask(params) == method.adapted_mask(params)
    near(np.asarray(our_logits(name, again, params, theta, shared)), expected)
    start = dataclasses.replace(method, start=str(tmp_path / "a"))
    same(hf_peft_read.read_start(start, model, params, None)[0].delta, delta)


def same(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    assert a.keys() == b.keys()
    for path, x in a.items():
        np.testing.assert_array_equal(x, b[path])


def their_config(peft, kind, name):
    fused = name != "bert"
    task = {"bert": "SEQ_CLS", "gpt2": "CAUSAL_LM", "gpt2-class": "SEQ_CLS"}[name]
    attention = ["c_attn"] if fused else ["query", "value"]
    out = "mlp.c_proj" if fused else "intermediate.dense"
    common = {"task_type": task, "fan_in_fan_out": fused}
    if kind == "ia3":
        return peft.IA3Config(
            target_modules=[*attention, out],
            feedforward_modules=[out],
            init_ia3_weights=False,
            **common,
        )
    if kind == "vera":
        return peft.VeraConfig(r=5, target_modules=[*attention, out], **common)
    return peft.LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=[*attention, out],
        use_dora=kind == "dora",
        use_rslora=kind == "rslora",
        init_lora_weights=False,
        **common,
    )


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "ia3", "vera"])
@pytest.mark.parametrize("name", MODELS)
def test_we_read_what_peft_writes(tmp_path, name, kind):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    network, model = theirs(name), MODELS[name]
    params = ours(name, network)
    wrapped = peft.get_peft_model(network, their_config(peft, kind, name)).eval()
    with torch.no_grad():
        for x in wrapped.parameters():
            if x.requires_grad:
                x.add_(0.2 * torch.randn_like(x))
    expected = their_logits(wrapped)
    wrapped.save_pretrained(tmp_path / "a")
    method, delta, constants, whole = hf_peft_read.read_adapter(tmp_path / "a", model)
    method.check(model.pure(), params)
    trained = trees.map_with_path(lambda p, x: whole.get(p, x), params)
    got = our_logits(name, method, trained, delta, constants)
    near(np.asarray(got), expected)


IMAGES = rng.normal(size=(2, 8, 8, 3)).astype("f4")
LAYERS = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
SWIN = {
    "image_size": 8,
    "patch_size": 2,
    "window_size": 2,
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [2, 2],
}
# Types whose modules have other names in transformers 5 than in files: its class, its
# configuration, and the name of the last map of a layer.
RENAMED = {
    "ViT": (LAYERS | {"intermediate_size": 12}, "fc2"),
    "Beit": (LAYERS | {"intermediate_size": 12}, "fc2"),
    "Dinov2": (LAYERS | {"use_swiglu_ffn": True}, "down_proj"),
    "Swin": (SWIN, "fc2"),
}


def images_model(name, folder):
    """(transformers' model of images, our model and parameters of its directory)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        num_labels=3, initializer_range=0.3, **RENAMED[name][0]
    )
    network = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    network.save_pretrained(folder)
    model = FromHub(str(folder)).model(outputs=3)
    return network, model, FromHub(str(folder)).read_for(model).params


def image_logits(network):
    import torch

    with torch.no_grad():
        return network(torch.tensor(IMAGES.transpose(0, 3, 1, 2))).logits.numpy()


def merged_logits(model, params, method, delta, constants):
    merged = method.merge(jax.tree.map(np.asarray, params), delta, constants)
    return np.asarray(jax.jit(model.pure().apply)(merged, {}, IMAGES).logits)


@pytest.mark.parametrize("name", RENAMED)
def test_adapters_of_images_open_by_the_names_of_transformers_5(tmp_path, name):
    peft = pytest.importorskip("peft")
    network, model, params = images_model(name, tmp_path / "base")
    modules = dict(network.named_modules())
    if not any(module.endswith("attention.q_proj") for module in modules):
        pytest.skip("an older transformers, whose modules are named as in files")
    before = image_logits(network)
    select = r"(layer_\d+|stage\d/block\d/windows)/attention/.*|.*/mlp/out"
    method = LoRA(rank=2, select=select)
    delta = moved(method.init(jax.random.key(0), params))
    folder = tmp_path / "a"
    hf_peft_write.save_adapter(folder, method, delta, {}, params, model)
    expected = merged_logits(model, params, method, delta, {})
    assert np.abs(expected - before).max() > 1e-2
    wrapped = peft.PeftModel.from_pretrained(network, folder).eval()
    np.testing.assert_allclose(image_logits(wrapped), expected, atol=2e-5)
    again = hf_peft_read.read_adapter(folder, model)
    same(again.delta, delta)
    assert again.method.adapted_mask(params) == method.adapted_mask(params)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("name", RENAMED)
def test_adapters_of_images_that_peft_writes_are_read(tmp_path, name, kind):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    network, model, params = images_model(name, tmp_path / "base")
    last = RENAMED[name][1]
    modules = {module.rpartition(".")[2] for module, _ in network.named_modules()}
    if not {"q_proj", last} <= modules:
        pytest.skip("an older transformers, whose modules are named as in files")
    targets = ["q_proj", "o_proj", last]
    if kind == "lora":
        config = peft.LoraConfig(
            r=2,
            target_modules=targets,
            init_lora_weights="orthogonal",
            modules_to_save=["classifier"],
        )
    else:
        config = peft.IA3Config(target_modules=targets, feedforward_modules=[last])
    wrapped = peft.get_peft_model(network, config).eval()
    with torch.no_grad():
        for x in wrapped.parameters():
            if x.requires_grad:
                x.add_(0.2 * torch.randn_like(x))
    expected = image_logits(wrapped)
    wrapped.save_pretrained(tmp_path / "a")
    method, delta, constants, whole = hf_peft_read.read_adapter(tmp_path / "a", model)
    trained = trees.map_with_path(lambda p, x: whole.get(p, x), params)
    got = merged_logits(model, trained, method, delta, constants)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    lost = tmp_path / "a" / hf_peft_layout.WEIGHTS
    tensors = {k: np.asarray(x) for k, x in tensor_files.read(lost).tensors.items()}
    rest = {k: x for k, x in tensors.items() if "o_proj" not in k}
    tensor_files.write(lost, rest)
    with pytest.raises(UserError, match=r"targets .* has no tensors of it"):
        hf_peft_read.read_adapter(tmp_path / "a", model)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["wte"]},
        {"target_modules": ["c_attn"], "modules_to_save": ["wte"]},
    ],
)
def test_a_changed_table_of_a_tied_head_is_refused(tmp_path, changes):
    """In PEFT the head keeps the base's table; ours has one table for both."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, fan_in_fan_out=True, **changes)
    wrapped = peft.get_peft_model(theirs("gpt2"), config)
    wrapped.save_pretrained(tmp_path / "a")
    says = r"a' changes 'embeddings/token/embedding', the table of a tied head"
    with pytest.raises(UserError, match=says):
        hf_peft_read.read_adapter(tmp_path / "a", MODELS["gpt2"])
    # a classifier of the same network reads no table in its head
    hf_peft_read.read_adapter(tmp_path / "a", MODELS["gpt2-class"])


def test_kernels_of_convolutions_turn(tmp_path):
    torch = pytest.importorskip("torch")
    model = ResNetImageNet(outputs=3, sizes=(1, 1, 1, 1), bottleneck=False, width=4)
    x = rng.normal(size=(2, 16, 16, 3)).astype("f4")
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)[0]
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype("f4"), shapes)
    method = LoRA(rank=2, alpha=3.0, select="stage2", dora=True)
    delta = moved(method.init(jax.random.key(0), params))
    hf_peft_write.save_adapter(tmp_path / "a", method, delta, {}, params, model)
    merged = trees.flatten(method.merge(params, delta, {}))
    tensors = tensor_files.read(tmp_path / "a" / hf_peft_layout.WEIGHTS).tensors
    rules = {r.path: r.source for r in model.layouts()["hf"].rules}
    path = next(p for p in trees.flatten(method.targets(params)) if "conv2" in p)
    name = "base_model.model." + rules[path].removesuffix(".weight")
    a, b, m = (
        torch.tensor(np.asarray(tensors[f"{name}.{part}"]))
        for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    )
    image = torch.randn(1, a.shape[1], 5, 5)
    kernel = torch.tensor(trees.flatten(params)[path]).permute(3, 2, 0, 1)
    with torch.no_grad():
        both = torch.nn.functional.conv2d(image, kernel, padding=1)
        update = torch.nn.functional.conv2d(image, a, padding=1)
        both += 1.5 * torch.nn.functional.conv2d(update, b)
        v = kernel + 1.5 * torch.einsum("rihw,or->oihw", a, b[:, :, 0, 0])
        both *= m / v.flatten(1).norm(dim=1)[None, :, None, None]
        ours = torch.tensor(np.asarray(merged[path])).permute(3, 2, 0, 1)
        got = torch.nn.functional.conv2d(image, ours, padding=1)
    np.testing.assert_allclose(got, both, atol=1e-4)
    same(hf_peft_read.read_adapter(tmp_path / "a", model)[1], delta)


def test_an_adapter_of_the_first_layer_alone_is_read(tmp_path):
    peft = pytest.importorskip("peft")
    targets = {"target_modules": ["query"], "layers_to_transform": 0}
    wrapped = peft.get_peft_model(theirs("bert"), peft.LoraConfig(r=2, **targets))
    wrapped.save_pretrained(tmp_path / "a")
    adapter = hf_peft_read.read_adapter(tmp_path / "a", MODELS["bert"])
    assert list(adapter.delta) == ["layer_0"]


@pytest.fixture
def folder(tmp_path):
    """(folder of a saved LoRA, its parameters)."""
    model, method = MODELS["bert"], METHODS["lora"]
    params = model.pure().init(jax.random.key(0), TEXT)[0]
    delta = method.init(jax.random.key(0), params)
    hf_peft_write.save_adapter(tmp_path / "a", method, delta, {}, params, model)
    return tmp_path / "a", params


def rewrite(folder, **changes):
    path = pathlib.Path(folder) / hf_peft_layout.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "LORAA"}, r"'LORAA' is unknown; did you mean 'LORA'"),
        ({"bias": "lora_only"}, r"bias='lora_only' means that biases were trained"),
        ({"rank_pattern": {"query": 3}}, r"rank_pattern=\{'query': 3\} is not"),
        ({"init_lora_weights": "pissa"}, r"'pissa' changes the base's"),
        ({"target_modules": ["query", "key"]}, r"targets 'bert.*key', and .* no tens"),
        ({"use_dora": True}, r"'lora_magnitude_vector' of .*query' is missing"),
    ],
)
def test_configurations_that_are_refused(folder, changes, says):
    rewrite(folder[0], **changes)
    with pytest.raises(UserError, match=says):
        hf_peft_read.read_adapter(folder[0], MODELS["bert"])


def test_the_pickle_of_an_older_peft_is_read(folder):
    torch = pytest.importorskip("torch")
    place, _ = folder
    model, file = MODELS["bert"], place / hf_peft_layout.WEIGHTS
    expected = hf_peft_read.read_adapter(place, model).delta
    tensors = tensor_files.read(file).tensors
    tensors = {k: torch.tensor(np.asarray(x)) for k, x in tensors.items()}
    file.unlink()
    torch.save(tensors, place / "adapter_model.bin")
    same(hf_peft_read.read_adapter(place, model).delta, expected)
    start = dataclasses.replace(METHODS["lora"], start=str(place))
    same(hf_peft_read.read_start(start, model, folder[1], None)[0].delta, expected)


def test_tensors_that_are_refused(folder):
    path = folder[0] / hf_peft_layout.WEIGHTS
    tensors = dict(tensor_files.read(path).tensors)
    tensors = {k: np.asarray(v) for k, v in tensors.items()}
    strange = {k.replace("layer.1", "layer.7"): v for k, v in tensors.items()}
    tensor_files.write(path, strange)
    with pytest.raises(UserError, match=r"Bert has no place for 'encoder.layer.7"):
        hf_peft_read.read_adapter(folder[0], MODELS["bert"])
    lost = next(k for k in tensors if "lora_B" in k)
    tensor_files.write(path, {k: v for k, v in tensors.items() if k != lost})
    with pytest.raises(UserError, match=r"tensor 'lora_B.weight' of .* is missing"):
        hf_peft_read.read_adapter(folder[0], MODELS["bert"])
    tensor_files.write(path, {"base_model.model.classifier.bias": np.zeros(3, "f4")})
    with pytest.raises(UserError, match="holds no adapter"):
        hf_peft_read.read_adapter(folder[0], MODELS["bert"])
    with pytest.raises(UserError, match=r"no folder of PEFT"):
        hf_peft_read.read_adapter(folder[0].parent, MODELS["bert"])


def test_what_is_not_written(folder, tmp_path):
    place, params = folder
    model, method = MODELS["bert"], METHODS["lora"]
    delta = method.init(jax.random.key(0), params)
    with pytest.raises(UserError, match="exists already"):
        hf_peft_write.save_adapter(place, method, delta, {}, params, model)
    new, bottle = tmp_path / "b", Adapters(width=2)
    with pytest.raises(UserError, match=r"can't hold Adapters"):
        hf_peft_write.save_adapter(new, bottle, {}, {}, params, model)
    with pytest.raises(UserError, match=r"MLP has no layout"):
        hf_peft_write.save_adapter(new, method, delta, {}, params, MLP(outputs=3))
    whole = LoRA(rank=1, select="head/dense")
    with pytest.raises(UserError, match=r"'head' is adapted .* and to be saved"):
        hf_peft_write.save_adapter(new, whole, {}, {}, params, model)
    with pytest.raises(UserError, match=r"saved='haed' is no stage.*'head'"):
        hf_peft_write.save_adapter(
            new, method, delta, {}, params, model, saved=("haed",)
        )
    shapes = jax.eval_shape(MODELS["gpt2"].pure().init, jax.random.key(0), TEXT)[0]
    tied = jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)
    with pytest.raises(UserError, match=r"table of a tied head"):
        hf_peft_write.save_adapter(new, TABLES["table"], {}, {}, tied, MODELS["gpt2"])
    attention = METHODS["lora"]
    delta = attention.init(jax.random.key(0), tied)
    whole = {"saved": ("embeddings",)}
    with pytest.raises(UserError, match=r"saved= changes .* table of a tied head"):
        hf_peft_write.save_adapter(
            new, attention, delta, {}, tied, MODELS["gpt2"], **whole
        )
    masked = MODELS["bert"].clone(predict="mask")
    shapes = jax.eval_shape(masked.pure().init, jax.random.key(0), TEXT)[0]
    untuned = jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)
    delta = attention.init(jax.random.key(0), untuned)
    with pytest.raises(UserError, match=r"'cls.predictions' has the table of the emb"):
        hf_peft_write.save_adapter(new, attention, delta, {}, untuned, masked)
    joined = DINOv2(outputs=3, size=8, patch=4, width=8, layers=1, heads=2, gated=True)
    shapes = jax.eval_shape(joined.pure().init, jax.random.key(0), IMAGES)[0]
    gate = LoRA(rank=1, select=r".*/mlp/gate")
    with pytest.raises(UserError, match=r"has no module for 'layer_0/mlp/gate/kernel'"):
        hf_peft_write.save_adapter(new, gate, {}, {}, shapes, joined)
    assert not new.exists()


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (VeRA(), r"holds LoRA; peft is VeRA"),
        (LoRA(rank=4, alpha=5.0), r"has rank=2; peft.rank=4"),
        (
            LoRA(rank=2, alpha=5.0, select="layer_0/mlp"),
            r"\(16, 2\) for .*'layer_0/mlp' gives n",
        ),
    ],
)
def test_a_start_that_does_not_fit(folder, method, says):
    place, params = folder
    method = dataclasses.replace(method, start=str(place))
    with pytest.raises(UserError, match=says):
        hf_peft_read.read_start(
            method, MODELS["bert"], jax.tree.map(jnp.asarray, params), None
        )
