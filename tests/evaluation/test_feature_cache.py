"""Cached features: training from them is the same, and their keys are complete."""

import copy
import dataclasses
import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.core.types import FROZEN, Tokens, vectors
from jaxtl.data import preprocess
from jaxtl.evaluation import feature_cache, feature_cache_disk, forward
from jaxtl.terms.base import Term

HEAD = {"head": 1.0, ".*": FROZEN}
# Frozen stages run once for a data set, in other batches than a step's; sums of another
# order differ in the last digits, and 60 steps of Adam carry them on.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _empty():
    feature_cache.clear()
    yield
    feature_cache.clear()


def _exp(digits, **changes):
    fields = {
        "model": tl.models.MLP(widths=(16, 8), dropout=0.3),
        "optim": tl.optim.AdamW(lr=1e-2, groups=HEAD),
        "data": tl.data.Digits(labels_per_class=12, val=0.1),
        "steps": 60,
        "monitor": None,
    }
    return digits(**{**fields, **changes})


def _cached_and_uncached(exp):
    """The cached and the uncached run, trained."""
    runs = []
    for cache in ("memory", "off"):
        run = tl.setup(dataclasses.replace(exp, cache=cache))
        list(run)
        runs.append(run)
    return runs


def _same(a, b):
    for path, leaf in trees.flatten(a).items():
        np.testing.assert_allclose(leaf, trees.flatten(b)[path], err_msg=path, **CLOSE)


def test_training_from_the_cache_ends_in_the_same_parameters(digits):
    cached, plain = _cached_and_uncached(_exp(digits))
    assert cached.cached.stages == ("layer1", "layer2")
    assert plain.cached is None
    _same(cached.params, plain.params)
    for split in ("train", "val", "test"):
        ours, theirs = tl.evaluate(cached, split), tl.evaluate(plain, split)
        np.testing.assert_allclose(ours["nll"], theirs["nll"], rtol=1e-4)


def test_convolutions_with_batch_statistics(digits):
    model = tl.models.ResNet(depth=8, width=4)
    cached, plain = _cached_and_uncached(_exp(digits, model=model, steps=20))
    # The head averages the map over places first, without parameters: that is cached.
    assert cached.cached.streams["target"].features.shape[1:] == (16,)
    _same(cached.params, plain.params)
    _same(cached.state.stats, plain.state.stats)


@dataclasses.dataclass(frozen=True)
class _Texts(tl.data.Data):
    def read(self):
        rng = np.random.default_rng(0)
        ids = rng.integers(1, 20, (80, 6)).astype(np.int32)
        mask = np.arange(6) < rng.integers(2, 7, (80, 1))
        return tl.data.Table(
            x={"input_ids": ids * mask, "attention_mask": mask},
            y=(ids[:, 0] % 2).astype(np.int64),
        )


@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_tokens_are_cached_with_their_masks(digits, pooling):
    model = tl.models.Bert(
        vocab=20, width=8, layers=2, heads=2, hidden=8, context=6, pooling=pooling
    )
    groups = {"embeddings|layer_0": FROZEN, ".*": 1.0}
    exp = _exp(
        digits,
        model=model,
        data=_Texts(),
        steps=10,
        batch=16,
        optim=tl.optim.SGD(lr=1e-2, groups=groups),
    )
    exp = dataclasses.replace(exp, model=dataclasses.replace(model, dropout=0.0))
    cached, plain = _cached_and_uncached(exp)
    assert isinstance(cached.cached.streams["target"].features, Tokens)
    _same(cached.params, plain.params)


