"""What every reparametrization keeps, with every family of models: two steps of SGD.

Under each the task's loss and two regularizers of the merged parameters; the base does
not move, and L2-SP is of what the merge changed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_rows import MODELS, filled

import jaxtl.peft
from jaxtl.core import config, serialization
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Source
from jaxtl.peft import (
    IA3,
    Adapters,
    LoRA,
    PrefixTuning,
    PromptTuning,
    Reparametrization,
    VeRA,
)
from jaxtl.terms import context as terms_context
from jaxtl.terms.losses import CrossEntropy, NextToken
from jaxtl.terms.program import Program
from jaxtl.terms.regularizers import L2SP, WeightDecay

METHODS = {
    "lora": LoRA(rank=1, alpha=2.0),
    "rslora": LoRA(rank=2, rslora=True),
    "dora": LoRA(rank=1, alpha=2.0, dora=True),
    "ia3": IA3(),
    "vera": VeRA(rank=3),
    "adapters": Adapters(width=2),
    "prompts": PromptTuning(length=2),
    "prefix": PrefixTuning(length=2),
}
# One of each class, and RoBERTa's layout of BERT's.
FAMILIES = (
    "mlp",
    "cnn",
    "resnet-cifar",
    "bottleneck",
    "mobilenet",
    "mobilenet-v2",
    "efficientnet",
    "regnet",
    "convnext",
    "vgg",
    "vit",
    "clip-vision",
    "siglip-vision",
    "deit",
    "dinov2",
    "beit",
    "swin",
    "bert",
    "roberta",
    "gpt2",
    "llama-class",
    "clip-text",
)
VISION = ("vit", "clip-vision", "siglip-vision", "deit", "dinov2", "beit")
TRANSFORMERS = (*VISION, "bert", "roberta", "gpt2", "llama-class", "clip-text")
# What a family without layer_0, layer_1 … is adapted at.
STAGES = {
    "mlp": "layer1",
    "cnn": "block2",
    "resnet-cifar": "stage2",
    "bottleneck": "stage4",
    "mobilenet": "stage4",
    "mobilenet-v2": "stage4",
    "efficientnet": "stage2",
    "regnet": "stage2",
    "convnext": "stage2",
    "vgg": "stage[34]",
    "swin": "stage2",
}
TERMS = {"l2sp": L2SP(weight=0.1), "decay": WeightDecay(weight=0.01)}


@functools.cache
def model_of(family):
    """Returns (network, parameters, statistics, two examples)."""
    model, x = MODELS[family]
    x = jax.tree.map(lambda a: a[:2], x)
    network = model.pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    params, stats = trees.map_with_path(lambda p, s: filled(p, s, rng), shapes)
    return network, params, stats, x


def method_of(family, name):
    method = METHODS[name]
    if family in TRANSFORMERS or name in ("prompts", "prefix"):
        return method
    select = STAGES[family]
    extra = {"inputs": ""} if name == "ia3" else {}
    return dataclasses.replace(method, select=select, **extra)


def spread(make, seed):
    """Returns a tree like the made one, of random values."""
    rng = np.random.default_rng(seed)

    def leaf(shape):
        return jnp.asarray(rng.normal(size=shape.shape).astype("f4") / 4 + 0.2)

    return jax.tree.map(leaf, jax.eval_shape(make))


def _like(tree, flat, default):
    return trees.map_with_path(lambda p, _: flat.get(p, default), tree)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps(family, name):
    network, params, stats, x = model_of(family)
    method = method_of(family, name)
    if name in ("prompts", "prefix") and family not in TRANSFORMERS:
        with pytest.raises(UserError, match=r"PromptTuning puts|PrefixTuning gives"):
            method.check(network, params)
        return
    method.check(network, params)
    features = jax.eval_shape(lambda: network.apply(params, stats, x).features)
    # Random values are quicker than initial ones, which are tested in their own files.
    start = spread(lambda: method.init(jax.random.key(1), params, features), 1)
    constants = spread(lambda: method.constants(params), 2)
    before = {p: np.array(leaf) for p, leaf in trees.flatten(params).items()}
    step = jax.jit(
        functools.partial(_step, network, config.without_hyperparameters(method))
    )
    numbers, delta = config.hyperparameters(method), start
    for _ in range(2):
        delta, metrics, merged = step(numbers, params, delta, constants, stats, x)
        assert trees.all_finite((delta, metrics, merged))
    assert step._cache_size() == 1
    first, last = trees.flatten(start), trees.flatten(delta)
    assert [p for p in first if not (first[p] != last[p]).any()] == []
    for path, leaf in trees.flatten(params).items():
        np.testing.assert_array_equal(leaf, before[path])
    _check_merged(method, params, merged, metrics)


def _check_merged(method, params, merged, metrics):
    """Other leaves are the base's, and L2-SP is of the rest, by numpy."""
    adapted = trees.flatten(method.adapted_mask(params))
    after, total = trees.flatten(merged), 0.0
    for path, leaf in trees.flatten(params).items():
        if not adapted[path]:
            np.testing.assert_array_equal(after[path], leaf)
        gap = np.asarray(after[path], np.float64) - np.asarray(leaf, np.float64)
        total += 0.5 * np.sum(gap**2)
    np.testing.assert_allclose(metrics["l2sp"], total, rtol=1e-3, atol=1e-9)
    extra = after.keys() - adapted.keys()
    assert bool(extra) != method.deployable
    if method.deployable:
        assert total > 0


