"""Data sets: the options that all share, the tables of sources, and split data sets.

    Data (options, frozen) --read()--> Table (all examples) --prepare()--> Dataset

A source is a subclass of `Data` with a `read()`; splits, labels, noise and checks are
the same for all.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any, ClassVar, Literal

import numpy as np

from jaxtl.core import files
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.serialization import later_field
from jaxtl.core.types import PyTree
from jaxtl.data import episodic, images, paths
from jaxtl.data.episodic import Episodes
from jaxtl.data.origins import Origins
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.question_windows import Questions
from jaxtl.data.table_encoding import TableEncoding
from jaxtl.data.tokenizer import Tokenizer

UNIFORM = "uniform"
# Tasks whose examples have a tag for each word: spans of words with a type, which tags
# such as B-PER and I-PER mark, or any other tags.
TAG_TASKS = ("entities", "tags")
QUESTION_ANSWERING = "question_answering"  # the answer is a span of a context
# Inputs of questions about contexts, before they are tokenized: the context, and the
# texts of all right answers.
CONTEXT, ANSWERS = "context", "answers"
# Task of images and texts that belong together; y is the number of an example's image.
CONTRASTIVE = "contrastive"
# Several tasks over one model, of which an example has labels of some or all.
MULTITASK = "multitask"
# All that examples may ask of a model.
TASKS = (
    *("classification", "multilabel", "regression", "language", *TAG_TASKS),
    QUESTION_ANSWERING,
    CONTRASTIVE,
    MULTITASK,
)
# Tasks of which an example has a prediction that can be read by itself.
PREDICTED_TASKS = tuple(t for t in TASKS if t not in ("language", CONTRASTIVE))
WORDS = "words"  # the input of examples whose words are tagged, before it is tokenized
# Splits that are trained on, with labels and without.
TRAINING_SPLITS = ("train", "unlabelled")
SAMPLING = (UNIFORM, "balanced", "square_root")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """All examples of one source, before they are split.

    Attributes:
      x: (n, ...) numpy array, a `LazyArray`, or a dict of arrays of equal length.
        Images are (n, height, width, channels).
      y: (n,) integers below len(class_names) for "classification"; (n, labels) of 0
        and 1 for "multilabel"; (n,) or (n, targets) floats for "regression"; for
        "entities" and "tags" (n, words) tags, −1 behind the last word; for
        "question_answering" (n, 2) the first character of an answer in its context,
        and the one behind its last, −1 twice without an answer; for "contrastive" (n,)
        numbers of the images, equal where one image has several texts; for "multitask"
        (n, columns) floats, NaN for a label that is missing (see `task_outputs`).
      class_names: names in label order; None makes them "0", "1", ...
      task: "classification", "multilabel", "regression", "language", "entities",
        "tags", "question_answering", "contrastive" or "multitask".
      splits: row numbers of the splits "train", "val" and "test" that the data
        themselves have; {} for none.
      preprocess: how stored values become a model's input; None takes
        `preprocess.default(x)`.
      standardize: bool per feature: subtract the mean and divide by the standard
        deviation of the train rows (vectors only).
      target_names: of a regression's targets in order; () for none.
      feature_names: of the columns of x in order, "color=red" for a one-hot one; () for
        none (images, texts, arrays).
      encoding: how cells became x; None for other data than tables. Holes of x are NaN
        where it imputes them.
      train_tokenizer: "word_piece" or "byte_pairs" where x holds texts, arrays of
        objects "text" and "pair", lists of "words", or "question", "context" and
        "answers", that are tokenized once they are split; the kind of tokenizer that is
        trained if there is none. None for all other data.
      origins: where each row was read; None numbers the rows as they are.
      digests: (n,) bytes, hash of the file that holds each row's x, where x is not to
        be read for its fingerprint; None hashes its values.
      notes: what was decided or left out in reading, a sentence part each.
      groups: (n,) the group of each row (`Data.split_by`), None without groups.
      weights: (n,) the weight of each row (`Data.sample_weight`), None without any.
    """

    x: PyTree
    y: np.ndarray
    class_names: tuple[str, ...] | None = None
    task: str = "classification"
    splits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    preprocess: Preprocess | None = None
    standardize: np.ndarray | None = None
    target_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    encoding: TableEncoding | None = None
    train_tokenizer: str | None = None
    origins: Origins | None = None
    digests: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Options that every data set has.

    Attributes:
      classes: use these classes only, renumbered 0..K-1 in this order; names (1 is
        the class named "1"), or integer labels where no name is a number.
      labels_per_class: keep this many train labels per class; the other train rows
        become the "unlabelled" split. With one seed, the rows that keep 2 labels per
        class are among those that keep 5.
      labels: or keep this many train labels in all, in the classes' proportions; 0
        removes them all (unsupervised domain adaptation).
      label_noise: fraction of the labelled train rows whose label is replaced by a
        uniformly drawn other class.
      val: fraction (float) or count (int) of the train rows held out for validation;
        0 for none; unused where the data have a validation split, or no train rows.
      test: likewise for the test split; 1.0 takes all rows, for evaluation only.
      limit: use at most this many train rows, before test and validation are split off.
      split_seed: seed of test and validation, so that all seeds of an experiment share
        them; None takes the experiment's seed. Labels and noise always depend on the
        experiment's seed.
      split_by: column (or array) that names the group of each row, a patient, say: no
        group is in two splits, and the shares of the classes are as close to those of
        all rows as groups allow. It is no input of the model.
      sample_weight: column (or array) with the weight of each row, at least 0, in the
        loss (as scikit-learn's sample_weight) and in metrics. It is no input either.
      sampling: of train rows into batches: "uniform", every row once per epoch;
        "balanced", every class equally often; "square_root", every class by the root of
        its size. Then an epoch shows the largest class once, and rare rows again.
        `Episodes(ways=5, shots=1)` draws N-way K-shot episodes, and splits classes.
      size: bring images to this height and width, once, at load. None keeps their
        size, or takes the one that goes with pretrained weights
        (`pretrained.FromHub`).
      shortest: with `size`: resize the shorter side to this, then cut `size` out of
        the middle; (height, width) stretches to that before the cut; None stretches
        to `size`.
      resample: method of resizing, a key of `images.RESAMPLING`; None takes the one
        that goes with pretrained weights, else bilinear.
      channels: bring images to 1 (luma) or 3 channels, once, at load.
      preprocess: how stored values become the model's input; None takes the source's
        preprocessing. A pretrained model's mean and std go here.
    """

    classes: tuple[str | int, ...] | None = None
    labels_per_class: int | None = None
    labels: int | None = None
    label_noise: float = 0.0
    val: float | int = 0.1
    test: float | int = 0.2
    limit: int | None = None
    split_seed: int | None = None
    split_by: Any = later_field(None)
    sample_weight: Any = later_field(None)
    sampling: Literal["uniform", "balanced", "square_root"] | Episodes = later_field(
        UNIFORM
    )
    size: int | tuple[int, int] | None = None
    shortest: int | tuple[int, int] | None = None
    resample: str | None = None
    channels: int | None = None
    preprocess: Preprocess | None = None

    # Whether read() itself brings images to `size`, as it decodes them.
    resizes_images: ClassVar[bool] = False
    # Fields of the source that count only once its table is split.
    fitted_options: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        _check_options(self)

    def read(self) -> Table:
        """Reads all examples; each source implements it."""
        raise TypeError(f"{type(self).__name__} defines no read()")

    def sizes_differ(self) -> bool:
        """Whether images of the source may have several sizes, so that one is needed.

        Then the size of the model or of its pretrained weights is taken.
        """
        return False

    def files(self) -> tuple[pathlib.Path, ...]:
        """Files and folders that `read` reads: if one changes, they are read again.

        These are all that a field of the source names. A source that reads other files
        adds them here; one that reads a few files of large folders overrides
        `file_states` as well.
        """
        shared = {field.name for field in dataclasses.fields(Data)}
        return tuple(
            file
            for field in dataclasses.fields(self)
            if field.name not in shared
            for file in _named_files(getattr(self, field.name))
        )

    def file_states(self) -> tuple[files.FileState, ...]:
        """The states of all files that `read` reads; equal states, equal contents."""
        return files.states(self.files())