def test_a_step_from_cached_features_computes_less(digits):
    runs = _cached_and_uncached(
        _exp(digits, model=tl.models.MLP(widths=(256, 8)), steps=3)
    )
    cached, plain = (run.compiled.flops for run in runs)
    assert cached < 0.2 * plain
    assert "saves 9" in runs[0].notes["cache"]
    assert runs[0].notes["cache"].startswith("stages layer1…layer2 cached: 3.84 kB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ReadsFrozenStages(Term):
    """Reads features of frozen stages, of the source as well, and the inputs."""

    def __call__(self, context):
        ours = vectors(context.forward().features["layer1"])
        source = context.source_forward()
        theirs = vectors(source.features["layer1"]) + jnp.mean(
            source.features["layer2"], 1, keepdims=True
        )
        logits = context.forward().logits
        return jnp.mean(logits**2) + jnp.mean(
            logits[:, :1] * (ours + theirs) * jnp.mean(context.batches["target"]["x"])
        )


def test_terms_may_read_frozen_stages_and_inputs(digits, tmp_path):
    source = digits(model=tl.models.MLP(widths=(16, 8)))
    tl.train(tl.setup(source, tmp_path / "source"), progress=False)
    exp = _exp(
        digits,
        model=source.model,
        init=tl.pretrained.FromRun(str(tmp_path / "source"), reset="head"),
        terms={"task": tl.losses.CrossEntropy(), "reads": _ReadsFrozenStages()},
        steps=10,
    )
    cached, plain = _cached_and_uncached(exp)
    assert cached.program.cached_source
    _same(cached.params, plain.params)


def test_jacobians_by_the_inputs_do_not_start_from_features(digits, tmp_path):
    source = digits(model=tl.models.MLP(widths=(16, 8), activation="tanh"))
    tl.train(tl.setup(source, tmp_path / "source"), progress=False)
    term = tl.regularizers.JacobianDifference(wrt="inputs", weight=10.0)
    exp = _exp(
        digits,
        model=source.model,
        init=tl.pretrained.FromRun(str(tmp_path / "source")),
        terms={"task": tl.losses.CrossEntropy(), "jacobian": term},
        steps=10,
    )
    cached, plain = _cached_and_uncached(exp)
    _same(cached.params, plain.params)


def test_features_of_an_unfrozen_stage_are_not_used(digits):
    plan = tl.optim.GradualUnfreezing(until=0.6)
    model = tl.models.MLP(widths=(16, 8))
    groups = {".*": 1.0}
    exp = _exp(digits, model=model, phases=plan, optim=tl.optim.AdamW(groups=groups))
    run = tl.setup(dataclasses.replace(exp, cache="memory"))
    cuts = []
    for _ in run:
        cuts.append(run.program.cached_until)
    assert cuts == ["layer2"] * 18 + ["layer1"] * 18 + [None] * 24
    uncached = tl.setup(dataclasses.replace(exp, cache="off"))
    list(uncached)
    _same(run.params, uncached.params)


def test_features_of_a_stage_are_computed_again_after_it_was_trained(digits):
    plan = (
        tl.optim.Phase(until=0.4, frozen="layer1|layer2"),
        tl.optim.Phase(until=0.6),
        tl.optim.Phase(frozen="layer1|layer2"),
    )
    exp = _exp(
        digits,
        model=tl.models.MLP(widths=(16, 8)),
        phases=plan,
        optim=tl.optim.AdamW(lr=1e-2),
    )
    cached, plain = _cached_and_uncached(exp)
    assert cached.cached is not None
    assert len(feature_cache.entries) == 2
    _same(cached.params, plain.params)


def test_augmentation_disables_the_cache_with_a_note(digits):
    exp = _exp(digits, augment=(tl.data.Flip(),), steps=2)
    exp = dataclasses.replace(exp, model=tl.models.CNN(widths=(4,), units=8, pool=1))
    run = tl.setup(dataclasses.replace(exp, cache="memory"))
    list(run)
    assert run.cached is None
    assert "augmentation" in run.notes["cache"]


def test_few_steps_and_large_features_disable_the_cache_with_a_note(digits):
    run = tl.setup(_exp(digits, steps=2))
    list(run)
    assert "2 steps see fewer examples of 'target' than its 120" in run.notes["cache"]
    run = tl.setup(_exp(digits, steps=2, cache="memory", cache_bytes=100))
    list(run)
    assert "would take 3.84 kB, more than cache_bytes=100" in run.notes["cache"]


def test_a_plain_pair_of_functions_can_not_start_at_a_stage(digits):
    def init(key, x):
        shape = (x.reshape(len(x), -1).shape[1], 10)
        return {"body": {"scale": jnp.ones(())}, "head": {"w": jnp.zeros(shape)}}

    def apply(params, x):
        return params["body"]["scale"] * x.reshape(len(x), -1) @ params["head"]["w"]

    model = tl.models.foreign(init, apply, ("body", "head"))
    run = tl.setup(_exp(digits, model=model, cache="memory", steps=2))
    list(run)
    assert "can't start at a stage" in run.notes["cache"]


def test_runs_of_one_source_share_an_entry(digits):
    exp = _exp(digits, data=tl.data.Digits(split_seed=0), cache="memory", steps=2)
    first, second = tl.setup(exp), tl.setup(dataclasses.replace(exp, batch=16))
    list(first), list(second)
    assert len(feature_cache.entries) == 1


@pytest.fixture(scope="module")
def run():
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4, 3)),
        data=tl.data.Digits(),
        optim=tl.optim.AdamW(groups=HEAD),
        steps=1,
    )
    return tl.setup(exp)


