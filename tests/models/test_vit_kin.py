"""Vision transformers: timm's files, other image sizes; against torch modules.

Origin: `interpolate` of torch; the layers of torch in the form that timm publishes
(blocks of norm, joined queries, keys and values, and two affine maps).
"""

import jax
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import BEiT, DeiT, DINOv2, ViT
from jaxtl.models.layers import interpolation
from jaxtl.pretrained import convert, registry, tensor_files
from jaxtl.pretrained.external import FromFile
from jaxtl.pretrained.match import match

torch = pytest.importorskip("torch")
nn = torch.nn
WIDTH, SIDE = 64, 8
IMAGES = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)


class TimmBlock(nn.Module):
    def __init__(self, scaled, gated):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.attn.proj = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(WIDTH, 32)
        self.mlp.fc2 = nn.Linear(16 if gated else 32, WIDTH)
        self.gated, self.scaled = gated, scaled
        if scaled:
            self.ls1, self.ls2 = nn.Module(), nn.Module()
            self.ls1.gamma = nn.Parameter(torch.ones(WIDTH))
            self.ls2.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        q, k, v = self.attn.qkv(self.norm1(x)).chunk(3, -1)  # one head of 64 features
        y = ((q @ k.transpose(1, 2)) / WIDTH**0.5).softmax(-1) @ v
        y = self.attn.proj(y)
        x = x + (y * self.ls1.gamma if self.scaled else y)
        y = self.mlp.fc1(self.norm2(x))
        if self.gated:
            gate, y = y.chunk(2, -1)
            y = nn.functional.silu(gate) * y
        else:
            y = nn.functional.gelu(y)
        y = self.mlp.fc2(y)
        return x + (y * self.ls2.gamma if self.scaled else y)


class TimmViT(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if kind == "deit":
            self.dist_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            self.head_dist = nn.Linear(WIDTH, 3)
        if kind == "dinov2":
            self.reg_token = nn.Parameter(torch.zeros(1, 2, WIDTH))
        extra = 2 if kind == "deit" else 1
        self.pos_embed = nn.Parameter(torch.zeros(1, 4 + extra, WIDTH))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, 4, 4)
        is_dino = kind == "dinov2"
        self.blocks = nn.Sequential(*(TimmBlock(is_dino, is_dino) for _ in range(2)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = [self.cls_token]
        tokens += [self.dist_token] if self.kind == "deit" else []
        x = torch.cat([*(t.expand(len(x), -1, -1) for t in tokens), x], 1)
        x = x + self.pos_embed
        if self.kind == "dinov2":
            registers = self.reg_token.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
        x = self.norm(self.blocks(x))
        if self.kind == "deit":
            return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        return self.head(x[:, 0])


TIMM_KINDS = {"vit": ViT, "deit": DeiT, "dinov2": DINOv2}


@pytest.mark.parametrize("kind", TIMM_KINDS)
def test_a_file_of_timm_gives_the_logits_and_is_written_back(kind, tmp_path):
    torch.manual_seed(0)
    theirs = TimmViT(kind).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn(p.shape))
        want = theirs(torch.tensor(IMAGES.transpose(0, 3, 1, 2))).numpy()
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
    tensor_files.write(tmp_path / "timm.safetensors", tensors, {"format": "pt"})
    init = FromFile(str(tmp_path / "timm.safetensors"))
    model = init.model()
    assert type(model) is TIMM_KINDS[kind]
    assert model.outputs == 3
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), IMAGES)
    params, *_ = match(*shapes, init.read_for(model))
    got = model.pure().apply(params, {}, IMAGES).logits
    np.testing.assert_allclose(got, want, atol=1e-5)
    written = convert.to_tensors(params, {}, model.layouts()["timm"])
    assert set(written) == set(tensors)
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_a_joined_tensor_of_another_shape_is_refused():
    model = ViT(outputs=2, size=8, patch=4, width=8, heads=2, layers=1, hidden=8)
    tensors = {"blocks.0.attn.qkv.weight": np.zeros((25, 8), np.float32)}
    with pytest.raises(UserError, match=r"\(25, 8\) should join 3 equal parts"):
        convert.to_weights(tensors, model.layouts()["timm"])