def _named_files(value: Any) -> tuple[pathlib.Path, ...]:
    """The files that a field's value names, itself or through its own `files`."""
    if callable(getattr(value, "files", None)):
        return tuple(value.files())
    if isinstance(value, (tuple, list)):
        return tuple(file for part in value for file in _named_files(part))
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        return ()
    try:
        return tuple(path for path in paths.candidates(value) if path.exists())[:1]
    except (OSError, ValueError):  # no text that a path can be
        return ()


def _check_options(data: Data) -> None:
    """Raises UserError for the first option of `data` that is not valid."""
    if data.labels_per_class is not None and data.labels is not None:
        raise UserError(
            "data.labels_per_class and data.labels exclude each other; "
            f"got {data.labels_per_class} and {data.labels}."
        )
    for name, least in (("labels_per_class", 0), ("labels", 0), ("limit", 1)):
        value = getattr(data, name)
        if value is not None and not (_is_integer(value) and value >= least):
            raise UserError(
                f"data.{name} must be a whole number ≥ {least}; got {value!r}."
            )
    if not (_is_number(data.label_noise) and 0 <= data.label_noise <= 1):
        raise UserError(
            "data.label_noise must be a fraction from 0 to 1; "
            f"got {data.label_noise!r}."
        )
    for name in ("val", "test"):
        _check_share(name, getattr(data, name))
    if isinstance(data.sampling, Episodes):
        episodic.check_options(data)
    elif data.sampling not in SAMPLING:
        raise UserError(
            f"data.sampling={data.sampling!r}{nearest(data.sampling, SAMPLING)} "
            f"(known: {', '.join(SAMPLING)}, tl.data.Episodes())."
        )
    seed = data.split_seed
    if seed is not None and not (_is_integer(seed) and seed >= 0):
        raise UserError(f"data.split_seed must be a whole number ≥ 0; got {seed!r}.")
    if data.classes is not None and len(set(data.classes)) < len(data.classes):
        raise UserError(f"data.classes names a class twice: {data.classes}.")
    images.as_size(data.size)
    images.check_shortest(data.shortest, data.size)
    images.check_resample(data.resample)
    images.check_channels(data.channels)


