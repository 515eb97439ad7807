"""Modules of one's own: the same numbers as in their library, staged."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxtl as tl
from jaxtl.core import serialization
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
STAGES = ("stem", "blocks/0", "head")


class LinenBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm()(nn.Dense(self.width)(x), use_running_average=not train)
        return nn.Dropout(0.5, deterministic=not train)(nn.relu(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = LinenBlock(4, name="stem")(x, train)
        return nn.Dense(3, name="head")(LinenBlock(3, name="body")(x, train))


class NnxBlock(nnx.Module):
    def __init__(self, inputs, width, rngs):
        self.dense = nnx.Linear(inputs, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(nnx.relu(self.norm(self.dense(x))))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = NnxBlock(5, 4, rngs)
        self.blocks = nnx.List([NnxBlock(4, 3, rngs)])
        self.head = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.blocks[0](self.stem(x)))


def _linen():
    """(network, forward pass by the library: (logits, mean of the first norm))."""
    module = LinenNet()
    variables = module.init(jax.random.key(1), X)
    network = tl.models.wrap(
        module,
        {"stem": "stem", "blocks_0": "body", "head": "head"},
        variables=variables,
    )

    def forward(train):
        out, updates = module.apply(
            variables,
            X,
            train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return out, updates["batch_stats"]["stem"]["BatchNorm_0"]["mean"]

    return network, forward, "stem/BatchNorm_0/mean"


def _nnx():
    module = NnxNet(nnx.Rngs(1))
    network = tl.models.wrap(module, STAGES)

    def forward(train):
        copy = nnx.clone(module)
        (copy.train if train else copy.eval)()
        return copy(X), copy.stem.norm.mean.get_value()

    return network, forward, "stem/norm/mean"


def _equinox():
    eqx = pytest.importorskip("equinox", reason="equinox is an extra")

    class Block(eqx.Module):
        dense: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout

        def __init__(self, inputs, width, key):
            self.dense = eqx.nn.Linear(inputs, width, key=key)
            self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
            self.drop = eqx.nn.Dropout(0.5)

        def __call__(self, x, state, key):
            x, state = self.norm(self.dense(x), state)
            return self.drop(jax.nn.relu(x), key=key), state

    class Net(eqx.Module):
        stem: Block
        blocks: list
        head: eqx.nn.Linear

        def __init__(self, key):
            self.stem, self.blocks = Block(5, 4, key), [Block(4, 3, key)]
            self.head = eqx.nn.Linear(3, 3, key=key)

        def __call__(self, x, state, key):
            first, second = jax.random.split(key)
            x, state = self.stem(x, state, first)
            x, state = self.blocks[0](x, state, second)
            return self.head(x), state

    module, state = eqx.nn.make_with_state(Net)(jax.random.key(1))
    network = tl.models.wrap((module, state), STAGES)

    def forward(train):
        model = module if train else eqx.nn.inference_mode(module)
        copy = jax.tree.map(lambda leaf: leaf, state)
        keys = jax.random.split(jax.random.key(0), len(X))
        out, new = jax.vmap(
            model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None)
        )(X, copy, keys)
        return out, new.get(module.stem.norm.batch_state_index)[0]

    return network, forward, "stem/norm/batch_state_index/0"


def _haiku():
    hk = pytest.importorskip("haiku", reason="haiku is no dependency")

    class Block(hk.Module):
        def __init__(self, width, name):
            super().__init__(name=name)
            self.width = width

        def __call__(self, x, is_training):
            norm = hk.BatchNorm(True, True, 0.9)
            return jax.nn.relu(norm(hk.Linear(self.width)(x), is_training))

    def net(x, is_training):
        x = Block(3, "body")(Block(4, "stem")(x, is_training), is_training)
        return hk.Linear(3, name="head")(x)

    pair = hk.transform_with_state(net)
    variables = pair.init(jax.random.key(1), 2 * X + 1, is_training=True)
    stages = {"stem": "stem", "blocks_0": "body", "head": "head"}
    network = tl.models.wrap(
        pair, stages, variables=variables, train_argument="is_training"
    )

    def forward(train):
        out, state = pair.apply(*variables, None, X, is_training=train)
        return out, state["stem/batch_norm/~/mean_ema"]["average"]

    return network, forward, "stem/batch_norm/~/mean_ema/average"


LIBRARIES = {"linen": _linen, "nnx": _nnx, "equinox": _equinox, "haiku": _haiku}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_wrapped_module_computes_what_its_library_computes(library):
    network, forward, mean_path = LIBRARIES[library]()
    network = network.for_inputs(X)
    assert network.for_inputs(X + 1) is network
    assert network.can_start
    assert network.stages == ("stem", "blocks_0", "head")
    params, stats = network.init(jax.random.key(0), X)
    assert set(params) == set(network.stages)
    frozen = ("/".join(mean_path.split("/")[:2]),)

    # One program: compiling is most of the time.
    @jax.jit
    def passes(params, stats, key):
        def run(x=X, **settings):
            return network.apply(params, stats, x, **settings)

        first = run(stop="stem")
        return {
            "whole": run(),
            "trained": run(train=network.stages, key=key),
            "kept": run(train=network.stages, frozen_stats=frozen, key=key),
            "part": run(train=("blocks_0", "head"), key=key),
            "first": first,
            "rest": run(first.logits, start="blocks_0"),
        }

    out = passes(params, stats, jax.random.key(3))
    whole, part, rest = out["whole"], out["part"], out["rest"]
    np.testing.assert_allclose(whole.logits, forward(False)[0], rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, whole.stats, stats)

    # Every stage trains: the statistics are those of the library's own training mode.
    mean = trees.flatten(out["trained"].stats)[mean_path]
    np.testing.assert_allclose(mean, forward(True)[1], rtol=1e-5, atol=1e-6)
    before, after = trees.flatten(stats), trees.flatten(out["kept"].stats)
    np.testing.assert_array_equal(after[mean_path], before[mean_path])

    # A stage that does not train keeps its statistics and has no dropout.
    np.testing.assert_allclose(part.features["stem"], whole.features["stem"], 1e-6)
    assert not np.allclose(part.features["blocks_0"], whole.features["blocks_0"])
    jax.tree.map(np.testing.assert_array_equal, part.stats["stem"], stats["stem"])

    assert list(out["first"].features) == ["stem"]
    assert list(rest.features) == ["blocks_0", "head"]
    np.testing.assert_allclose(rest.logits, whole.logits, rtol=1e-6, atol=1e-7)


def test_a_class_and_its_stages_are_stored_and_read_again():
    network = tl.models.wrap(NnxNet, STAGES)
    again = serialization.from_json(serialization.to_json(network))
    assert again.module is NnxNet
    assert again.stages == network.stages
    linen = tl.models.wrap(LinenNet(), ("stem", "body", "head"))
    again = serialization.from_json(serialization.to_json(linen))
    assert again.module == LinenNet()


class Attending(nnx.Module):
    """An attention layer takes its mode from outside."""

    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 6, dropout_rate=0.5, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x, *, rngs):
        return self.head(self.attention(x, decode=False, rngs=rngs).mean(1))


def test_a_mode_and_a_key_that_come_with_the_call():
    module = Attending(nnx.Rngs(0))
    network = tl.models.wrap(module, ("attention", "head"))
    x = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    params, stats = network.init(jax.random.key(0), x)
    one, two = (
        network.apply(params, stats, x, train=("attention",), key=jax.random.key(i))
        for i in (0, 1)
    )
    assert not np.allclose(one.logits, two.logits)
    out = network.apply(params, stats, x)
    module.eval()
    np.testing.assert_allclose(out.logits, module(x, rngs=None), rtol=1e-5, atol=1e-6)
    # Matrices of three axes are adapted, biases of two are not.
    targets = tl.peft.LoRA(select="attention", rank=1).targets(params)
    assert set(targets) == {
        f"attention/{name}/kernel" for name in ("query", "key", "value", "out")
    }


def test_an_equinox_matrix_has_its_outputs_last():
    network, _, _ = _equinox()
    params, _ = network.init(jax.random.key(0), X)
    assert params["stem"]["dense"]["weight"].shape == (5, 4)


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_a_function_that_builds_a_module_is_initialized_by_seed(library):
    if library == "nnx":
        network = tl.models.wrap(NnxNet, STAGES)
    else:
        eqx = pytest.importorskip("equinox", reason="equinox is an extra")
        network = tl.models.wrap(lambda key: eqx.nn.MLP(5, 3, 4, 1, key=key))
    assert network.weights is None
    one, two = (network.init(jax.random.key(seed), X)[0] for seed in (0, 1))
    assert any(
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, two)))
    )
    assert network.apply(
        one, network.init(jax.random.key(0), X)[1], X
    ).logits.shape == (
        6,
        3,
    )


class Skip(nnx.Module):
    """The head reads the stem's output beside the body's."""

    def __init__(self, rngs):
        self.stem, self.body = (nnx.Linear(5, 5, rngs=rngs) for _ in range(2))
        self.head = nnx.Linear(5, 3, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(5))

    def __call__(self, x):
        x = self.stem(x)
        return self.head((x + self.body(x)) * self.scale[...])


def test_stages_that_read_earlier_ones_are_said_and_cannot_start():
    network = tl.models.wrap(
        Skip, {"stem": "stem", "body": "body", "head": ("head", "scale")}
    ).for_inputs(X)
    assert not network.can_start
    assert network.no_start == "the stage 'head' also reads 'stem'"
    params, stats = network.init(jax.random.key(0), X)
    assert set(params["head"]) == {"head", "scale"}
    with pytest.raises(
        UserError, match=r"can't start at 'head': the stage 'head' also"
    ):
        network.apply(params, stats, X, start="head")
    with pytest.raises(UserError, match=r"stand between stages.*'head' also reads"):
        tl.peft.Adapters(select="body").check(network, params)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("stem", "body", "head"), r"1 of the module's arrays .*\(scale\).*'scale'\)"),
        (
            {"stem": ("stem", "bdy"), "head": ("head", "scale", "body")},
            r"names 'bdy', which the module does not have or .*did you mean 'body'",
        ),
        (("stem", "stem"), "name each path once"),
        ("stem", r"expected a list of paths"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, message):
    with pytest.raises(UserError, match=message):
        tl.models.wrap(Skip, stages).for_inputs(X)


def test_inputs_that_the_module_does_not_read_are_said_in_one_line():
    network = tl.models.wrap(Skip, {"stem": "stem", "rest": ("body", "head", "scale")})
    with pytest.raises(UserError, match=r"can't be run on inputs of shape \(6, 4\)"):
        network.for_inputs(X[:, :4])


def test_a_module_that_is_not_wrapped_is_refused_without_being_printed():
    data = tl.data.Arrays(x=X, y=np.arange(6) % 3, val=0, test=0)
    exp = tl.Experiment(model=Skip(nnx.Rngs(0)), data=data, steps=1, batch=2)
    with pytest.raises(UserError, match=r"tl\.models\.wrap") as error:
        tl.setup(exp)
    assert len(str(error.value)) < 250
    with pytest.raises(UserError, match="no module of flax linen"):
        tl.models.wrap(3)


def test_a_plain_pair_carries_state_mode_randomness_and_features():
    def init(key, x):
        return {"body": {"w": jnp.ones((5, 3))}}, {"body": {"count": jnp.zeros(())}}

    def apply(params, state, x, train, key):
        hidden = x @ params["body"]["w"]
        if "body" in train:
            hidden = hidden + jax.random.normal(key, hidden.shape)
        count = {"body": {"count": state["body"]["count"] + 1}}
        return hidden, {"body": hidden}, count

    network = tl.models.wrap((init, apply), ("body", "head"))
    params, state = network.init(jax.random.key(0), X)
    still = network.apply(params, state, X)
    np.testing.assert_allclose(
        still.features["body"], X.sum(1)[:, None].repeat(3, 1), 1e-5
    )
    assert still.stats["body"]["count"] == 0
    moved = network.apply(params, state, X, train=("body",), key=jax.random.key(1))
    assert moved.stats["body"]["count"] == 1
    assert not np.array_equal(moved.logits, still.logits)


def test_a_wrapped_module_is_tuned_with_l2sp_lora_and_dann():
    module = NnxNet(nnx.Rngs(1))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3
    exp = tl.Experiment(
        model=tl.models.wrap(module, STAGES),
        init=tl.pretrained.FromModule(reset="head"),
        data=tl.data.Arrays(x=x, y=y, val=0.2, test=0, labels_per_class=5),
        streams={"source": tl.data.Arrays(x=x + 1, y=y)},
        terms={
            "task": tl.losses.CrossEntropy(),
            "l2sp": tl.regularizers.L2SP(weight=0.1, select="blocks_0"),
            "dann": tl.domain.DANN(weight=0.1),
        },
        peft=tl.peft.LoRA(select="blocks_0/.*", rank=2),
        optim=tl.optim.AdamW(lr=0.05),
        steps=4,
        batch=8,
    )
    run = tl.setup(exp)
    kernel = module.blocks[0].dense.kernel.get_value()
    np.testing.assert_array_equal(run.params["blocks_0"]["dense"]["kernel"], kernel)
    first = run.step()
    assert first["l2sp"] == 0.0
    run.step()
    tuned = run.params["blocks_0"]["dense"]["kernel"]
    change = np.asarray(tuned - kernel)
    assert np.linalg.matrix_rank(change, 1e-5) == 2
    np.testing.assert_array_equal(
        run.params["stem"]["dense"]["kernel"], module.stem.dense.kernel.get_value()
    )
