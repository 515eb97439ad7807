"""The Experiment: one frozen value that holds everything a run needs."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NoReturn

from jaxtl.core import serialization
from jaxtl.core.errors import UserError, nearest
from jaxtl.data.dataset import Data
from jaxtl.data.preprocess import Preprocess
from jaxtl.evaluation.metrics import experiment_metrics
from jaxtl.optim.averaging import Averaging
from jaxtl.optim.optimizer import AdamW, Optimizer
from jaxtl.optim.phases import Phase, Phases
from jaxtl.terms.base import Term
from jaxtl.training import setting_paths

DTYPES = ("float32", "bfloat16")
CACHES = ("auto", "memory", "disk", "off")
# Fields that say where a run computes and not what: it may go on elsewhere.
PLACEMENT = ("devices", "param_shards", "tensor_shards")
LOGGERS = ("tensorboard", "wandb", "mlflow")


@dataclasses.dataclass(frozen=True)
class Variant:
    """Initial weights from another variant of the same file.

    A variant that others start from runs before them: once, with its own seed, or with
    `per_seed` once for each seed of the variant that starts from it.

    Attributes:
      name: the other variant's name.
      reset, ignore, which: as in `pretrained.FromRun`.
      per_seed: whether seed k starts from the other variant's seed k.
    """

    is_init_only: ClassVar[bool] = True  # only `init` of an experiment may be one

    name: str
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    which: Literal["best", "last"] = "best"
    per_seed: bool = False

    def read(self) -> NoReturn:
        """Raises UserError: only `jaxtl run` can train the other variant first."""
        raise UserError(
            f"init=Variant({self.name!r}) stands for another variant of the same "
            "experiment file, which `jaxtl run` (or tl.run) trains first; set up by "
            f'itself it needs init=tl.pretrained.FromRun("<directory of {self.name}>").'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A transfer run as a value: `Experiment + seed + directory → Run`.

    Attributes:
      model: a staged model (its `outputs` may stay None: the data decide), or a
        `Network`, which any pure (init, apply) pair can be made into.
      data: the target data; its splits are the streams "target" (labelled train rows)
        and "unlabelled" (train rows without label, if any), and "val" and "test".
      streams: further labelled data by stream name, {"source": …}; their train rows.
      init: None for random weights, or what has `read() -> Weights`:
        `pretrained.FromRun`, `FromCheckpoint`, `FromFile` and `FromHub`, or `Variant`.
      terms: the loss, name -> Term; empty means the task's loss alone.
      optim: the optimizer with its groups (what is frozen).
      phases: what is trainable when: `tl.optim.GradualUnfreezing()`, `LPFT()`, or
        `Phase` values in order; () trains the same from the first step to the last.
      peft: parameter-efficient tuning, `tl.peft.LoRA()`: parameters are written as
        merge(base, delta), of which delta is trained, and the head; the base stays
        unless optim.groups says otherwise. None tunes the parameters themselves.
      average: an average of the weights over steps that is evaluated and kept in their
        place, `tl.optim.EMA()` or `SWA()`.
      wise_ft: numbers α; after training the best of (1 − α)·θ₀ + α·θ on "val" takes
        the place of the best checkpoint (Wortsman et al., CVPR 2022). () leaves it.
      cache: of the outputs of frozen stages, computed once and trained from: "auto"
        (in memory, where it pays), "memory", "disk" or "off".
      cache_bytes: features of more bytes than this are not cached, nor are outputs of
        teachers (`tl.distillation`). It bounds each term's outputs, not their sum.
      cache_dir: folder of cache="disk"; None is jaxtl/features in the user's cache.
      steps: number of optimizer steps; 0 evaluates the initial model, as do data
        without train rows (and no terms).
      batch: examples per step and stream; a mapping gives some streams their own.
      augment: augmentations of training batches, in order.
      statistics: names of the streams whose batches update BatchNorm's running
        statistics, which evaluation uses; None is all that the terms read.
        ("unlabelled",) keeps those of the target's domain: AdaBN (Li et al., Pattern
        Recognition 80, 2018).
      joint_pass: names of the streams whose batches pass through the model together,
        so that BatchNorm normalizes them by the mean and variance of all, as in
        `tllib`'s and CDAN's programs; ("source", "unlabelled"), say. () lets each
        stream pass by itself, normalized by its own.
      preprocess: None takes the one that came with `init`, else the data's.
      metrics: further metrics of every evaluation, name -> `tl.metrics.AUROC()` … or a
        function f(outputs, labels[, weights]) -> float of numpy arrays, of outputs
        before the output activation. Larger values of a function are better unless it
        has an attribute `higher_is_better` that is False (or see `metrics.Function`).
      monitor: metric on "val" that chooses the best checkpoint ("accuracy", "nll", …);
        "auto" is accuracy or mse by task, None keeps the last, as does "auto" without
        val rows. Where the target has no labels to train on, "auto" is what chooses
        without them: the accuracy on the source's val split ("source_accuracy"; without
        a source "bnm"); "iwv", "dev", "entropy" and "snd" do, too
        (evaluation/validators.py), and "accuracy" is an oracle.
      threshold: of two classes, or of each of several labels, what the threshold of the
        probability maximizes on "val" with the best checkpoint: "f1", "youden",
        "accuracy" or "matthews". It is stored with the run; evaluations, exports and
        predictions decide by it. None decides by ½. For questions that may lack an
        answer it is how far the score of no answer must lead, which "f1" or
        "exact_match" chooses; None is 0.
      patience: evaluations on "val" in a row without a better `monitor` after which
        training ends; None takes all steps. Schedules span `steps` nevertheless.
      test: whether the test split is evaluated at the end; leave it alone while tuning.
      evaluate_every: steps between evaluations on "val"; None means ten times a run.
      evaluate_batch: examples per forward pass of an evaluation.
      log_every: steps between lines of metrics.jsonl; None means every evaluation and
        a hundredth of the run.
      save_every: steps between checkpoints; None means each minute and at the end.
      accumulate: micro-batches per step, of batch / accumulate examples each. The
        gradient is the whole batch's; `tl.show` names the terms that compare the
        examples of a batch and so see a micro-batch.
      dtype: of forward and backward pass; parameters are float32 throughout.
      devices: number of devices; the batch is split over all. In a job of several
        processes (`jaxtl launch`) they are those of all, and 1 stands for every one.
      param_shards: over how many of them parameters are split (fully sharded).
      tensor_shards: over how many neighboring ones each layer of a transformer is split
        (tensor parallelism); they see the same examples. devices is a multiple of
        param_shards · tensor_shards.
      steps_per_dispatch: None chooses by platform.
      device_bytes: data up to this size live on the device; larger ones are streamed
        from the host.
      tensorboard: the same as log=("tensorboard",).
      log: loggers beside metrics.jsonl, of "tensorboard" (extra: track), "wandb" and
        "mlflow", for runs that have a directory. It is no part of what identifies an
        experiment: a run may be resumed with others.
      seed: of initial weights, data order, dropout, splits.
    """

    model: Any
    data: Data
    streams: Mapping[str, Data] = dataclasses.field(default_factory=dict)
    init: Any = None
    terms: Mapping[str, Term] = dataclasses.field(default_factory=dict)
    optim: Optimizer = dataclasses.field(default_factory=AdamW)
    phases: Phases | tuple[Phase, ...] = ()
    peft: Any = None
    average: Averaging | None = None
    wise_ft: tuple[float, ...] = ()
    cache: Literal["auto", "memory", "disk", "off"] = "auto"
    cache_bytes: int = 2_000_000_000
    cache_dir: str | None = None
    steps: int = 1000
    batch: int | Mapping[str, int] = 64
    augment: tuple = ()
    statistics: tuple[str, ...] | None = None
    joint_pass: tuple[str, ...] = serialization.later_field(())
    preprocess: Preprocess | None = None
    metrics: Mapping[str, Any] = serialization.later_field(default_factory=dict)
    monitor: str | None = "auto"
    threshold: str | None = serialization.later_field(None)
    patience: int | None = None
    test: bool = True
    evaluate_every: int | None = None
    evaluate_batch: int = 512
    log_every: int | None = None
    save_every: int | None = None
    accumulate: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    devices: int = 1
    param_shards: int = 1
    tensor_shards: int = serialization.later_field(1)
    steps_per_dispatch: int | None = None
    device_bytes: int = 2_000_000_000
    tensorboard: bool = False
    log: tuple[str, ...] = serialization.later_field((), identifies=False)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("wise_ft", "phases", "augment", "statistics", "joint_pass"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "log", _logger_names(self.log))
        for name, least in _LEAST.items():
            _check_count(name, getattr(self, name), least)
        if not self.seed < 2**32:
            raise UserError(f"seed={self.seed!r}: expected 0 ≤ seed < 2³².")
        for name, choices in (("dtype", DTYPES), ("cache", CACHES)):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(
                    f"{name}={value!r}{nearest(value, choices)} "
                    f"(known: {', '.join(choices)})."
                )
        for name in ("terms", "streams"):
            if not isinstance(getattr(self, name), Mapping):
                raise UserError(
                    f"{name}={getattr(self, name)!r}: expected a mapping from names."
                )
        for name, term in self.terms.items():
            if not isinstance(term, Term):
                raise UserError(
                    f"terms[{name!r}]={term!r}: expected a Term such as "
                    "tl.losses.CrossEntropy()."
                )
        experiment_metrics.check_entries(self.metrics)
        for name, fits, expected in self._parts():
            if not fits:
                value = getattr(self, name)
                raise UserError(f"{name}={value!r}: expected {expected}.")

    def _parts(self) -> Iterator[tuple[str, bool, str]]:
        """Yields (field, whether its value is of the right kind, what is expected)."""
        yield (
            "init",
            self.init is None or callable(getattr(self.init, "read", None)),
            'initial weights such as tl.pretrained.FromRun("<directory>"), or None',
        )
        yield (
            "optim",
            isinstance(self.optim, Optimizer),
            "an optimizer such as tl.optim.AdamW()",
        )
        yield (
            "peft",
            self.peft is None or callable(getattr(self.peft, "merge", None)),
            "a reparametrization such as tl.peft.LoRA(), or None",
        )
        yield (
            "wise_ft",
            all(isinstance(a, int | float) and 0 <= a <= 1 for a in self.wise_ft),
            "numbers in [0, 1], such as (0.0, 0.5, 1.0)",
        )
        yield (
            "phases",
            isinstance(self.phases, tuple | Phases),
            "tl.optim.GradualUnfreezing(), tl.optim.LPFT(), or a tuple of "
            "tl.optim.Phase",
        )
        yield (
            "augment",
            isinstance(self.augment, tuple) and all(map(callable, self.augment)),
            "a tuple of augmentations such as (tl.data.Flip(), tl.data.Crop(pad=4))",
        )
        yield (
            "average",
            isinstance(self.average, Averaging | None),
            "tl.optim.EMA() or SWA()",
        )

    def _repr_html_(self) -> str:
        return setting_paths.html_table(self, "Experiment")

    def batch_of(self, stream: str) -> int:
        """The batch size of a stream.

        Args:
          stream: its name, "target" say.

        Returns:
          Examples per step over all devices; `batch` itself where it is one number for
          all.

        Raises:
          UserError: `batch` names sizes by stream, and none for this one.
        """
        if not isinstance(self.batch, Mapping):
            return self.batch
        if stream in self.batch:
            return self.batch[stream]
        raise UserError(
            f"batch: no size for the stream {stream!r}{nearest(stream, self.batch)} "
            f"(given: {', '.join(self.batch)})."
        )


def _logger_names(value: Any) -> tuple[str, ...]:
    """The names of loggers; "wandb,mlflow" of a command line is a pair."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, tuple | list):
        raise UserError(f'log={value!r}: expected names such as ("tensorboard",).')
    stripped = tuple(x.strip() if isinstance(x, str) else x for x in names)
    for name in stripped:
        if name not in LOGGERS:
            raise UserError(
                f"log: there is no logger {name!r} (known: {', '.join(LOGGERS)})"
                f"{nearest(name, LOGGERS) or '.'}"
            )
    return stripped


# Fields that hold whole numbers -> the least value.
_LEAST = {
    "steps": 0,
    "evaluate_batch": 1,
    "accumulate": 1,
    "evaluate_every": 1,
    "log_every": 1,
    "patience": 1,
    "save_every": 1,
    "steps_per_dispatch": 1,
    "device_bytes": 0,
    "cache_bytes": 0,
    "seed": 0,
}


def _check_count(name: str, value: Any, least: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not (is_whole and value >= least) and (value is not None or name == "seed"):
        raise UserError(
            f"{name}={value!r}: expected a whole number of at least {least}."
        )