def _check_share(name: str, value: Any) -> None:
    """Raises UserError unless value is a count ≥ 0 or a fraction from 0 to 1."""
    is_count = _is_integer(value) and value >= 0
    is_fraction = _is_number(value) and not _is_integer(value) and 0 <= value <= 1
    if not (is_count or is_fraction):
        raise UserError(
            f"data.{name} must be a fraction between 0 and 1 (1.0 takes all rows), a "
            f"count of examples, or 0 for no {name} split; got {value!r}."
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) or _is_integer(value)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples with their splits, ready to be streamed.

    Attributes:
      name: the source's class name.
      x: as in `Table`, with `size`, `channels` and `classes` applied.
      y: labels, with label noise on the train rows; of tagged words those of their
        pieces, see `word_pieces.PieceLabels`; of questions the first and last token of
        the answer in each window, 0 and 0 for none.
      y_clean: labels as the source reads them.
      class_names: names in label order; () for regression.
      task: "classification", "multilabel", "regression", "language", "entities",
        "tags", "question_answering", "contrastive" or "multitask".
      rows: int32 row numbers of "train", "val", "test", and of "unlabelled" where
        some train rows lost their labels; disjoint.
      preprocess: how stored values become a model's input.
      fingerprint: hash of all examples, labels and class names (not of the splits).
      origins: where each row was read.
      files: files and folders that the examples were read from.
      tokenizer: of texts; None for other data.
      target_names, feature_names, encoding, notes: as in `Table`.
      sampling: of train rows into batches, as in `Data`.
      weights: (n,) float32 of the rows, None where each counts once.
      questions: that the rows are windows of; None for other data.
    """

    name: str
    x: PyTree
    y: np.ndarray
    y_clean: np.ndarray
    class_names: tuple[str, ...]
    task: str
    rows: dict[str, np.ndarray]
    preprocess: Preprocess
    fingerprint: str
    origins: Origins
    files: tuple[pathlib.Path, ...] = ()
    target_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    encoding: TableEncoding | None = None
    tokenizer: Tokenizer | None = None
    notes: tuple[str, ...] = ()
    sampling: str | Episodes = UNIFORM
    weights: np.ndarray | None = None
    questions: Questions | None = None

    @property
    def example_rows(self) -> dict[str, np.ndarray]:
        """Split -> its examples as the source counts them: questions, not windows."""
        if self.questions is None:
            return self.rows
        return {name: self.questions.of_rows(rows) for name, rows in self.rows.items()}

    @property
    def examples(self) -> int:
        """Number of examples as the source counts them."""
        return len(self.y if self.questions is None else self.questions.contexts)

    def check_labelled(self, reader: str) -> None:
        """Raises UserError where there are no labelled train rows.

        Args:
          reader: what is fitted on them, for the message.
        """
        if len(self.rows["train"]) == 0:
            raise UserError(
                f"{reader} is fitted on labelled train rows, and the data have none."
            )

    def check_unweighted(self, reader: str) -> None:
        """Raises UserError where examples have weights, which a reader does not read.

        Args:
          reader: what would count every example once, for the message.
        """
        if self.weights is not None:
            raise UserError(
                f"{reader} counts every example once, but the data have weights; leave "
                "data.sample_weight out for it."
            )

    @property
    def has_training_rows(self) -> bool:
        """Whether there are rows to train on, labelled or not."""
        return any(len(self.rows.get(name, ())) for name in TRAINING_SPLITS)

    @property
    def episodes(self) -> Episodes | None:
        """The episodes that train rows are drawn in, None where rows are."""
        return self.sampling if isinstance(self.sampling, Episodes) else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes that outputs stand for: of an episode, its places."""
        if self.episodes is None:
            return self.class_names
        return tuple(f"way {place + 1}" for place in range(self.episodes.ways))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the classes, labels or regression targets in order; () for none."""
        return self.label_names or self.target_names

    @property
    def outputs(self) -> int:
        """Number of classes (or ways), labels (multilabel) or regression targets.

        0 for language, where the outputs are the vocabulary's, and contrastive; 2 for
        questions, the logits of an answer's first and last token.
        """
        if self.task == QUESTION_ANSWERING:
            return 2
        if self.task == "regression":
            return 1 if self.y.ndim == 1 else self.y.shape[1]
        return len(self.label_names)

    @property
    def example_shape(self) -> Any:
        """Shape of one example without the batch axis; a dict of them for a dict."""
        if isinstance(self.x, dict):
            return {name: tuple(v.shape[1:]) for name, v in self.x.items()}
        return tuple(self.x.shape[1:])

    @property
    def dtype(self) -> Any:
        """Stored dtype; a dict of them for a dict."""
        if isinstance(self.x, dict):
            return {name: np.dtype(v.dtype) for name, v in self.x.items()}
        return np.dtype(self.x.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of x if it lay in memory."""
        parts = self.x.values() if isinstance(self.x, dict) else [self.x]
        return sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in parts)
