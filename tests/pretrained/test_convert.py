"""Conversion tables: names, turns, and the way back, bit for bit."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from jaxtl import models
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import CNN, MLP
from jaxtl.models import weight_layout as layouts
from jaxtl.models.resnet_cifar import ResNet
from jaxtl.models.weight_layout import TRANSFORMS, Rule, WeightLayout
from jaxtl.pretrained import FromFile, convert, write_file
from jaxtl.pretrained.match import match

LAYOUT = WeightLayout(
    (
        *layouts.conv("conv1", "stem/conv"),
        *layouts.batch_norm("bn1", "stem/bn"),
        *layouts.linear("fc", "head/dense"),
    ),
    ignored=(layouts.COUNTERS,),
    prefixes=("module.",),
    stem="stem/conv/kernel",
)


def tensors(prefix=""):
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (4, 3, 2, 5),
        "bn1.weight": (4,),
        "bn1.bias": (4,),
        "bn1.running_mean": (4,),
        "bn1.running_var": (4,),
        "fc.weight": (7, 4),
        "fc.bias": (7,),
    }
    return {prefix + n: rng.normal(size=s).astype("f4") for n, s in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_kernels_turn_and_statistics_part(prefix):
    given = tensors(prefix)
    weights = convert.to_weights(given, LAYOUT)
    kernel = np.asarray(weights.params["stem"]["conv"]["kernel"])
    assert kernel.shape == (2, 5, 3, 4)
    assert kernel[1, 3, 2, 0] == given[f"{prefix}conv1.weight"][0, 2, 1, 3]
    dense = np.asarray(weights.params["head"]["dense"]["kernel"])
    np.testing.assert_array_equal(dense, given[f"{prefix}fc.weight"].T)
    assert set(weights.stats["stem"]["bn"]) == {"mean", "var"}
    assert set(weights.params["stem"]["bn"]) == {"scale", "bias"}


def test_there_and_back_is_the_same_bits():
    weights = convert.to_weights(tensors(), LAYOUT)
    back = convert.to_tensors(weights.params, weights.stats, LAYOUT)
    assert list(back) == list(tensors())
    for name, expected in tensors().items():
        assert back[name].tobytes() == expected.tobytes()


@given(
    how=st.sampled_from(sorted(TRANSFORMS)),
    sides=st.lists(st.integers(1, 4), min_size=4, max_size=4),
)
def test_every_turn_has_its_inverse(how, sides):
    shapes = {
        "linear": sides[:2],
        "conv1d": sides[:3],
        "pointwise": [1, 1, *sides[2:]],
        "conv1x1": [*sides[:2], 1, 1],
        "linear_or_conv": sides[:2],
        "last_axis": [1, 1, 1, sides[3]],
        "first": [1, *sides[1:]],
    }
    shape = shapes.get(how, sides)
    x = np.arange(np.prod(shape)).reshape(shape)
    forward, back = TRANSFORMS[how]
    np.testing.assert_array_equal(back(forward(x)), x)


@pytest.mark.parametrize(
    ("how", "shape"),
    [
        ("pointwise", (1, 2, 3, 4)),
        ("last_axis", (1, 1, 2, 3)),
        ("first", (2,)),
        ("conv1x1", (2, 3, 1, 2)),
        ("linear_or_conv", (2, 3, 1, 2)),
    ],
)
def test_an_axis_to_take_out_has_one_element(how, shape):
    layout = WeightLayout((Rule("scale", "head/scale", how),))
    with pytest.raises(UserError, match=r"'scale' of shape .* can't become 'head/sc"):
        convert.to_weights({"scale": np.ones(shape, "f4")}, layout)


@pytest.mark.parametrize(("how", "shape"), [("leading", (2, 3)), ("vector", (1, 2, 3))])
def test_an_added_axis_has_one_element_where_it_is_taken_out_again(how, shape):
    layout = WeightLayout((Rule("token", "embeddings/token", how),))
    params = {"embeddings": {"token": np.ones(shape, "f4")}}
    with pytest.raises(UserError, match=r"'embeddings/token' of shape .* become 'tok"):
        convert.to_tensors(params, {}, layout)


def test_a_tensor_without_a_rule_is_told_and_counters_are_listed():
    extra = {
        **tensors(),
        "bn1.num_batches_tracked": np.array(3),
        "fc2.weight": np.zeros((2, 2), "f4"),
    }
    weights = convert.to_weights(extra, LAYOUT)
    assert [r.path for r in weights.rows] == ["bn1.num_batches_tracked"]
    ours = convert.to_weights(tensors(), LAYOUT)
    arrays = jax.tree.map(np.asarray, (ours.params, ours.stats))
    with pytest.raises(UserError, match=r"- fc2.weight \(2, 2\)"):
        match(*arrays, weights)
    *_, rows = match(*arrays, weights, ignore=(r"fc2\.weight",))
    assert convert.count_statuses(rows) == {"loaded": 7, "skipped": 2}


def test_a_missing_tensor_is_told_by_the_name_it_should_have():
    short = tensors()
    short["fc.wieght"] = short.pop("fc.weight")
    ours = convert.to_weights(tensors(), LAYOUT)
    arrays = jax.tree.map(np.asarray, (ours.params, ours.stats))
    with pytest.raises(UserError, match=r"from 'fc.weight'; did you mean 'fc.wieght'"):
        match(*arrays, convert.to_weights(short, LAYOUT))


def test_two_tensors_for_one_place_and_a_wrong_rank():
    twice = {**tensors(), "module.fc.bias": np.zeros(7, "f4")}
    with pytest.raises(UserError, match=r"both 'fc.bias' and 'module.fc.bias'"):
        convert.to_weights(twice, LAYOUT)
    flat = {**tensors(), "conv1.weight": np.zeros((4, 3), "f4")}
    with pytest.raises(UserError, match=r"'conv1.weight' of shape \(4, 3\) can't"):
        convert.to_weights(flat, LAYOUT)


def test_a_tree_that_the_layout_cannot_write():
    weights = convert.to_weights(tensors(), LAYOUT)
    params = {**weights.params, "head": {"dens": weights.params["head"]["dense"]}}
    with pytest.raises(UserError) as error:
        convert.to_tensors(params, weights.stats, LAYOUT)
    assert "- head/dens/kernel; did you mean 'head/dense/kernel'?" in str(error.value)
    assert "+ fc.weight" in str(error.value)


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [(14, 8, "of a deeper model"), (8, 14, "deeper than the weights")],
)
def test_another_depth_is_told_both_ways(theirs, ours, says):
    def build(depth):
        model = ResNet(outputs=4, depth=depth, width=4)
        layout = model.layouts()["akamaster"]
        return layout, *model.pure().init(jax.random.key(0), np.zeros((1, 8, 8, 3)))

    layout, params, stats = build(theirs)
    written = convert.to_tensors(params, stats, layout)
    layout, params, stats = build(ours)
    with pytest.raises(UserError, match=says):
        match(params, stats, convert.to_weights(written, layout))


def test_a_grey_image_gives_a_one_channel_stem_the_same_output():
    weights = convert.to_weights(tensors(), LAYOUT)
    grey = convert.to_one_channel(weights, LAYOUT.stem)
    rgb = np.asarray(weights.params["stem"]["conv"]["kernel"])
    one = grey.params["stem"]["conv"]["kernel"]
    patch = np.random.default_rng(1).normal(size=(2, 5))
    expected = np.einsum("hwio,hwi->o", rgb, np.repeat(patch[..., None], 3, -1))
    np.testing.assert_allclose(np.einsum("hwo,hw->o", one[:, :, 0], patch), expected)


def test_the_layout_is_recognised_by_its_names():
    other = WeightLayout(tuple(layouts.linear("classifier", "head/dense")))
    assert convert.choose_layout(tensors(), {"a": other, "b": LAYOUT}) == "b"
    with pytest.raises(UserError, match="no tensor of the file belongs"):
        convert.choose_layout(["x.y"], {"a": other})


def _as_torch(file, x, norm, padding):
    """A CNN's outputs by torch's own layers, from the tensors of its file."""
    torch = pytest.importorskip("torch")
    arrays = safetensors.numpy.load_file(file)
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    functional = torch.nn.functional
    h = torch.tensor(x).permute(0, 3, 1, 2)
    for block in ("block1", "block2"):
        weight, bias = (
            tensors[f"{block}.conv.weight"],
            tensors.get(f"{block}.conv.bias"),
        )
        h = functional.conv2d(h, weight, bias, padding=padding.lower())
        if norm:
            names = ("running_mean", "running_var", "weight", "bias")
            h = functional.batch_norm(h, *(tensors[f"{block}.bn.{n}"] for n in names))
        h = functional.max_pool2d(torch.relu(h), 2)
    h = functional.linear(
        h.flatten(1), tensors["hidden.weight"], tensors["hidden.bias"]
    )
    return functional.linear(
        torch.relu(h), tensors["head.weight"], tensors["head.bias"]
    )


@pytest.mark.parametrize(("norm", "padding"), [(True, "SAME"), (False, "VALID")])
def test_a_cnn_is_written_as_torch_computes_it_and_read_back(tmp_path, norm, padding):
    model = CNN(widths=(4, 6), units=5, norm=norm, padding=padding, outputs=3)
    network, x = model.pure(), np.random.default_rng(0).normal(size=(2, 12, 16, 3))
    params, stats = network.init(jax.random.key(0), x.astype("f4"))
    stats = jax.tree.map(lambda s: s + 0.5, stats)
    file = write_file(tmp_path / "cnn.safetensors", model, params, stats)
    expected = _as_torch(file, x.astype("f4"), norm, padding)
    outputs = network.apply(params, stats, x.astype("f4")).logits
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    _check_read_back(file, model, params, stats)


def test_the_bottleneck_of_a_cnn_is_normalized_and_not_rectified_as_in_torch(tmp_path):
    torch = pytest.importorskip("torch")
    model = CNN(
        widths=(), units=5, hidden_norm=True, hidden_activation="identity", outputs=3
    )
    network, x = model.pure(), np.random.default_rng(0).normal(size=(6, 4, 4, 1))
    x = x.astype("f4")
    params, stats = network.init(jax.random.key(0), x)
    stats = jax.tree.map(lambda s: s + 0.5, stats)
    file = write_file(tmp_path / "cnn.safetensors", model, params, stats)
    tensors = safetensors.numpy.load_file(file)
    tensors = {name: torch.tensor(array) for name, array in tensors.items()}
    layers = {"hidden": torch.nn.Linear(16, 5), "head": torch.nn.Linear(5, 3)}
    theirs = torch.nn.ModuleDict(layers)
    theirs["hidden"].add_module("bn", torch.nn.BatchNorm1d(5))
    theirs.load_state_dict(tensors, strict=False)
    for train in ((), model.stages):
        theirs.train(bool(train))
        h = theirs["hidden"](torch.tensor(x).flatten(1))
        expected = theirs["head"](theirs["hidden"].bn(h)).detach()
        outputs = network.apply(params, stats, x, train=train).logits
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
    _check_read_back(file, model, params, stats)


@pytest.mark.parametrize("norm", [False, True])
def test_an_mlp_is_written_as_torch_names_it_and_read_back(tmp_path, norm):
    torch = pytest.importorskip("torch")
    model = MLP(widths=(4, 3), outputs=2, norm=norm)
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("f4")
    params, stats = model.pure().init(jax.random.key(0), x)
    stats = jax.tree.map(lambda s: s + 0.5, stats)
    file = write_file(tmp_path / "mlp.safetensors", model, params, stats)
    layers = {"layer1": torch.nn.Linear(7, 4), "layer2": torch.nn.Linear(4, 3)}
    if norm:
        for layer in layers.values():
            layer.add_module("bn", torch.nn.BatchNorm1d(layer.out_features))
    network = torch.nn.ModuleDict({**layers, "head": torch.nn.Linear(3, 2)})
    arrays = safetensors.numpy.load_file(file)
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    network.load_state_dict(tensors)  # strict
    for train in (model.stages, ()):
        network.train(bool(train))
        h = torch.tensor(x)
        for layer in layers:
            h = network[layer](h)
            h = torch.relu(network[layer].bn(h) if norm else h)
        outputs = model.pure().apply(params, stats, x, train=train).logits
        expected = network["head"](h).detach()
        np.testing.assert_allclose(outputs, expected, atol=1e-6)
        network.load_state_dict(tensors)  # the pass moved the statistics
    _check_read_back(file, model, params, stats)


def _check_read_back(file, model, params, stats):
    weights = FromFile(str(file)).read_for(model)
    for tree, read in ((params, weights.params), (stats, weights.stats)):
        leaves, read_leaves = trees.flatten(tree), trees.flatten(read)
        assert leaves.keys() == read_leaves.keys()
        for path, leaf in leaves.items():
            assert np.asarray(leaf).tobytes() == np.asarray(read_leaves[path]).tobytes()


def test_every_family_lays_down_its_tensors():
    families = [
        model
        for model in (getattr(models, name) for name in models.__all__)
        if isinstance(model, type) and issubclass(model, models.Staged)
    ]
    assert {"MLP", "CNN", "Llama"} <= {family.__name__ for family in families}
    for family in set(families) - {models.Staged}:
        assert family.layouts is not models.Staged.layouts, family
