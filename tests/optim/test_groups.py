"""Resolved groups: literal trees with near-miss names, published counts, real steps."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import compilation, serialization
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN
from jaxtl.optim import optimizer as optim_optimizer
from jaxtl.optim.groups import (
    BitFit,
    FreezeUpTo,
    Groups,
    HeadOnly,
    LayerwiseDecay,
    NormOnly,
    Surgical,
)
from jaxtl.training import checkpointing, compiled_step, show

STAGES = ("stem", "layer_1", "layer_10", "norm", "head")
# Names that are nearly others': a kernel called bias_net, a norm and a dense that share
# a beginning, a stage that is a norm itself, a module whose name is a pattern.
TREE = {
    "stem": {"conv": {"kernel": 0}, "bn": {"scale": 0, "bias": 0}},
    "layer_1": {
        "bias_net": {"kernel": 0, "bias": 0},
        "bn1": {"scale": 0, "bias": 0},
        "bn10": {"kernel": 0},
    },
    "layer_10": {"a.b": {"kernel": 0, "bias": 0}, "rms": {"scale": 0}},
    "norm": {"scale": 0, "bias": 0},
    "head": {"dense": {"kernel": 0, "bias": 0}},
}
STATS = {
    "stem": {"bn": {"mean": 0, "var": 0}},
    "layer_1": {"bn1": {"mean": 0, "var": 0}},
}
BIASES = {
    "stem/bn/bias",
    "layer_1/bias_net/bias",
    "layer_1/bn1/bias",
    "layer_10/a.b/bias",
    "norm/bias",
}
NORMS = {
    "stem/bn/scale",
    "stem/bn/bias",
    "layer_1/bn1/scale",
    "layer_1/bn1/bias",
    "layer_10/rms/scale",
    "norm/scale",
    "norm/bias",
}
HEAD = {"head/dense/kernel", "head/dense/bias"}
ALL = set(trees.flatten(TREE))
IN = {s: {p for p in ALL if p.split("/")[0] == s} for s in STAGES}


def resolved(chosen, tree=TREE, stages=STAGES):
    """Returns (optimizer, {path: factor}) with 0 for what is frozen."""
    optimizer = optim_optimizer.resolve(tl.optim.AdamW(groups=chosen), stages, tree)
    labels = trees.flatten(optim_optimizer.labels(optimizer, tree))
    rate = {p: optimizer.groups[label] for p, label in labels.items()}
    return optimizer, {p: 0.0 if r is FROZEN else r for p, r in rate.items()}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (HeadOnly(), HEAD),
        (BitFit(head=False), BIASES | {"head/dense/bias"}),
        (BitFit(), BIASES | HEAD),
        (NormOnly(head=False), NORMS),
        (NormOnly(), NORMS | HEAD),
        (NormOnly(statistics=False), NORMS | HEAD),
        (Surgical(select="layer_1"), IN["layer_1"]),
        (Surgical(select="layer_1", head=True), IN["layer_1"] | HEAD),
        (Surgical(select="head", head=True), HEAD),
        (Surgical(select=".*", head=True), ALL),
        (FreezeUpTo(stage="layer_1"), IN["layer_10"] | IN["norm"] | HEAD),
        (FreezeUpTo(stage="norm"), HEAD),
        (FreezeUpTo(stage="head"), set()),
    ],
)
def test_what_is_trained(chosen, expected):
    _, rates = resolved(chosen)
    assert {path for path, rate in rates.items() if rate} == expected
    assert set(rates.values()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("chosen", "still"),
    [
        # Statistics of a stage that does not train are still without being named.
        (BitFit(), ["stem/bn", "layer_1/bn1"]),
        (NormOnly(), []),
        (NormOnly(statistics=False), ["stem/bn", "layer_1/bn1"]),
        (LayerwiseDecay(), []),
        (HeadOnly(), []),
        (FreezeUpTo(stage="stem"), []),
        (Surgical(select=".*/kernel"), ["stem/bn", "layer_1/bn1"]),
    ],
)
def test_statistics_obey_the_groups(chosen, still):
    optimizer, rates = resolved(chosen)
    mask = trees.map_with_path(lambda p, _: bool(rates[p]), TREE)
    train, found = optim_optimizer.modes(optimizer, STAGES, mask, STATS)
    assert sorted(found) == sorted(still)
    assert set(train) == {p.split("/")[0] for p, rate in rates.items() if rate}


def test_layerwise_decay_is_ulmfits_and_beits():
    for path, rate in resolved(LayerwiseDecay(decay=1 / 2.6))[1].items():
        # η^(l−1) = η^l / 2.6, counted down from the head.
        below = {"head": 0, "norm": 1, "layer_10": 2, "layer_1": 3, "stem": 4}
        assert rate == pytest.approx(2.6 ** -below[path.split("/")[0]]), path
    # BEiT's assigner: decay ** (layers + 1 − id), the embeddings 0, block k k + 1.
    stages = ("embeddings", *(f"layer_{i}" for i in range(12)), "head")
    tree = {stage: {"w": 0} for stage in stages}
    _, rates = resolved(LayerwiseDecay(decay=0.65), tree, stages)
    ids = {"embeddings": 0, "head": 13, **{f"layer_{k}": k + 1 for k in range(12)}}
    for stage, number in ids.items():
        assert rates[f"{stage}/w"] == pytest.approx(0.65 ** (12 + 1 - number))


def test_the_heads_factor_is_its_own_and_a_tied_head_needs_none():
    rates = resolved(LayerwiseDecay(decay=0.5, head=10.0))[1]
    assert rates["head/dense/bias"] == 10.0
    assert rates["norm/bias"] == 0.5
    tied = {stage: leaves for stage, leaves in TREE.items() if stage != "head"}
    assert resolved(LayerwiseDecay(decay=0.5), tied)[1]["norm/bias"] == 0.5
    for chosen in (BitFit(), NormOnly(), Surgical(select="norm", head=True)):
        assert "head" not in resolved(chosen, tied)[0].groups
    with pytest.raises(UserError, match=r"head has no parameters of its own"):
        resolved(HeadOnly(), tied)


def test_norms_that_names_do_not_tell_apart_are_named_by_path():
    tree = {"a": {"x": {"scale": 0}}, "b": {"x": {"kernel": 0}}, "head": {"w": 0}}
    optimizer, rates = resolved(NormOnly(head=False), tree, ("a", "b", "head"))
    assert {p for p, rate in rates.items() if rate} == {"a/x/scale"}
    assert "a/x" in optimizer.groups


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (FreezeUpTo(stage="layer_2"), r"stage='layer_2': .* did you mean 'layer_1"),
        (Surgical(select="steam"), r"select: the pattern 'steam' .* mean 'stem'"),
        (LayerwiseDecay(decay=0.0), r"decay=0.0: expected a number above 0"),
        (0.5, r"optim.groups=0.5: expected a mapping"),
    ],
)
def test_mistakes_are_told(chosen, message):
    with pytest.raises(UserError, match=message):
        resolved(chosen)


def test_models_without_biases_or_norms_say_which_leaves_they_have():
    tree = {"layer1": {"w": 0}, "head": {"w": 0}}
    for chosen, told in ((BitFit(), "no bias"), (NormOnly(), "no norm")):
        message = rf"{type(chosen).__name__}\(\): the model has {told}.*leaves: w\)"
        with pytest.raises(UserError, match=message):
            resolved(chosen, tree, ("layer1", "head"))


def trained(model, x, chosen):
    """Returns (trainable numbers outside the head, all of them) of a real model."""
    network = model.pure()
    params, _ = jax.eval_shape(network.init, jax.random.key(0), x)
    _, rates = resolved(chosen, params, network.stages)
    sizes = {p: leaf.size for p, leaf in trees.flatten(params).items()}
    body = {p for p in sizes if not p.startswith("head/")}
    return sum(sizes[p] for p in body if rates[p]), sum(sizes[p] for p in body)


def test_berts_biases_are_the_papers_share():
    ids = jnp.zeros((1, 4), jnp.int32)
    x = {"input_ids": ids, "attention_mask": ids + 1}
    found, whole = trained(tl.models.Bert(outputs=2), x, BitFit())
    # Per layer 4 · 768 (attention) + 3072 + 768 (feed-forward) + 2 · 768 (norms), and
    # the embeddings' norm and the pooler.
    assert found == 12 * (6 * 768 + 3072 + 768) + 2 * 768
    assert whole == 109_482_240
    assert 0.0008 < found / whole < 0.001, "0.08 % and 0.09 % in the paper's table 1"
    assert trained(tl.models.Bert(outputs=2), x, NormOnly())[0] == 25 * 2 * 768


def test_resnet50s_norms_are_the_known_number():
    model = tl.models.ResNetImageNet(depth=50, outputs=1000)
    found, whole = trained(model, jnp.zeros((1, 64, 64, 3)), NormOnly())
    assert (found, whole) == (53_120, 23_508_032)  # torchvision's, without fc


def test_every_family_resolves():
    ids = {"input_ids": jnp.zeros((1, 4), jnp.int32)}
    ids["attention_mask"] = ids["input_ids"] + 1
    small = {"width": 8, "layers": 1, "heads": 2, "hidden": 8}
    for model, x in (
        (tl.models.ViT(outputs=2, size=8, patch=4, **small), jnp.zeros((1, 8, 8, 3))),
        (tl.models.GPT2(vocab=5, context=8, width=8, layers=1, heads=2), ids),
        (tl.models.Llama(vocab=5, context=8, **small), ids),
        (tl.models.MobileNet(outputs=2), jnp.zeros((1, 32, 32, 3))),
    ):
        for chosen in (NormOnly(), LayerwiseDecay(), FreezeUpTo(stage=model.stages[0])):
            found, whole = trained(model, x, chosen)
            assert 0 < found <= whole, (model, chosen)


def after(exp, count=2):
    """Returns the change of each parameter and statistic after some steps."""
    run = tl.setup(exp)
    before = jax.tree.map(np.asarray, (run.params, run.state.stats))
    run.advance(count)
    moved = jax.tree.map(
        lambda x, y: np.asarray(x) - y, (run.params, run.state.stats), before
    )
    return trees.flatten(moved[0]), trees.flatten(moved[1])


NORMED = tl.models.CNN(widths=(2, 2), units=4, norm=True)


@pytest.mark.parametrize(
    ("chosen", "leaves", "moving"),
    [
        (BitFit(), r"head/.*|.*/bias", False),
        (NormOnly(), r"head/.*|.*/bn/.*", True),
        (NormOnly(head=False, statistics=False), r".*/bn/.*", False),
    ],
)
def test_nothing_else_moves_in_a_run(digits, chosen, leaves, moving):
    sgd = tl.optim.SGD(lr=0.1, weight_decay=0.1, groups=chosen)
    params, stats = after(digits(model=NORMED, optim=sgd))
    moved = {path for path, change in params.items() if change.any()}
    # A dead unit's bias need not move, so a subset; but every kind does.
    assert moved <= {p for p in params if re.fullmatch(leaves, p)}
    assert {p.split("/")[0] for p in moved} >= {"block1", "block2"}
    assert any(change.any() for change in stats.values()) == moving


def test_steps_are_in_proportion_and_share_one_program(digits):
    model = tl.models.MLP(widths=(8, 8))

    def change(groups):
        sgd = tl.optim.SGD(lr=0.1, momentum=0.0, groups=groups)
        return after(digits(model=model, optim=sgd), 1)[0]

    whole = change({".*": 1.0})
    found = change(LayerwiseDecay(decay=0.5, head=3.0))
    known = len(compilation.stored(compiled_step.compiled))
    change(LayerwiseDecay(decay=0.9))
    change({"layer1": 0.1, "layer2": 0.2, "head": 0.3})
    assert len(compilation.stored(compiled_step.compiled)) == known
    factors = {"layer1": 0.25, "layer2": 0.5, "head": 3.0}
    for path, moved in found.items():
        factor = factors[path.split("/")[0]]
        np.testing.assert_allclose(moved, factor * whole[path], atol=1e-6)


FILE = """
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8, 8)), data=tl.data.Digits(), steps=8, batch=16,
        optim=tl.optim.AdamW(lr=0.01, groups=tl.optim.LayerwiseDecay()), save_every=4,
    )