def _step(network, shell, numbers, params, delta, constants, stats, x):
    """One step of SGD on δ, as a run takes it."""
    method = config.with_hyperparameters(shell, numbers)
    wrapped = method.network(network)

    def loss(delta):
        merged = method.merge(params, delta, constants)
        known = trees.flatten(params)
        context = terms_context.Context(
            program=Program(
                network=wrapped,
                trainable_mask=jax.tree.map(lambda _: True, merged),
                train_stages=network.stages,
            ),
            params=merged,
            stats=stats,
            source=Source(_like(merged, known, None), stats),
            batches={"target": {"x": x, "y": jnp.array([0, 2])}},
            key=jax.random.key(3),
            step=jnp.asarray(0),
            steps=jnp.asarray(2),
        )
        three = context.forward().logits.ndim == 3
        task = NextToken() if three else CrossEntropy()
        value, metrics = terms_context.loss({"task": task, **TERMS}, context)
        return value, (metrics, merged)

    (_, (metrics, merged)), grads = jax.value_and_grad(loss, has_aux=True)(delta)
    delta = jax.tree.map(lambda d, g: d - 0.1 * g, delta, grads)
    return delta, metrics, merged


def test_l2sp_of_lora_is_half_the_squared_update(bench):
    room, method = bench(moved=0.0), LoRA(select="layer1", rank=2, alpha=3.0)
    delta = method.init(jax.random.key(0), room.params)
    rng = np.random.default_rng(0)
    delta = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype("f4"), delta)
    merged = method.merge(room.params, delta, {})
    context = room.context(merged)
    _, metrics = terms_context.loss({"l2sp": L2SP()}, context)
    own = delta["layer1"]["dense"]["kernel"]
    a, b = (np.asarray(own[k], np.float64) for k in "ab")
    update = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for o in range(b.shape[1]):
            update[i, o] = 1.5 * sum(a[i, r] * b[r, o] for r in range(2))
    np.testing.assert_allclose(metrics["l2sp"], 0.5 * (update**2).sum(), rtol=1e-5)


def test_every_family_and_every_method_is_here():
    classes = {type(model) for model, _ in MODELS.values()}
    assert {type(MODELS[f][0]) for f in FAMILIES} == classes
    public = {getattr(jaxtl.peft, name) for name in jaxtl.peft.__all__}
    assert {type(m) for m in METHODS.values()} == public - {Reparametrization}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_frozen_keyword_only_and_survive_the_snapshot(name):
    method = METHODS[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.select = "head"
    assert all(f.kw_only for f in dataclasses.fields(method))
    assert not type(method).__doc__.startswith(type(method).__name__ + "(")
    assert serialization.from_json(serialization.to_json(method)) == method
    assert (
        config.with_hyperparameters(
            config.without_hyperparameters(method), config.hyperparameters(method)
        )
        == method
    )


@pytest.mark.parametrize("name", METHODS)
def test_initialisation_can_be_vmapped(name):
    _, params, _, _ = model_of("bert")
    method = METHODS[name]
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.jit(jax.vmap(lambda key: method.init(key, params)))(keys)
    one = method.init(keys[1], params)
    for path, leaf in trees.flatten(one).items():
        both = trees.flatten(many)[path]
        np.testing.assert_allclose(
            jnp.broadcast_to(both, (2, *leaf.shape))[1], leaf, atol=1e-6
        )
