"""Bad input ends in one clear sentence that names the field, before anything runs."""

import dataclasses

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.terms.base import Term

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3


def arrays(x=X, y=Y, **options):
    return tl.data.Arrays(x=x, y=y, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reads(Term):
    """A term that reads a stream."""

    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def __call__(self, context):
        return context.forward(self.stream).logits.mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span(Term):
    """A term that runs part of the model."""

    start: str | None = None
    stop: str | None = None

    def __call__(self, context):
        x = context.batches["target"]["x"]
        out = context.program.network.apply(
            context.params, context.stats, x, start=self.start, stop=self.stop
        )
        return out.logits.mean()


def reads(name):
    return {"terms": {"mine": Reads(stream=name)}}


def optim(**groups):
    return {"optim": tl.optim.AdamW(groups=groups)}


def holed():
    x = X.copy()
    x[7, 2] = np.nan
    return x


class Reader:
    """Initial weights that are none."""


CASES = {
    "unknown field": (
        lambda e: config.override(e, "optim.leanring_rate", "1"),
        r"optim: AdamW has no field 'leanring_rate'",
    ),
    "wrong type": (
        lambda e: config.override(e, "steps", "many"),
        r"steps='many': expected a whole number, such as",
    ),
    "steps below zero": (lambda e: {"steps": -1}, r"steps=-1: expected a whole numb"),
    "steps a flag": (lambda e: {"steps": True}, r"steps=True: expected a whole numb"),
    "seed a fraction": (lambda e: {"seed": 0.5}, r"seed=0.5: expected a whole numbe"),
    "seed too large": (lambda e: {"seed": 2**32}, r"seed=4294967296: expected 0 ≤ s"),
    "dtype": (
        lambda e: {"dtype": "bflot16"},
        r"dtype='bflot16'; did you mean 'bfloat16'\? \(known: float32, bfloat16\)",
    ),
    "no term": (
        lambda e: {"terms": {"task": "ce"}},
        r"terms\['task'\]='ce': expected a Term",
    ),
    "terms a list": (
        lambda e: {"terms": [tl.losses.CrossEntropy()]},
        r"terms=\[.*\]: expected a mapping",
    ),
    "no optimizer": (lambda e: {"optim": "adam"}, r"optim='adam': expected an optimi"),
    "no init": (lambda e: {"init": Reader()}, r"init=.*Reader.*: expected initial we"),
    "no model": (lambda e: {"model": "resnet"}, r"model='resnet': expected one of tl"),
    "no data": (
        lambda e: {"data": "mnist"},
        r"data='mnist': expected a tl.data.Data, s",
    ),
    "pattern without match": (
        lambda e: optim(**{"layer9": 0.1, ".*": 1.0}),
        r"optim.groups: the pattern 'layer9' matches no parameter; did you mean 'layer",
    ),
    "uncovered parameters": (
        lambda e: optim(head=1.0),
        r"optim.groups: no pattern of \['head'\] covers these parameters",
    ),
    "nothing to train": (
        lambda e: optim(**{".*": tl.FROZEN}),
        r"optim.groups=.*freezes every parameter, so there is nothing to train",
    ),
    "decay to no source": (
        lambda e: {"optim": tl.optim.SGD(decay_to_source=0.1)},
        r"optim.decay_to_source=0.1: the experiment starts from scratch",
    ),
    "missing run": (
        lambda e: {"init": tl.pretrained.FromRun("no/such/run")},
        r"init: there is no run directory 'no/such/run'",
    ),
    "missing checkpoint": (
        lambda e: {"init": tl.pretrained.FromCheckpoint("no/such")},
        r"init: there is no checkpoint folder 'no/such'",
    ),
    "labels outside classes": (
        lambda e: {"data": arrays(class_names=("a", "b"))},
        r"labels must be below 2, the class count; 20 rows are not, .* row 2 with 2",
    ),
    "labels below zero": (
        lambda e: {"data": arrays(y=Y - 1)},
        r"labels must not be negative; 20 rows",
    ),
    "NaN in the data": (
        lambda e: {"data": arrays(x=holed())},
        r"x .*row 7",
    ),
    "lengths": (lambda e: {"data": arrays(y=Y[:50])}, r"x has 60 examples, but y has"),
    "empty val": (
        lambda e: {"data": arrays(val=0.001)},
        r"data.val=0.001 of 48 train examples leaves an empty val split",
    ),
    "no train left": (
        lambda e: {"data": arrays(val=48)},
        r"data.val=48 asks for 48 of 48 train examples, which leaves none",
    ),
    "too few labels": (
        lambda e: {"data": arrays(labels_per_class=40)},
        r"data.labels_per_class=40 is more than the train examples left",
    ),
    "unknown class": (
        lambda e: {"data": arrays(class_names=("cat", "dog", "cow"), classes=("cta",))},
        r"data.classes: there is no class 'cta'; did you mean 'cat'\?",
    ),
    "stream that does not exist": (
        lambda e: reads("sorce") | {"streams": {"source": arrays()}},
        r"terms\['mine'\] reads the stream 'sorce', which does not exist; did you mean "
        r"'source'\?",
    ),
    "unlabelled without labels_per_class": (
        lambda e: reads("unlabelled"),
        r"terms\['mine'\] reads the stream 'unlabelled', but data= leaves no train row",
    ),
    "a stream's taken name": (
        lambda e: {"streams": {"target": arrays()}},
        r"streams: the name 'target' is taken",
    ),
    "streams of another shape": (
        lambda e: {"streams": {"source": arrays(x=X[:, :3])}},
        r"streams\['source'\] has examples of shape \(3,\), the target of shape \(4,\)",
    ),
    "outputs too few": (
        lambda e: {"model": tl.models.MLP(outputs=2, widths=(4,))},
        r"model.outputs=2, but the data have 3 classes",
    ),
    "a plain network's outputs": (
        lambda e: {
            "model": tl.models.foreign(lambda k, x: {"w": 1.0}, lambda p, x: x[:, :2])
        },
        r"model.outputs=2, but the data have 3 classes",
    ),
    "start at no stage": (
        lambda e: {"terms": {"part": Span(start="layr1")}},
        r"start='layr1' is no stage; did you mean 'layer1'\?",
    ),
    "stop at no stage": (
        lambda e: {"terms": {"part": Span(stop="tail")}},
        r"stop='tail' is no stage \(stages: layer1, head\)",
    ),
    "start after stop": (
        lambda e: {"terms": {"part": Span(start="head", stop="layer1")}},
        r"start='head' comes after stop='layer1'",
    ),
    "unknown activation": (
        lambda e: {"model": tl.models.MLP(widths=(4,), activation="rleu")},
        r"activation='rleu' is unknown; did you mean 'relu'\?",
    ),
    "unknown monitor": (
        lambda e: {"monitor": "acuracy"},
        r"monitor='acuracy' is not a metric of this task; did you mean 'accuracy'\?",
    ),
    "another task's loss": (
        lambda e: {"terms": {"task": tl.losses.SquaredError()}},
        r"terms.task: SquaredError is a term for regression, .* 'classification'",
    ),
    "smoothing beyond one": (
        lambda e: {"terms": {"task": tl.losses.CrossEntropy(label_smoothing=1.5)}},
        r"terms.task.label_smoothing=1.5: expected a number in \[0, 1\]",
    ),
    "batch of none": (lambda e: {"batch": 0}, r"batch=0 of the stream 'target' must "),
    "batch without the stream": (
        lambda e: {"batch": {"source": 3}},
        r"batch: no size for the stream 'target'",
    ),
    "too many devices": (
        lambda e: {"devices": 4096, "batch": 4096},
        r"devices=4096, but this proc",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_in_one_sentence(case, tmp_path):
    make, expected = CASES[case]
    base = {
        "model": tl.models.MLP(widths=(4,)),
        "data": arrays(),
        "steps": 2,
        "batch": 8,
    }

    def attempt():
        changes = make(tl.Experiment(**base))
        tl.setup(tl.Experiment(**{**base, **changes}), tmp_path / "run").compile()

    with pytest.raises(tl.UserError, match=expected) as caught:
        attempt()
    text = str(caught.value)
    assert text.endswith(".") or "\n" in text
    assert not (tmp_path / "run").exists() or case.startswith(("start", "stop"))


def test_a_checkpoint_of_another_shape_is_shown_side_by_side(tmp_path):
    base = tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=arrays(), steps=1, batch=8
    )
    tl.train(tl.setup(base, tmp_path / "run"))
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    wider = dataclasses.replace(base, model=tl.models.MLP(widths=(5,)), init=init)
    with pytest.raises(tl.UserError) as caught:
        tl.setup(wider)
    text = str(caught.value)
    assert "- layer1/dense/kernel (4, 4)" in text
    assert "+ layer1/dense/kernel (4, 5)" in text


def test_a_corrupt_checkpoint_is_told(tmp_path):
    base = tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=arrays(), steps=1, batch=8
    )
    tl.train(tl.setup(base, tmp_path / "run"))
    for path in (tmp_path / "run" / "checkpoints").rglob("*"):
        if path.is_file() and path.name != "_CHECKPOINT_METADATA":
            path.write_bytes(b"no checkpoint")
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    with pytest.raises(tl.UserError, match="can't be read as a checkpoint"):
        tl.setup(dataclasses.replace(base, init=init))


def test_a_foreign_folder_is_no_run(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("meow")
    base = tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=arrays(), steps=1, batch=8
    )
    for init, message in (
        (
            tl.pretrained.FromRun(str(tmp_path / "photos")),
            "holds no finished checkpoint",
        ),
        (
            tl.pretrained.FromCheckpoint(str(tmp_path / "photos")),
            "can't be read as a chec",
        ),
    ):
        with pytest.raises(tl.UserError, match=message):
            tl.setup(dataclasses.replace(base, init=init))


def test_a_head_of_another_size_names_the_remedy(tmp_path):
    base = tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=arrays(), steps=1, batch=8
    )
    tl.train(tl.setup(base, tmp_path / "run"))
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    two = dataclasses.replace(base, data=arrays(classes=(0, 1)), init=init)
    with pytest.raises(tl.UserError, match=r'reset=\("head",\)'):
        tl.setup(two)


def test_a_batch_far_over_the_data_is_refused_and_a_larger_one_is_said():
    def setup(batch):
        x, y = np.zeros((60, 4), np.float32), np.arange(60) % 2
        data = tl.data.Arrays(x=x, y=y, val=0)
        return tl.setup(
            tl.Experiment(
                model=tl.models.MLP(widths=(4,)), data=data, batch=batch, monitor=None
            )
        )

    with pytest.raises(UserError, match=r"batch=1,000,000 .* its 48 rows .*batch=48"):
        setup(1_000_000)
    assert "each of the 48 rows" in setup(96).notes["batch"]
    assert "batch" not in setup(48).notes
