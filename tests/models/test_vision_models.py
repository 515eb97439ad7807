"""ViT, ResNet, VGG: against transformers, or torch modules of the published form."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import resnet, vgg, vit
from jaxtl.pretrained import convert, tensor_files
from jaxtl.pretrained.match import match

torch = pytest.importorskip("torch")
nn = torch.nn


def images(size, count=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size, size, 3)).astype(np.float32)


def perturbed(module):
    """Changes the initial parameters and statistics, whose zeros would hide mix-ups."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape) * (p.std() if p.numel() > 1 else 1))
        for name, b in module.named_buffers():
            if b.is_floating_point():
                b.add_(0.3 * torch.rand(b.shape) + 0.1 * name.endswith("var"))
    return module.eval()


def load(model, tensors, layout, x):
    params, stats = model.pure().init(jax.random.key(0), x)
    weights = convert.to_weights(tensors, model.layouts()[layout])
    params, stats, _, rows = match(params, stats, weights)
    assert {r.status for r in rows} <= {"loaded", "skipped"}
    skipped = {r.path for r in rows if r.status == "skipped"}
    assert all(name.endswith("num_batches_tracked") for name in skipped)
    return params, stats


def close(got, expected, tolerance=1e-4):
    expected = np.asarray(expected)
    scale = max(1e-3, float(np.abs(expected).max()))
    np.testing.assert_allclose(np.asarray(got), expected, atol=tolerance * scale)


def same_gradients(model, layout, params, stats, theirs, x, logits):
    """Compares the gradient of a random sum of logits, tensor by tensor."""
    weight = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    (logits * torch.tensor(weight)).sum().backward()
    ours = jax.grad(lambda p: (model.pure().apply(p, stats, x).logits * weight).sum())(
        params
    )
    tensors = {k: p.grad.numpy() for k, p in theirs.items()}
    expected = convert.to_weights(tensors, model.layouts()[layout]).params
    assert set(trees.flatten(expected)) == set(trees.flatten(ours))
    for path, want in trees.flatten(expected).items():
        close(trees.flatten(ours)[path], want, 1e-3)