def _key(run, params=None, pre=None, x=None, stages=("layer1", "layer2"), **exp):
    dataset = run.datasets["target"]
    if x is not None:
        dataset = dataclasses.replace(dataset, x=x)
    weights = (run.params if params is None else params, run.state.stats)
    pre = run.preprocess if pre is None else pre
    if exp:
        run = copy.copy(run)
        run.exp = dataclasses.replace(run.exp, **exp)
    rows = dataset.rows["train"]
    return feature_cache.cache_key(run, weights, stages, dataset, pre, rows)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_change_of_a_frozen_weight_changes_the_key(run, data):
    params = jax.tree.map(np.array, run.params)
    flat = trees.flatten({k: v for k, v in params.items() if k != "head"})
    path = data.draw(st.sampled_from(sorted(flat)))
    place = data.draw(st.integers(0, flat[path].size - 1))
    before = _key(run, params)
    flat[path].reshape(-1)[place] = np.nextafter(
        flat[path].reshape(-1)[place], np.float32(np.inf)
    )
    assert _key(run, params) != before


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_change_of_an_example_changes_the_key(run, data):
    dataset = run.parts.datasets["target"]
    x, rows = np.array(dataset.x), dataset.rows["train"]
    row = rows[data.draw(st.integers(0, len(rows) - 1))]
    place = data.draw(st.integers(0, x[0].size - 1))
    before = _key(run, x=x)
    x[row].reshape(-1)[place] += 1
    assert _key(run, x=x) != before


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(0.5, 300.0),
    mean=st.none() | st.floats(-1, 1),
    std=st.none() | st.floats(0.1, 2),
)
def test_any_change_of_the_preprocessing_changes_the_key(run, scale, mean, std):
    changed = preprocess.Preprocess(scale=scale, mean=mean, std=std)
    stored = dataclasses.replace(run.preprocess, size=None, channels=None)
    same = preprocess.to_json(changed) == preprocess.to_json(stored)
    assert (_key(run, pre=changed) == _key(run, pre=stored)) is same


def test_the_key_depends_on_dtype_and_stages_and_not_on_the_head(run):
    params = jax.tree.map(np.array, run.params)
    before = _key(run, params)
    params["head"]["dense"]["bias"] += 1
    assert _key(run, params) == before
    assert _key(run, dtype="bfloat16") != before
    assert _key(run, stages=("layer1",)) != before