def test_a_file_of_another_library_is_not_taken_for_timms():
    shapes = {"blocks.0.attn.qkv.weight": (24, 8), "cls_token": (1, 1, 8)}
    assert registry.recognize_model(shapes_as_arrays(shapes), {}) is None


def shapes_as_arrays(shapes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("old", "new"), [(3, 5), (5, 3), (7, 2), (2, 9)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resized_positions_equal_torch(old, new, antialias):
    x = np.random.default_rng(0).normal(size=(1, 2 + old**2, 3)).astype(np.float32)
    grid = torch.tensor(x[:, 2:]).reshape(1, old, old, 3).permute(0, 3, 1, 2)
    want = nn.functional.interpolate(
        grid, size=(new, new), mode="bicubic", antialias=antialias
    )
    got = interpolation.resize_positions(x, new, 2, antialias)
    np.testing.assert_array_equal(got[:, :2], x[:, :2])
    want = want.permute(0, 2, 3, 1).reshape(1, -1, 3)
    np.testing.assert_allclose(got[:, 2:], want, atol=2e-5)


@pytest.mark.parametrize(("old", "new"), [(2, 4), (4, 2), (3, 3)])
def test_resized_relative_positions_equal_torch(old, new):
    rows = (2 * old - 1) ** 2
    x = np.random.default_rng(0).normal(size=(rows + 3, 2)).astype(np.float32)
    grid = torch.tensor(x[:rows]).reshape(1, 2 * old - 1, 2 * old - 1, 2)
    want = nn.functional.interpolate(
        grid.permute(0, 3, 1, 2), size=(2 * new - 1,) * 2, mode="bilinear"
    )
    got = interpolation.resize_relative(x, new, 3)
    want = want.permute(0, 2, 3, 1).reshape(-1, 2)
    np.testing.assert_allclose(got, np.concatenate([want, x[rows:]]), atol=1e-5)


def test_positions_of_no_square_grid_are_refused():
    with pytest.raises(UserError, match="6 patches are of no square grid"):
        interpolation.resize_positions(np.zeros((1, 7, 2)), 3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("kind", ["beit", "dinov2", "dinov2_with_registers"])
def test_another_image_size_gives_transformers_logits(kind, size):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 12,
        "patch_size": 4,
    }
    name, options = {
        "beit": (
            "Beit",
            {
                "intermediate_size": 8,
                "use_relative_position_bias": True,
                "use_shared_relative_position_bias": True,
            },
        ),
        "dinov2": ("Dinov2", {}),
        "dinov2_with_registers": ("Dinov2WithRegisters", {}),
    }[kind]
    config = getattr(transformers, f"{name}Config")(**sizes, **options)
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.2 * torch.randn(p.shape))
        want = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).logits
    model = registry.model_from_config(config.to_dict(), outputs=2, size=size)
    conversion = pytest.importorskip("transformers.core_model_loading")
    tensors = conversion.revert_weight_conversion(theirs, theirs.state_dict())
    tensors = {k: v.numpy() for k, v in tensors.items()}
    weights = convert.to_weights(tensors, model.layouts()["hf"])
    weights.params.update(trees.map_with_path(model.adapt, weights.params))
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    params, *_ = match(*shapes, weights)
    got = model.pure().apply(params, {}, x).logits
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_beits_stages_pool_where_the_head_says():
    fields = {"outputs": 2, "size": 8, "patch": 4, "width": 8, "heads": 2}
    for pooling, shape in (("mean", (2, 8)), ("first", (2, 5, 8))):
        model = BEiT(**fields, layers=1, hidden=8, pooling=pooling)
        out = jax.eval_shape(
            lambda x, m=model: m.init_with_output(jax.random.key(0), x)[0][1]["norm"],
            IMAGES,
        )
        assert getattr(out, "states", out).shape == shape
