"""An exported model, called on arrays or texts in the units of its training data.

Nothing here imports a model, an experiment or flax: an exported model outlives them.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.token_ids import check_ids
from jaxtl.data.dataset import MULTITASK
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.text_columns import token_ids
from jaxtl.data.tokenizer import TOKENIZER, Tokenizer

BATCH = 256  # rows per call of the program; more are cut into several calls
SINGLE_INPUT = "x"  # name of the only input, where a model takes one array


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """An exported model; call it on a batch in stored units (uint8 pixels, say).

    Attributes:
      folder: the export folder.
      name: of the model in messages, the folder or the run that it was exported from.
      metadata: content of its export.json.
      preprocess: how image files are brought to the model's size; mean, std and scale
        are applied inside the program.
      weights: name -> array, on the device.
      program: (weights, {name: batch}) -> {name: outputs}, compiled per batch size.
    """

    folder: pathlib.Path
    name: str
    metadata: Mapping[str, Any]
    preprocess: Preprocess
    weights: Mapping[str, jax.Array]
    program: Callable[..., dict[str, jax.Array]]

    @property
    def task(self) -> str:
        """The task: "classification", "multilabel" or "regression"."""
        return self.metadata["task"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the outputs; () for regression."""
        return tuple(self.metadata["class_names"])

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of the second class's probability, or of each label's; None for ½."""
        values = self.metadata.get("thresholds")
        return None if values is None else tuple(values)

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Input name -> (shape of one example, stored dtype)."""
        return {
            name: (tuple(spec["shape"]), np.dtype(spec["dtype"]))
            for name, spec in self.metadata["inputs"].items()
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one example's outputs, (outputs,) for most models."""
        return tuple(self.metadata["outputs"])

    @property
    def takes_pairs(self) -> bool:
        """Whether a model of texts takes two per example."""
        return "token_type_ids" in self.inputs or self._reads_separately

    @property
    def _reads_separately(self) -> bool:
        """Whether the two texts of a pair are read each by itself."""
        shape, _ = self.inputs.get("input_ids", ((), None))
        return len(shape) == 2

    def __call__(self, x: Any) -> np.ndarray:
        """Computes probabilities (n, classes), or outputs (n, targets) for regression.

        Softmax for classification; for multilabel a sigmoid per label; of several
        tasks side by side what each would have alone; of pairs of
        question and context (n, length, 2), softmax over tokens: first and last one of
        the answer. `predict.predict` reads files, and gives answers.

        Args:
          x: (n, …) array in stored units, or {name: array} for a model of several; a
            list of n texts, or of pairs of texts, for a model of texts.

        Raises:
          UserError: for inputs of another shape, kind or range.
        """
        outputs = self.outputs(x)
        has_outputs = self.task in ("regression", MULTITASK)
        return outputs["outputs" if has_outputs else "probabilities"]

    def outputs(self, x: Any) -> dict[str, np.ndarray]:
        """Computes all outputs: "logits" and "probabilities", or "outputs".

        Args and errors are those of the call.
        """
        arrays = self.as_inputs(x)
        n = len(next(iter(arrays.values())))
        chunks = [self._run(arrays, start) for start in range(0, n, BATCH)]
        outputs = {
            name: np.concatenate([chunk[name] for chunk in chunks])
            for name in chunks[0]
        }
        if self.preprocess.target_offset is not None:
            outputs["outputs"] = outputs["outputs"] + np.asarray(
                self.preprocess.target_offset
            )
        return outputs

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Computes the embedding of each text, (n, width), of a model that compares
        pairs of them.

        Raises:
          UserError: a model of another kind, or no texts.
        """
        if not self._reads_separately:
            raise UserError(
                f"{self.name} gives no embeddings of texts: it is no bi-encoder."
            )

        def embeddings(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
            return self.outputs(list(zip(first, second)))["embeddings"]

        return embeddings_of_texts(embeddings, texts, BATCH)

    def _run(
        self, arrays: Mapping[str, np.ndarray], start: int
    ) -> dict[str, np.ndarray]:
        """Runs up to BATCH rows, padded to a power of two so that few sizes compile."""
        chunk = {name: v[start : start + BATCH] for name, v in arrays.items()}
        n = len(next(iter(chunk.values())))
        rows = np.minimum(np.arange(1 << (n - 1).bit_length()), n - 1)
        batch = {name: v[rows] for name, v in chunk.items()}
        if self.preprocess.offset is not None:
            shifted = batch[SINGLE_INPUT] - np.asarray(self.preprocess.offset)
            batch[SINGLE_INPUT] = shifted.astype(self.inputs[SINGLE_INPUT][1])
        outputs = self.program(self.weights, batch)
        return {name: np.asarray(v)[:n] for name, v in outputs.items()}

    def as_inputs(self, x: Any, name: str = "x") -> dict[str, np.ndarray]:
        """Checks inputs and converts them to {input name: batch} in stored dtypes.

        Those of a model with an offset stay float64.

        Args:
          x: as in the call.
          name: of x in messages.

        Raises:
          UserError: a missing or unknown input, or one of another shape or range.
        """
        if isinstance(x, list | tuple) and x and _is_text(x[0]):
            x = self.tokenize(x, name)
        if not isinstance(x, Mapping):
            if set(self.inputs) != {SINGLE_INPUT}:
                raise UserError(
                    f"{name} is one array, but {self.name} takes the inputs "
                    f"{', '.join(self.inputs)}: pass a dict (or a .npz) of them."
                )
            x = {SINGLE_INPUT: x}
        for key in sorted(set(x) ^ set(self.inputs)):
            problem = "unknown" if key in x else "missing"
            raise UserError(
                f"{name}: the input {key!r} is {problem}"
                f"{nearest(key, self.inputs) if key in x else ''} "
                f"({self.name} takes {', '.join(self.inputs)})."
            )
        has_several = len(self.inputs) > 1
        offset = self.preprocess.offset
        arrays = {
            key: _as_stored(
                x[key], *spec, f"{name}[{key!r}]" if has_several else name, offset
            )
            for key, spec in self.inputs.items()
        }
        # Folders written by older versions don't say how many ids there are.
        check_ids(arrays, self.metadata.get("id_sizes", {}), name)
        lengths = {key: len(v) for key, v in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{name}: the inputs differ in length: {lengths}.")
        return arrays

    def tokenize(
        self, texts: Sequence[Any], name: str = "x", rows: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Converts texts, or pairs of texts, to the model's inputs.

        Longer texts are truncated to the length of the model's training batches.

        Args:
          texts: n texts or pairs of texts.
          name: of the texts in messages.
          rows: name of each text in messages; None takes "name, row 0", ….

        Raises:
          UserError: an export without a tokenizer, texts where pairs are needed or the
            reverse, or the library tokenizers is missing.
        """
        tokenizer = self.tokenizer(name)
        for number, text in enumerate(texts):
            if isinstance(text, str) is self.takes_pairs or not _is_text(text):
                expected = "a pair of texts" if self.takes_pairs else "one text"
                place = f"{name}, row {number}" if rows is None else rows[number]
                raise UserError(f"{place}: {text!r} is not {expected}.")
        columns = [*zip(*texts)] if self.takes_pairs else [texts]
        return token_ids(tokenizer, columns, self._reads_separately)

    def tokenizer(self, name: str = "x") -> Tokenizer:
        """The tokenizer of a model of texts, which cuts them to the model's length.

        Args:
          name: of the texts in messages.

        Raises:
          UserError: an export without a tokenizer.
        """
        path = self.folder / TOKENIZER
        if not path.is_file():
            raise UserError(
                f"{name} is text, but {self.name} holds no {TOKENIZER}: the model "
                f"takes {', '.join(self.inputs)} as arrays."
            )
        (*_, length), _ = self.inputs["input_ids"]
        return Tokenizer(str(path), max_length=length, buckets=(length,))


def embeddings_of_texts(
    embeddings: Callable[[Sequence[str], Sequence[str]], np.ndarray],
    texts: Sequence[str],
    batch: int,
) -> np.ndarray:
    """Embeddings of single texts by a function of pairs, two texts of which are one.

    Args:
      embeddings: n first and n second texts -> (n, 2, width).
      texts: n ≥ 1 texts.
      batch: pairs at once; where there are as many texts, all calls have this size.

    Returns:
      (n, width) float32.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"encode: text {row} is {text!r}; expected a text.")
    if not texts:
        raise UserError("encode: there are no texts.")
    count, size = len(texts), 2 * min(batch, (len(texts) + 1) // 2)
    texts += [texts[-1]] * (-count % size)
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    values = [embeddings(part[::2], part[1::2]) for part in parts]
    width = values[0].shape[-1]
    return np.float32(np.concatenate(values)).reshape(-1, width)[:count]


def _is_text(value: Any) -> bool:
    """Whether a value is a text or a pair of texts."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    return isinstance(value, str) or (
        is_pair and all(isinstance(part, str) for part in value)
    )