"""


def test_overrides_and_tables_know_them(tmp_path, capsys):
    (tmp_path / "one.py").write_text(FILE)
    exp = tl.load(tmp_path / "one.py", "optim.groups.decay=0.5")
    assert exp.optim.groups == LayerwiseDecay(decay=0.5)
    show.show(tl.setup(exp))
    out = capsys.readouterr().out
    for path, rate in (("layer1", "0.0025"), ("layer2", "0.005"), ("head", "0.01")):
        assert re.search(rf"{path}/dense/kernel.* {rate}\b", out), out
    by_hand = 'optim.groups={"head": 1.0, ".*": 0.5}'
    other = tl.load(tmp_path / "one.py", by_hand, "optim.groups.head=FROZEN")
    assert other.optim.groups == {"head": FROZEN, ".*": 0.5}
    # A union with a mapping in it, as the groups' annotation is.
    other = tl.load(tmp_path / "one.py", "batch={'target': 8}", "batch.target=16")
    assert other.batch == {"target": 16}
    other = tl.load(tmp_path / "one.py", "optim.groups=tl.optim.BitFit(head=False)")
    assert other.optim.groups == BitFit(head=False)
    with pytest.raises(UserError, match=r"has no field 'decai'; did you mean 'decay'"):
        tl.load(tmp_path / "one.py", "optim.groups.decai=1")
    assert "LayerwiseDecay" in show.describe(exp)


@pytest.mark.parametrize(
    "chosen",
    [
        LayerwiseDecay(decay=0.5),
        Surgical(select="stem"),
        NormOnly(statistics=False),
        FreezeUpTo(stage="stem"),
    ],
)
def test_snapshots_come_back(chosen):
    optimizer = tl.optim.AdamW(groups=chosen)
    assert serialization.from_json(serialization.to_json(optimizer)) == optimizer


def test_a_resumed_run_rebuilds_them_and_ends_the_same(tmp_path):
    (tmp_path / "one.py").write_text(FILE)
    exp = tl.load(tmp_path / "one.py", "optim.groups.decay=0.4")
    whole = tl.setup(exp, tmp_path / "whole")
    tl.train(whole)
    half = tl.setup(exp, tmp_path / "half")
    half.advance(4)
    checkpointing.save(half)
    resumed = tl.resume(tmp_path / "half")
    assert resumed.steps_done == 4
    assert resumed.exp.optim.groups == LayerwiseDecay(decay=0.4)
    assert resumed.parts.phases[0].optimizer.groups["layer1"] == pytest.approx(0.16)
    resumed.advance(4)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


def test_a_class_of_ones_own_is_as_good(digits):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Alternate(Groups):
        def resolve(self, stages, params):
            return {s: (FROZEN, 1.0)[i % 2] for i, s in enumerate(stages)}

    params, _ = after(digits(optim=tl.optim.AdamW(groups=Alternate())))
    assert {p.split("/")[0] for p, change in params.items() if change.any()} == {"head"}
