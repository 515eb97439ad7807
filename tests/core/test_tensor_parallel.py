"""Layers split over devices: the numbers of one device, and Megatron's all-reduces."""

import jax
import pytest
import virtual_devices
from jax.sharding import PartitionSpec

from jaxtl.core import sharding
from jaxtl.core.errors import UserError
from jaxtl.core.tensor_rules import TensorRules
from jaxtl.models import GPT2, MLP, GPTNeoX, Llama, ViT

SMALL = {"vocab": 32, "width": 16, "layers": 2, "heads": 4, "context": 8}

# In one process with two virtual devices; results come back as JSON.
TWO = """
import dataclasses, json, pathlib, re, sys
import jax, numpy as np
import jaxtl as tl

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

def experiment(name, **changes):
    fields = dict(
        model=MODELS[name], data=Drawn(kind=name), steps=3, batch=8, evaluate_batch=8,
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
}
out, folder = {}, pathlib.Path(sys.argv[1])
for name in MODELS:
    for mesh, changes in MESHES.items():
        run = tl.setup(experiment(name, **changes))
        losses = [float(r["loss"]) for r in run.advance(3)]
        out[f"{name} {mesh}"] = {
            "losses": losses, "params": leaves(run.params),
            "val": tl.evaluate(run, "val"), "shards": shards(run.params),
            "moments": shards(run.state.opt),
        }

exp = experiment("llama", save_every=2, steps=2, **MESHES["tensor"])
tl.train(tl.setup(exp, folder / "run"))
run = tl.resume(folder / "run", exp)
stored = leaves(run.params)
for mesh, changes in MESHES.items():
    placement = {"devices": 1, "tensor_shards": 1, **changes}
    run = tl.resume(folder / "run", exp, placement=placement)
    same = leaves(run.params) == stored
    out[f"resumed {mesh}"] = {"same": same, "shards": shards(run.params)}

odd = tl.models.Llama(hidden=32, predict="class", **SMALL | dict(vocab=33, layers=1))
run = tl.setup(experiment("llama", model=odd, **MESHES["tensor"]))
out["note"] = run.notes["tensor_shards"]

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
def two(tmp_path_factory):
    # Threads of XLA: of two, one device's sums could hold both while they wait for the
    # other device.
    folder = tmp_path_factory.mktemp("two")
    return virtual_devices.run(TWO, 2, folder, NPROC="16")


@pytest.mark.parametrize("name", ["llama", "vit"])
def test_split_layers_compute_what_one_device_does(two, name):
    one = two[f"{name} one"]
    split = two[f"{name} tensor"]
    assert split["losses"] == pytest.approx(one["losses"], rel=1e-4)
    virtual_devices.assert_near(split["params"], one["params"])
    virtual_devices.assert_near(split["val"], one["val"])


def test_heads_hidden_features_and_vocabulary_are_split(two):
    """Two parts by columns, then by rows; the optimizer's moments like them."""
    shards = two["llama tensor"]["shards"]
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
    moments = two["llama tensor"]["moments"]
    for path, shard in shards.items():
        same = [v for k, v in moments.items() if k.endswith(f"model/{path}")]
        assert same == [shard, shard]


def test_param_shards_split_another_axis():
    spec = sharding.leaf_spec
    assert spec((16, 32), 2) == PartitionSpec(None, "param")
    assert spec((16, 32), 2, 1) == PartitionSpec("param", "tensor")
    assert spec((16, 32), 1, 0) == PartitionSpec("tensor", None)
    assert spec((15, 32), 2, 1) == PartitionSpec(None, "tensor")


def test_a_checkpoint_is_read_on_other_meshes(two):
    for mesh in ("one", "tensor"):
        resumed = two[f"resumed {mesh}"]
        assert resumed["same"]
        assert resumed["shards"] == two[f"llama {mesh}"]["shards"]


def test_a_vocabulary_that_is_not_divided_is_told(two):
    path = "embeddings/token/embedding (33, 16)"
    assert two["note"] == f"copied to all devices, as 2 does not divide them: {path}"


def test_devices_add_up_twice_per_layer_and_pass(two):
    """The table's look-up, attention and feed-forward part of two layers: 1 + 2 · 2.

    In the backward pass XLA's CPU backend adds up the gradients behind query, key,
    value, gate and in one by one, 5 a layer; Megatron adds them on each device first.
    """
    assert two["sums forward"] == 1 + 2 * 2
    assert two["sums both"] == 1 + 2 * 2 + 2 * 5
    assert two["others forward"] == two["others both"] == 0


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
