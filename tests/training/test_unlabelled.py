"""Targets without labels: what streams, terms and statistics make of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.data import Arrays, host_stream
from jaxtl.data.augment.image import Jitter
from jaxtl.data.preprocess import Preprocess, apply, normalize, restore
from jaxtl.terms.base import Term


def _data(seed=0, shift=0.0, classes=3, count=90, **options):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = rng.normal(size=(count, 4)) + 3 * np.eye(4)[y] + shift
    return Arrays(x=x.astype(np.float32), y=y, test=0.2, val=0.2, **options)


def _adaptation(**changes):
    fields = {
        "model": tl.models.MLP(widths=(8,)),
        "data": _data(1, 1.0, labels=0),
        "streams": {"source": _data()},
        "terms": {
            "task": tl.losses.CrossEntropy(stream="source"),
            "coral": tl.domain.DeepCORAL(),
        },
        "steps": 4,
        "batch": 16,
    }
    return tl.Experiment(**{**fields, **changes})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spy(Term):
    """Looks at the batches that a step gets, while it is traced."""

    seen: list = dataclasses.field(default_factory=list, compare=False)

    @property
    def streams(self):
        return ("source", "unlabelled")

    def __call__(self, context):
        self.seen.append({n: dict(b) for n, b in context.batches.items()})
        assert set(context.batches["unlabelled"]) == {"x", "unaugmented", "row"}
        assert context.batches["unlabelled"]["row"].shape == (16,)
        assert "y" in context.batches["source"]
        return jnp.float32(0.0)


def test_no_label_of_the_target_reaches_a_step():
    spy = Spy()
    exp = _adaptation(terms={**_adaptation().terms, "spy": spy})
    run = tl.setup(exp)
    assert len(run.parts.datasets["target"].rows["train"]) == 0
    assert run.parts.device_streams["unlabelled"].y is None
    assert run.parts.terms.setups["spy"].examples == {
        "source": 90,
        "unlabelled": 90,
    }
    run.advance(2)
    assert spy.seen


def test_rows_name_the_examples_of_a_batch():
    run = tl.setup(_adaptation())
    batches = list(run.parts.terms.setups["coral"].batches("source"))
    dataset = run.parts.datasets["source"]
    rows = np.concatenate([b["row"] for b in batches])
    np.testing.assert_array_equal(rows, dataset.rows["train"])
    np.testing.assert_array_equal(
        np.concatenate([b["y"] for b in batches]), dataset.y[rows]
    )
    assert "y" not in next(iter(run.parts.terms.setups["coral"].batches("unlabelled")))


def test_a_data_set_of_its_own_may_be_the_unlabelled_stream():
    streams = {"unlabelled": _data(2)}
    terms = {
        "task": tl.losses.CrossEntropy(),
        "c": tl.domain.DeepCORAL(source="target"),
    }
    run = tl.setup(_adaptation(data=_data(), streams=streams, terms=terms))
    run.advance(1)
    assert run.notes["unlabelled"].startswith("the labels of streams['unlabelled']")
    rows = run.parts.datasets["unlabelled"].rows["train"]
    assert int(run.parts.device_streams["unlabelled"].n) == len(rows)
    with pytest.raises(UserError, match="leaves train rows without a label already"):
        tl.setup(_adaptation(streams=streams, terms=terms))


def test_the_host_gives_no_labels_either():
    run = tl.setup(_adaptation(device_bytes=0))
    assert "unlabelled" in run.program.host_streams
    dataset = run.parts.datasets["target"]
    batches = host_stream.batches(dataset, "unlabelled", 0, 16, labels=False)
    assert set(next(batches)) == {"x", "row"}
    there = tl.setup(_adaptation())
    run.advance(2)
    there.advance(2)
    for ours, theirs in zip(
        jax.tree.leaves(run.params), jax.tree.leaves(there.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": {}}, "reads the labelled stream 'target', but data= keeps no label"),
        (
            {"terms": {"task": tl.losses.CrossEntropy(stream="unlabelled")}},
            r"terms.task.stream='unlabelled': this stream has no labels",
        ),
        (
            {"data": _data()},
            "reads the stream 'unlabelled', but data= leaves no train rows without",
        ),
        (
            {
                "streams": {
                    "source": _data(classes=2, class_names=("cat", "dog")),
                },
            },
            r"the stream's classes \(cat, dog\) are not the target's \(0, 1, 2\)",
        ),
        ({"statistics": ("source", "targt")}, "no term reads a stream 'targt'"),
    ],
)
def test_bad_input_is_one_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        tl.setup(_adaptation(**changes))


@pytest.mark.parametrize("sizes", [{"source": 16, "unlabelled": 5}, {"source": 2}])
def test_streams_may_be_unequal_and_smaller_than_a_batch(sizes):
    tiny = _data(1, 1.0, labels=0, count=12)
    run = tl.setup(_adaptation(data=tiny, batch={"unlabelled": 32, **sizes}))
    assert len(run.parts.datasets["target"].rows["unlabelled"]) < 32
    tl.train(run, progress=False)
    assert np.isfinite(tl.evaluate(run, "val")["nll"])


def test_a_target_may_have_only_some_of_the_sources_classes():
    exp = _adaptation(streams={"source": _data(classes=4)})
    run = tl.setup(exp)
    assert run.params["head"]["dense"]["kernel"].shape == (8, 4)
    tl.train(run, progress=False)
    assert np.isfinite(tl.evaluate(run, "val")["nll"])


def test_a_view_changes_values_in_the_scale_of_the_data():
    pre = Preprocess(scale=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    model_input = apply(pre, x)
    np.testing.assert_allclose(restore(pre, model_input), x / 255.0, atol=1e-6)
    np.testing.assert_allclose(normalize(pre, x / 255.0), model_input, atol=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Viewed(Term):
    """Compares a view with what the data hold."""

    @property
    def streams(self):
        return ("target",)

    def __call__(self, context):
        ops = (lambda key, x: x.at[...].min(1.0).at[...].max(0.0),)
        batch = context.batches["target"]
        same = context.view("target", ops, context.key)
        return jnp.max(jnp.abs(same - batch["unaugmented"])), {
            "moved": jnp.max(jnp.abs(batch["x"] - batch["unaugmented"]))
        }


def test_a_view_starts_from_what_no_augmentation_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
    pre = Preprocess(scale=255.0, mean=(0.5,), std=(0.25,))
    data = Arrays(x=pixels, y=np.arange(40) % 2, preprocess=pre)
    terms = {"task": tl.losses.CrossEntropy(), "viewed": Viewed()}
    exp = _adaptation(data=data, streams={}, terms=terms, augment=(Jitter(),), batch=8)
    [found] = tl.setup(exp).advance(1)
    assert found["viewed"] < 1e-5
    assert found["viewed/moved"] > 0.1


def test_statistics_can_be_those_of_one_stream_alone():
    pixels = np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype(np.float32)
    y = np.arange(40) % 2
    model = tl.models.CNN(widths=(2,), units=2, norm=True)
    fields = {
        "model": model,
        "data": Arrays(x=pixels + 5, y=y, labels=0),
        "streams": {"source": Arrays(x=pixels, y=y)},
        "batch": 8,
        "optim": tl.optim.AdamW(lr=1e-3),
    }
    found = {}
    for kept in (None, ("unlabelled",), ("source",)):
        run = tl.setup(_adaptation(**fields, statistics=kept))
        run.advance(1)
        found[kept] = jax.tree.leaves(run.state.stats["block1"])
    mixed, target, source = found.values()
    assert all(np.any(a != b) for a, b in zip(target, source, strict=True))
    assert all(np.any(a != b) for a, b in zip(mixed, target, strict=True))
