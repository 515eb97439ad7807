"""Layers split over devices: the numbers of one device, and Megatron's all-reduces."""

import jax
import numpy as np
import pytest
import virtual_devices
from jax.sharding import PartitionSpec

from jaxtl.core import sharding
from jaxtl.core.errors import UserError
from jaxtl.core.tensor_rules import TensorRules
from jaxtl.models import GPT2, MLP, GPTNeoX, Llama, ViT

SMALL = {"vocab": 32, "width": 16, "layers": 2, "heads": 4, "context": 8}

# In one process with four virtual devices; results come back as JSON.
FOUR = """
import dataclasses, json, pathlib, re, sys
import jax, numpy as np
import jaxtl as tl
from jaxtl.training import checkpointing

SMALL = dict(vocab=32, width=16, layers=2, heads=4, context=8)
rng = np.random.default_rng(0)
texts = rng.integers(1, 32, (40, 8)).astype(np.int32)
real = np.arange(8) < 5 + np.arange(40)[:, None] % 4
texts = {"input_ids": texts, "attention_mask": real}
images = rng.normal(size=(40, 8, 8, 3)).astype(np.float32)

@dataclasses.dataclass(frozen=True)
class Drawn(tl.data.Data):
    kind: str = ""

    def read(self):
        x = images if self.kind == "vit" else texts
        return tl.data.Table(x=x, y=np.arange(40) % 4, class_names=tuple("abcd"))

MODELS = {
    "llama": tl.models.Llama(hidden=32, kv_heads=2, predict="class", **SMALL),
    "vit": tl.models.ViT(size=8, patch=4, width=16, layers=2, heads=4, hidden=32),
}

MODELS["lora"] = MODELS["llama"]
PEFT = {"lora": tl.peft.LoRA(rank=2, select=".*/(query|out|in)/kernel")}

def experiment(name, **changes):
    fields = dict(
        model=MODELS[name], peft=PEFT.get(name), data=Drawn(kind=name),
        steps=3, batch=8, evaluate_batch=8,
        optim=tl.optim.AdamW(lr=0.01, weight_decay=0.1, clip=1.0),
    )
    return tl.Experiment(**{**fields, **changes})

def leaves(tree):
    return {k: np.asarray(v).tolist() for k, v in tl.tree.flatten(tree).items()}

def shards(tree):
    flat = tl.tree.flatten(tree)
    return {k: list(v.sharding.shard_shape(v.shape)) for k, v in flat.items()}

MESHES = {
    "one": {},
    "tensor": {"devices": 2, "tensor_shards": 2},
    "both": {"devices": 4, "param_shards": 2, "tensor_shards": 2},
}
out, folder = {}, pathlib.Path(sys.argv[1])
for name in MODELS:
    for mesh, changes in MESHES.items():
        run = tl.setup(experiment(name, **changes))
        losses = [float(r["loss"]) for r in run.advance(3)]
        out[f"{name} {mesh}"] = {
            "losses": losses, "params": leaves(run.params),
            "val": tl.evaluate(run, "val"), "shards": shards(run.params),
            "peft": leaves(run.state.trainable["peft"]),
            "moments": shards(run.state.opt),
        }

exp = experiment("llama", **MESHES["both"])
run = tl.setup(exp, folder / "run")
for _ in run.advance(2):
    pass
checkpointing.save(run)
stored = leaves(run.params)
for mesh, changes in MESHES.items():
    placement = {"devices": 1, "param_shards": 1, "tensor_shards": 1, **changes}
    run = tl.resume(folder / "run", exp, placement=placement)
    same = leaves(run.params) == stored
    for _ in run.advance(1):
        pass
    out[f"resumed {mesh}"] = {
        "same": same, "params": leaves(run.params), "shards": shards(run.params)
    }

odd = tl.models.Llama(hidden=32, predict="class", **SMALL | dict(vocab=33, layers=1))
run = tl.setup(experiment("llama", model=odd, **MESHES["tensor"]))
out["note"] = run.notes["tensor_shards"]

quantized = dataclasses.replace(PEFT["lora"], base="nf4")
try:
    tl.setup(experiment("llama", peft=quantized, **MESHES["tensor"]))
except tl.UserError as error:
    out["quantized"] = str(error)

# Megatron: an activation is summed over the devices twice per layer.
from jaxtl.core import sharding
run = tl.setup(experiment("llama", **MESHES["tensor"]))
batch = {k: jax.numpy.asarray(v[:8]) for k, v in texts.items()}
apply = run.program.network.apply

def total(params):
    return apply(params, {}, batch).logits.sum()

for name, function in {"forward": total, "both": jax.grad(total)}.items():
    text = jax.jit(function).lower(run.params).compile().as_text()
    sums = re.findall(r"= (.*?) all-reduce(?:-start)?\\(", text)
    out[f"sums {name}"] = sum(s.count("f32[8,8,16]") for s in sums)
    others = "all-gather|all-to-all|collective-permute|reduce-scatter"
    out[f"others {name}"] = len(re.findall(rf" ({others})(-start)?\\(", text))
(folder / "out.json").write_text(json.dumps(out))
"""


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    # Threads of XLA: of two, one device's sums could hold both while they wait for the
    # other device.
    folder = tmp_path_factory.mktemp("meshes")
    return virtual_devices.run(FOUR, 4, folder, NPROC="16")