def _as_stored(
    x: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    name: str,
    offset: tuple[float, ...] | None,
) -> np.ndarray:
    """Converts one input to a batch of the stored dtype, if that keeps its values.

    With an offset, which is subtracted only as the program runs, to float64.
    """
    x = np.asarray(x)
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        expected = f"(n, {', '.join(map(str, shape))})" if shape else "(n,)"
        raise UserError(
            f"{name} has the shape {x.shape}; the exported model takes {expected}, "
            f"{dtype}."
        )
    if len(x) == 0:
        raise UserError(f"{name} holds no examples: its shape is {x.shape}.")
    if x.dtype.kind not in "buif":
        raise UserError(f"{name} is of dtype {x.dtype}; expected numbers ({dtype}).")
    if offset is not None:
        if x.dtype == np.float32 or x.dtype == np.float16:
            raise UserError(
                f"{name} is of dtype {x.dtype}, too coarse for features about "
                f"{max(map(abs, offset)):g}; pass them as float64."
            )
        dtype = np.dtype(np.float64)
    if x.dtype == dtype:
        return x
    with np.errstate(invalid="ignore", over="ignore"):
        cast = x.astype(dtype)
    if dtype.kind in "bui" and not np.array_equal(cast, x):
        raise UserError(
            f"{name} is {x.dtype} with values from {x.min():g} to {x.max():g}; the "
            f"exported model takes stored values of {dtype}, not scaled ones."
        )
    return cast