class TorchBlock(nn.Module):
    """torchvision's two residual blocks, from the paper's figure 5."""

    def __init__(self, inside, width, stride, bottleneck):
        super().__init__()
        out = width * 4 if bottleneck else width
        plan = (
            [(inside, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
            if bottleneck
            else [(inside, width, 3, stride), (width, out, 3, 1)]
        )
        self.count = len(plan)
        for i, (a, b, k, s) in enumerate(plan, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.downsample = None
        if stride != 1 or inside != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.count else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class TorchResNet(nn.Module):
    def __init__(self, sizes, bottleneck, width, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inside, grow = width, 4 if bottleneck else 1
        for i, size in enumerate(sizes):
            blocks = []
            for b in range(size):
                stride = 2 if i and not b else 1
                blocks.append(TorchBlock(inside, width * 2**i, stride, bottleneck))
                inside = width * 2**i * grow
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inside, outputs)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        self.features = []
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
            self.features.append(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("size", [64, 45])
def test_resnet_equals_torch_at_every_stage(depth, size):
    sizes, bottleneck = resnet.DEPTHS[depth]
    theirs = perturbed(TorchResNet(sizes, bottleneck, 4, 5))
    model = resnet.ResNetImageNet(outputs=5, depth=depth, width=4)
    x = images(size)
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
    params, stats = load(model, tensors, "torchvision", x)
    logits = theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
    out = model.pure().apply(params, stats, x)
    close(out.logits, logits.detach())
    for i, want in enumerate(theirs.features):
        close(out.features[f"stage{i + 1}"], want.detach().permute(0, 2, 3, 1))
    if (depth, size) == (50, 64):
        named = dict(theirs.named_parameters())
        same_gradients(model, "torchvision", params, stats, named, x, logits)
    written = convert.to_tensors(params, stats, model.layouts()["torchvision"])
    theirs.load_state_dict(
        {k: torch.tensor(v) for k, v in written.items()}, strict=False
    )
    for key, value in written.items():
        assert tensors[key].tobytes() == np.ascontiguousarray(value).tobytes()


@pytest.mark.parametrize(
    ("depth", "count"),
    [
        (18, 11_689_512),
        (34, 21_797_672),
        (50, 25_557_032),
        (101, 44_549_160),
        (152, 60_192_808),
    ],
)
def test_resnets_have_the_published_numbers_of_parameters(depth, count):
    network = resnet.ResNetImageNet(outputs=1000, depth=depth).pure()
    params, _ = jax.eval_shape(network.init, jax.random.key(0), images(64, 1))
    assert trees.size(params) == count


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnet_equals_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    grow = 4 if kind == "bottleneck" else 1
    config = transformers.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4 * grow, 8 * grow, 16 * grow, 32 * grow],
        depths=[2, 1, 2, 1],
        layer_type=kind,
        num_labels=5,
    )
    theirs = perturbed(transformers.ResNetForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    model = resnet.from_config(saved, outputs=5)
    x = images(64)
    params, stats = load(model, tensor_files.read(tmp_path).tensors, "hf", x)
    with torch.no_grad():
        want = theirs(torch.tensor(x.transpose(0, 3, 1, 2)), output_hidden_states=True)
    out = model.pure().apply(params, stats, x)
    close(out.logits, want.logits)
    names = ["stem", "stage1", "stage2", "stage3", "stage4"]
    for name, hidden in zip(names, want.hidden_states):
        close(out.features[name], hidden.permute(0, 2, 3, 1))


def test_an_unpublished_resnet_is_an_error():
    with pytest.raises(UserError, match="one number for each of the 2 stages"):
        resnet.ResNetImageNet(outputs=2, sizes=(1, 1), widths=(4,)).projects()
    with pytest.raises(UserError, match="the nearest is 50"):
        resnet.ResNetImageNet(outputs=2, depth=56).pure().init(
            jax.random.key(0), images(32)
        )


def torch_vgg(depth, norm, width, hidden, outputs):
    layers, inside = [], 3
    for count, factor in zip(vgg.DEPTHS[depth], (1, 2, 4, 8, 8)):
        for _ in range(count):
            layers.append(nn.Conv2d(inside, width * factor, 3, padding=1))
            inside = width * factor
            layers += [nn.BatchNorm2d(inside)] * norm
            layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(2, 2))
    module = nn.Module()
    module.features = nn.Sequential(*layers)
    module.classifier = nn.Sequential(
        nn.Linear(inside * 49, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, outputs),
    )
    return module


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("depth", "size"), [(11, 224), (13, 64), (16, 96), (19, 320)])
def test_vgg_equals_torch(depth, size, norm):
    theirs = perturbed(torch_vgg(depth, norm, 4, 12, 5))
    model = vgg.VGG(outputs=5, depth=depth, norm=norm, width=4, hidden=12)
    x = images(size, 2)
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
    params, stats = load(model, tensors, "torchvision", x)
    features = theirs.features(torch.tensor(x.transpose(0, 3, 1, 2)))
    pooled = nn.functional.adaptive_avg_pool2d(features, 7).flatten(1)
    logits = theirs.classifier(pooled)
    out = model.pure().apply(params, stats, x)
    close(out.features["stage5"], features.detach().permute(0, 2, 3, 1))
    close(out.logits, logits.detach())
    if size == 96:
        named = dict(theirs.named_parameters())
        same_gradients(model, "torchvision", params, stats, named, x, logits)


@pytest.mark.parametrize(
    ("depth", "norm", "count"),
    [
        (11, False, 132_863_336),
        (13, False, 133_047_848),
        (16, False, 138_357_544),
        (19, False, 143_667_240),
        (16, True, 138_365_992),
    ],
)
def test_vggs_have_the_published_numbers_of_parameters(depth, norm, count):
    network = vgg.VGG(outputs=1000, depth=depth, norm=norm).pure()
    params, _ = jax.eval_shape(network.init, jax.random.key(0), images(64, 1))
    assert trees.size(params) == count


def vit_pair(folder, **extra):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=12,
        patch_size=4,
        num_labels=5,
        **extra,
    )
    theirs = perturbed(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    return theirs, vit.from_config(saved, outputs=5), tensor_files.read(folder).tensors


@pytest.mark.parametrize("count", [1, 3])
def test_vit_equals_transformers_at_every_layer(count, tmp_path):
    theirs, model, tensors = vit_pair(tmp_path)
    x = images(12, count)
    params, _ = load(model, tensors, "hf", x)
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2))
    with torch.no_grad():
        want = theirs(torch_x, output_hidden_states=True)
    out = model.pure().apply(params, {}, x)
    names = ["embeddings", "layer_0", "layer_1", "layer_2"]
    assert len(want.hidden_states) == len(names)
    for name, hidden in zip(names, want.hidden_states):
        close(out.features[name].states, hidden)
    close(out.logits, want.logits)
    written = convert.to_tensors(params, {}, model.layouts()["hf"])
    assert set(written) == set(tensors)
    for key, value in written.items():
        original = np.asarray(tensors[key])
        assert original.tobytes() == np.ascontiguousarray(value).tobytes()


def test_vit_s_gradient_of_the_patches_equals_transformers(tmp_path):
    theirs, model, tensors = vit_pair(tmp_path)
    x = images(12)
    params, _ = load(model, tensors, "hf", x)
    weight = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    out = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).logits
    (out * torch.tensor(weight)).sum().backward()
    ours = jax.grad(lambda p: (model.pure().apply(p, {}, x).logits * weight).sum())(
        params
    )
    kernel = theirs.vit.embeddings.patch_embeddings.projection.weight.grad
    close(ours["embeddings"]["patch"]["kernel"], kernel.permute(2, 3, 1, 0))
    position = theirs.vit.embeddings.position_embeddings.grad
    close(ours["embeddings"]["position"], position)


@pytest.mark.parametrize("size", [20, 8])
def test_position_vectors_follow_the_image_size_as_in_transformers(size, tmp_path):
    theirs, model, tensors = vit_pair(tmp_path)
    x = images(size)
    with torch.no_grad():
        want = theirs(
            torch.tensor(x.transpose(0, 3, 1, 2)), interpolate_pos_encoding=True
        ).logits
    model = model.clone(size=size)
    weights = convert.to_weights(tensors, model.layouts()["hf"])
    params, stats = model.pure().init(jax.random.key(0), x)
    adapted = trees.map_with_path(model.adapt, weights.params)
    params, *_ = match(params, stats, dataclasses.replace(weights, params=adapted))
    close(model.pure().apply(params, {}, x).logits, want)


def test_images_of_another_size_are_an_error():
    model = vit.ViT(outputs=2, size=12, patch=4, width=8, heads=2, layers=1, hidden=8)
    with pytest.raises(UserError, match="images of 20×20 came to a model of size=12"):
        model.pure().init(jax.random.key(0), images(20))
    with pytest.raises(UserError, match="don't divide into patches of 4×4"):
        model.pure().init(jax.random.key(0), images(18))