@pytest.mark.parametrize("mesh", ["tensor", "both"])
@pytest.mark.parametrize("name", ["llama", "vit", "lora"])
def test_split_layers_compute_what_one_device_does(meshes, name, mesh):
    one = meshes[f"{name} one"]
    split = meshes[f"{name} {mesh}"]
    assert split["losses"] == pytest.approx(one["losses"], rel=1e-4)
    virtual_devices.assert_near(split["params"], one["params"])
    virtual_devices.assert_near(split["val"], one["val"])


def test_adapters_of_split_layers_are_trained_as_on_one_device(meshes):
    """The base is split, what LoRA adds to it is copied and starts from zero."""
    expected = meshes["lora one"]["peft"]
    assert any(np.any(v) for k, v in expected.items() if k.endswith("/b"))
    for mesh in ("tensor", "both"):
        assert meshes[f"lora {mesh}"]["shards"] == meshes[f"llama {mesh}"]["shards"]
        virtual_devices.assert_near(meshes[f"lora {mesh}"]["peft"], expected)


def test_heads_hidden_features_and_vocabulary_are_split(meshes):
    """Two parts by columns, then by rows; the optimizer's moments like them."""
    shards = meshes["llama tensor"]["shards"]
    expected = {
        "embeddings/token/embedding": [16, 16],
        "layer_1/attention/query/kernel": [16, 8],
        "layer_1/attention/key/kernel": [16, 4],
        "layer_1/attention/out/kernel": [8, 16],
        "layer_1/mlp/gate/kernel": [16, 16],
        "layer_1/mlp/out/kernel": [16, 16],
        "layer_1/mlp_norm/scale": [16],
    }
    assert {k: shards[k] for k in expected} == expected
    moments = meshes["llama tensor"]["moments"]
    for path, shard in shards.items():
        same = [v for k, v in moments.items() if k.endswith(f"model/{path}")]
        assert same == [shard, shard]


def test_split_layers_are_also_split_by_param_shards(meshes):
    """A quarter of every matrix on each of four devices, half of every vector."""
    shards = meshes["llama both"]["shards"]
    expected = {
        "embeddings/token/embedding": [16, 8],
        "layer_1/attention/query/kernel": [8, 8],
        "layer_1/attention/out/kernel": [8, 8],
        "layer_1/mlp/out/kernel": [16, 8],
        "layer_1/mlp_norm/scale": [8],
    }
    assert {k: shards[k] for k in expected} == expected
    moments = meshes["llama both"]["moments"]
    for path, shard in shards.items():
        same = [v for k, v in moments.items() if k.endswith(f"model/{path}")]
        assert same == [shard, shard]


def test_param_shards_split_another_axis():
    spec = sharding.leaf_spec
    assert spec((16, 32), 2) == PartitionSpec(None, "param")
    assert spec((16, 32), 2, 1) == PartitionSpec("param", "tensor")
    assert spec((16, 32), 1, 0) == PartitionSpec("tensor", None)
    assert spec((15, 32), 2, 1) == PartitionSpec(None, "tensor")


