"""Listing families and files, and converting files, on the real ones too."""

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from jaxtl.cli import main
from jaxtl.core.errors import UserError
from jaxtl.pretrained import describe, tensor_files, write_file

# Numbers of parameters as their papers or makers publish them.
PUBLISHED = {
    "ResNet-20 (CIFAR)": 269_722,
    "ResNet-56 (CIFAR)": 853_018,
    "ResNet-50": 25_557_032,
    "VGG-16": 138_357_544,
    "MobileNet v1 ×0.25": 475_544
    - 2 * 2_736,  # its file counts 2,736 BN channels twice
    "MobileNet v2": 3_504_872,
    "EfficientNet-B0": 5_288_548,
    "RegNetY-4GF": 20_646_656,
    "ConvNeXt-T": 28_589_128,
    "ViT-B/16": 86_567_656,
    "GPT-2": 124_439_808,
    "GPT-2 XL": 1_557_611_200,
    "Llama 2 7B": 6_738_415_616,
}


def test_published_sizes():
    rows = {row.name: row for row in describe.model_sizes()}
    assert {name: rows[name].parameters for name in PUBLISHED} == PUBLISHED
    # The encoder with its pooler has 109,482,240; the head adds 2 · 768 + 2.
    assert rows["BERT base"].parameters == 109_482_240 + 2 * 768 + 2
    assert rows["ResNet-50"].model == "tl.models.ResNetImageNet()"
    assert rows["ResNet-18"].model == "tl.models.ResNetImageNet(depth=18)"
    assert all(row.layouts for row in rows.values())


@pytest.mark.parametrize("size", describe.model_sizes(), ids=lambda size: size.name)
def test_the_listed_number_of_parameters_is_the_networks(size):
    assert describe.count_parameters(size.name) == size.parameters


@pytest.mark.parametrize(
    ("name", "count", "model", "layout"),
    [
        (
            "resnet20-12fca82f.safetensors",
            97,
            "tl.models.ResNet(outputs=10)",
            "akamaster",
        ),
        ("resnet56-4bfd9763.th", 277, "tl.models.ResNet(outputs=10, depth=56)", None),
        (
            "mobilenet_v1_0.25_224_imagenet.safetensors",
            137,
            "tl.models.MobileNet(outputs=1000, alpha=0.25)",
            "keras",
        ),
        ("stories260k_llama.safetensors", 47, None, "llama2.c"),
    ],
)
def test_every_tensor_of_the_real_files_has_its_place(
    data_dir, name, count, model, layout
):
    if name.endswith(".th"):
        pytest.importorskip("torch")
    report = describe.inspect_file(str(data_dir / "pretrained" / name))
    assert len(report.tensors) == count
    assert all(line.path for line in report.tensors)
    assert report.model == model or model is None
    assert report.layout == layout or layout is None


def test_a_file_of_no_known_family_is_listed_all_the_same(data_dir):
    report = describe.inspect_file(
        str(data_dir / "pretrained/glove_twitter_25d_12k.npz")
    )
    assert report.model == report.layout == ""
    assert {line.name: line.shape for line in report.tensors} == {
        "words": (11_925,),
        "vectors": (11_925, 25),
    }


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
def test_torch_files_convert_to_the_bit(tmp_path, data_dir, ending):
    pytest.importorskip("torch")
    source = data_dir / "pretrained" / "resnet20-12fca82f.th"
    out = tmp_path / f"out.{ending}"
    report = describe.convert_file(str(source), str(out))
    assert report.model == "tl.models.ResNet(outputs=10)"
    old, new = tensor_files.read(source), tensor_files.read(out)
    assert set(old.tensors) == set(new.tensors)
    for name, value in old.tensors.items():
        assert np.asarray(new.tensors[name]).tobytes() == value.tobytes()


def test_conversions_that_cannot_be(tmp_path):
    half = np.zeros(3, ml_dtypes.bfloat16)
    tensor_files.write(tmp_path / "a.safetensors", {"x": half})
    source = str(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="npz has no bfloat16"):
        describe.convert_file(source, str(tmp_path / "a.npz"))
    with pytest.raises(UserError, match=r"should end in \.safetensors or \.npz"):
        describe.convert_file(source, str(tmp_path / "a.pt"))
    with pytest.raises(UserError, match="exists already"):
        describe.convert_file(source, source)
    with pytest.raises(UserError, match="there is no directory"):
        describe.convert_file(source, str(tmp_path / "no" / "a.npz"))