def _on_disk(digits, folder):
    exp = _exp(digits, steps=3, cache="disk", cache_dir=str(folder))
    feature_cache.clear()
    run = tl.setup(exp)
    list(run)
    return run


def test_an_entry_on_disk_is_read_back(digits, tmp_path, monkeypatch):
    first = _on_disk(digits, tmp_path)
    [entry] = tmp_path.iterdir()
    assert len(entry.name) == 64

    def never(*_):
        raise AssertionError("computed although it is on disk")

    monkeypatch.setattr(forward, "in_batches", never)
    second = _on_disk(digits, tmp_path)
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params)):
        np.testing.assert_array_equal(a, b)
    assert second.notes["cache"] == first.notes["cache"]


@pytest.mark.parametrize("harm", ["flip", "cut", "metadata"])
def test_a_damaged_entry_is_rebuilt(digits, tmp_path, harm):
    first = _on_disk(digits, tmp_path)
    [entry] = tmp_path.iterdir()
    if harm == "metadata":
        (entry / feature_cache_disk.METADATA).write_text("{")
    else:
        whole = (entry / "0.npy").read_bytes()
        bad = whole[:-1] + bytes([whole[-1] ^ 1]) if harm == "flip" else whole[:-9]
        (entry / "0.npy").write_bytes(bad)
    second = _on_disk(digits, tmp_path)
    assert "were damaged" in second.notes["cache"]
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params)):
        np.testing.assert_array_equal(a, b)
    assert "damaged" not in _on_disk(digits, tmp_path).notes["cache"]


@pytest.mark.parametrize(
    ("code", "what"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only file system")],
)
def test_training_goes_on_with_a_full_or_read_only_folder(
    digits, tmp_path, monkeypatch, code, what
):
    def save(path, _):
        import os

        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(feature_cache_disk.np, "save", save)
    run = _on_disk(digits, tmp_path)
    assert what in run.notes["cache"]
    assert "kept in memory alone" in run.notes["cache"]
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_where_the_folder_is_a_file(digits, tmp_path):
    (tmp_path / "file").write_text("")
    run = _on_disk(digits, tmp_path / "file")
    assert "can't be written" in run.notes["cache"]


def test_half_precision_and_tokens_are_read_back_from_disk(tmp_path):
    values = Tokens(
        np.asarray(jnp.arange(6.0).reshape(2, 3, 1).astype(jnp.bfloat16)),
        np.ones((2, 3), bool),
    )
    assert feature_cache_disk.write(tmp_path, "key", values, 2.0) == ""
    (values_read, flops), note = feature_cache_disk.read(tmp_path, "key")
    assert (flops, note) == (2.0, "")
    assert isinstance(values_read, Tokens)
    assert values_read.states.dtype == values.states.dtype
    np.testing.assert_array_equal(values_read.states, values.states)


def test_data_of_host_streams_are_not_read_again(digits):
    exp = _exp(digits, device_bytes=1000)
    cached = tl.setup(dataclasses.replace(exp, cache="memory"))
    list(cached)
    assert cached.program.host_streams == ()
    plain = tl.setup(dataclasses.replace(exp, cache="off"))
    list(plain)
    assert plain.program.host_streams == ("target",)
    _same(cached.params, plain.params)


def test_a_head_alone_takes_many_steps_per_dispatch_without_convolutions(
    digits, tmp_path
):
    model = tl.models.CNN(widths=(16, 16), units=8, pool=1)
    tl.train(tl.setup(digits(model=model), tmp_path / "source"), progress=False)
    init = tl.pretrained.FromRun(str(tmp_path / "source"))
    exp = _exp(digits, model=model, init=init, cache="memory", steps=4)
    assert tl.setup(exp).compile().most > 1
    term = tl.regularizers.JacobianDifference(wrt="inputs")
    terms = {"task": tl.losses.CrossEntropy(), "jacobian": term}
    assert tl.setup(dataclasses.replace(exp, terms=terms)).compile().most == 1