@pytest.mark.parametrize("mesh", ["one", "tensor", "both"])
def test_a_checkpoint_of_four_devices_goes_on_with_others(meshes, mesh):
    resumed = meshes[f"resumed {mesh}"]
    assert resumed["same"]
    assert resumed["shards"] == meshes[f"llama {mesh}"]["shards"]
    virtual_devices.assert_near(resumed["params"], meshes["llama one"]["params"])


def test_a_vocabulary_that_is_not_divided_is_told(meshes):
    path = "embeddings/token/embedding (33, 16)"
    assert meshes["note"] == f"copied to all devices, as 2 does not divide them: {path}"


def test_a_quantized_base_is_refused(meshes):
    text = "tensor_shards=2: the layers of a quantized base (peft.base) can't be split"
    assert meshes["quantized"].startswith(text)


def test_devices_add_up_twice_per_layer_and_pass(meshes):
    """The table's look-up, attention and feed-forward part of two layers: 1 + 2 · 2.

    In the backward pass XLA's CPU backend adds up the gradients behind query, key,
    value, gate and in one by one, 5 a layer; Megatron adds them on each device first.
    """
    assert meshes["sums forward"] == 1 + 2 * 2
    assert meshes["sums both"] == 1 + 2 * 2 + 2 * 5
    assert meshes["others forward"] == meshes["others both"] == 0


def test_what_cannot_be_split_is_told(digits):
    there = {"devices": 1, "tensor_shards": 2}
    with pytest.raises(UserError, match="tensor_shards=2 must divide devices=1"):
        sharding.mesh(1, tensor=2)
    import jaxtl as tl

    with pytest.raises(UserError, match="tensor_shards=2 must divide devices=1"):
        tl.setup(digits(**there))
    rules = Llama(hidden=32, kv_heads=2, **SMALL).tensor_rules()
    rules.check(2, "Llama")
    with pytest.raises(UserError, match="tensor_shards=4 doesn't divide kv_heads=2 of"):
        rules.check(4, "Llama")
    with pytest.raises(UserError, match="hidden=30 of ViT; the nearest divisor is 3"):
        ViT(hidden=30, heads=4).tensor_rules().check(4, "ViT")
    assert MLP(widths=(4,)).tensor_rules() is None


def test_devices_that_share_a_layer_are_of_one_process(monkeypatch):
    monkeypatch.setattr(sharding.jax, "process_count", lambda: 2)
    monkeypatch.setattr(sharding, "_even_share", lambda *_: jax.devices() * 2)
    message = "tensor_shards=2 must divide the 1 devices of each of 2 processes"
    with pytest.raises(UserError, match=message):
        sharding.mesh(2, tensor=2)


def test_leaves_that_cannot_be_divided_are_copied():
    rules = TensorRules((("a/kernel", 1), ("b/kernel", 0)))
    leaves = [("a/kernel", (2, 3)), ("b/kernel", (4, 3)), ("c/kernel", (3, 3))]
    assert rules.copied(leaves, 2) == ["a/kernel"]


def test_leaves_are_matched_by_the_end_of_their_path():
    rules = TensorRules((("a/kernel", 1),))
    assert rules.axis("a/kernel", (3, 4), 2) == 1
    assert rules.axis("opt/0/mu/a/kernel", (3, 4), 2) == 1
    for path, shape in {
        "ba/kernel": (3, 4),
        "a/kernel/x": (3, 4),
        "a/kernel": (4, 3),
        "mu/a/kernel": (4,),
    }.items():
        assert rules.axis(path, shape, 2) is None


def test_joint_projections_are_split_where_equal_parts_are_whole_heads():
    path, shape = "layer_0/attention/qkv/kernel", (16, 48)
    by_heads = GPTNeoX(hidden=32, **SMALL).tensor_rules()
    one_behind_another = GPT2(hidden=32, **SMALL).tensor_rules()
    assert by_heads.axis(path, shape, 2) == 1
    assert one_behind_another.axis(path, shape, 2) is None
