"""Listing families and files, and converting files, on the real ones too."""

import ml_dtypes
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.pretrained import describe, tensor_files

# Numbers of parameters as their papers or makers publish them.
PUBLISHED = {
    "ResNet-20 (CIFAR)": 269_722,
    "ResNet-56 (CIFAR)": 853_018,
    "ResNet-50": 25_557_032,
    "VGG-16": 138_357_544,
    "MobileNet v1 ×0.25": 475_544
    - 2 * 2_736,  # its file counts 2,736 BN channels twice
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