def test_an_array_of_words_can_t_become_safetensors(tmp_path):
    np.savez(tmp_path / "a.npz", words=np.array(["a", "b"]), vectors=np.ones((2, 3)))
    with pytest.raises(UserError, match=r"'words' of dtype <U1 .* holds numbers only"):
        tensor_files.write(tmp_path / "a.safetensors", np.load(tmp_path / "a.npz"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def _as(kind, path, tree):
    """Writes {"a": {"x": array}, …} as a file of a kind; its tensors' separator."""
    flat = {f"{group}.{name}": x for group, d in tree.items() for name, x in d.items()}
    if kind == "safetensors":
        tensor_files.write(path / "model.safetensors", flat)
    elif kind == "shards":  # without an index
        for i, (name, x) in enumerate(flat.items()):
            tensor_files.write(path / f"part-{i}.safetensors", {name: x})
    elif kind == "npz":
        np.savez(path / "weights.npz", **flat)
    elif kind == "msgpack":
        (path / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
        return "/"
    else:
        torch = pytest.importorskip("torch", reason="writes torch files")
        state = {n: {k: torch.tensor(x) for k, x in d.items()} for n, d in tree.items()}
        state = {"epoch": 3, "nets": [state]} if kind == "nested" else state
        torch.save(state, path / "last.ckpt")
        return "nets/0/" if kind == "nested" else "/"
    return "."


@pytest.mark.parametrize(
    "kind", ["safetensors", "shards", "npz", "msgpack", "torch", "nested"]
)
@pytest.mark.parametrize("whole", [False, True], ids=["file", "directory"])
def test_the_tensors_of_any_file_or_directory_are_listed(tmp_path, kind, whole):
    tree = {
        "enc": {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float16)},
        "head": {"w": np.ones((2, 5), np.int8)},
    }
    mark = _as(kind, tmp_path, tree)
    files = sorted(tmp_path.iterdir())
    path = tmp_path if whole or kind == "shards" else files[0]
    report = describe.inspect_file(str(path))
    start, mark = ("nets/0/", "/") if mark == "nets/0/" else ("", mark)
    assert {(t.name, t.shape, t.dtype, t.nbytes) for t in report.tensors} == {
        (f"{start}enc{mark}w", (3, 2), "float32", 24),
        (f"{start}enc{mark}b", (2,), "float16", 4),
        (f"{start}head{mark}w", (2, 5), "int8", 10),
    }
    assert report.model == ""
    groups = {
        g.name: (g.tensors, g.numbers, g.nbytes)
        for g in describe.grouped(report.tensors)
    }
    assert groups == {f"{start}enc": (2, 8, 28), f"{start}head": (1, 10, 10)}


def test_a_likely_name_alone_is_no_family(tmp_path):
    """A ResNeXt has the names of a ResNet and other shapes; a stem of three, others."""
    model = describe.ResNetImageNet(depth=18, outputs=3, width=4)
    shapes = jax.eval_shape(
        model.pure().init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32)
    )
    params, stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    write_file(tmp_path / "plain.safetensors", model, params, stats)
    report = describe.inspect_file(str(tmp_path / "plain.safetensors"))
    assert report.model.startswith("tl.models.ResNetImageNet(")
    tensors = dict(tensor_files.read(tmp_path / "plain.safetensors").tensors)
    grouped_conv = {**tensors, "layer1.0.conv2.weight": np.ones((4, 2, 3, 3))}
    deep_stem = {
        n.replace("conv1.w", "conv1.0.w", n == "conv1.weight"): x
        for n, x in tensors.items()
    }
    more = {**tensors, "layer1.0.se.fc.weight": np.ones((4, 4))}
    for i, other in enumerate((grouped_conv, deep_stem, more)):
        tensor_files.write(tmp_path / f"{i}.safetensors", other)
        report = describe.inspect_file(str(tmp_path / f"{i}.safetensors"))
        assert report.model == report.layout == ""
        assert report.note.startswith("of no family")
        assert len(report.tensors) == len(other)


def test_a_directory_of_an_unknown_type_is_listed(tmp_path, capsys):
    tensor_files.write(tmp_path / "model.safetensors", {"a.w": np.ones((2, 2))})
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert main.main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "config.json says 'mamba', of which jaxtl builds no model" in out
    assert "1 tensors, 4 numbers, 32 bytes" in out


def test_damaged_files_and_other_kinds_are_refused(tmp_path):
    for name, content, message in (
        ("a.msgpack", b"\x85\xa6pa", "no complete msgpack"),
        ("a.txt", b"hello", "no file of tensors"),
        ("a.npy", b"\x93NUMPY\x01", "no complete npy"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            describe.inspect_file(str(tmp_path / name))
