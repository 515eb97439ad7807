"""CIFAR ResNets and MobileNet against real weights and their reference outputs."""

import io
import itertools

import jax
import numpy as np
import pytest

from jaxtl.models.mobilenet import MobileNet
from jaxtl.models.resnet_cifar import ResNet
from jaxtl.pretrained import convert, tensor_files
from jaxtl.pretrained.match import match

MEAN = np.float32([0.485, 0.456, 0.406])
STD = np.float32([0.229, 0.224, 0.225])


def load(model, path, x):
    """(network, params, stats) with every tensor of the file loaded."""
    file = tensor_files.read(path)
    layout = next(iter(model.layouts().values()))
    network = model.pure()
    params, stats = network.init(jax.random.key(0), x[:1])
    weights = convert.to_weights(file.tensors, layout, file.meta)
    params, stats, _, rows = match(params, stats, weights)
    assert {r.status for r in rows} == {"loaded"}
    tensors = convert.to_tensors(params, stats, layout)
    for name, value in file.tensors.items():
        written = tensors[convert.without_prefix(name, layout)]
        assert written.tobytes() == np.asarray(value).tobytes(), name
    return network, params, stats


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("resnet20-12fca82f.safetensors", 20),
        ("resnet20-12fca82f.th", 20),
        ("resnet56-4bfd9763.safetensors", 56),
        ("resnet56-4bfd9763.th", 56),
    ],
)
def test_cifar_resnets_give_torch_s_logits(name, depth, data_dir):
    if name.endswith(".th"):
        pytest.importorskip("torch")
    reference = np.load(data_dir / "pretrained" / "reference_outputs.npz")
    x = (reference["cifar10_png20"] / np.float32(255) - MEAN) / STD
    network, params, stats = load(
        ResNet(outputs=10, depth=depth), data_dir / "pretrained" / name, x
    )
    expected = reference[f"resnet{depth}_logits"]
    got = network.apply(params, stats, x).logits
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_mobilenet_gives_the_reference_features_and_logits(data_dir):
    reference = np.load(data_dir / "pretrained" / "reference_outputs.npz")
    x = reference["cifar10_png20"][:4].repeat(7, 1).repeat(7, 2) / np.float32(127.5) - 1
    network, params, stats = load(
        MobileNet(outputs=1000, alpha=0.25),
        data_dir / "pretrained" / "mobilenet_v1_0.25_224_imagenet.safetensors",
        x,
    )
    out = network.apply(params, stats, x)
    features = out.features["stage5"].mean((1, 2))
    for got, key in ((features, "feat"), (out.logits, "logits")):
        expected = reference[f"mobilenet_{key}_png4_x7"]
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.data
def test_resnet20_on_the_jpeg_test_images_has_its_known_accuracy(data_dir):
    image = pytest.importorskip("PIL.Image")
    data = np.load(data_dir / "cifar10" / "cifar10_jpeg_test10k.npz")
    blob, offsets = data["jpeg"].tobytes(), data["offsets"]
    x = np.stack(
        [
            np.asarray(image.open(io.BytesIO(blob[a:b])))
            for a, b in itertools.pairwise(offsets)
        ]
    )
    path = data_dir / "pretrained" / "resnet20-12fca82f.safetensors"
    model = ResNet(outputs=10, depth=20)
    network, params, stats = load(model, path, np.zeros((1, 32, 32, 3), np.float32))
    logits = jax.jit(lambda x: network.apply(params, stats, x).logits)
    correct = sum(
        int((logits((part / 255 - MEAN) / STD).argmax(-1) == y).sum())
        for part, y in zip(
            np.split(x.astype(np.float32), 10), np.split(data["label"], 10)
        )
    )
    assert abs(correct / len(x) - 0.8103) <= 0.001
