"""Data sets of questions: their rows become windows of contexts, after the split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxtl.data.dataset import ANSWERS, CONTEXT, Data, Dataset, Table
from jaxtl.data.question_windows import (
    NO_ANSWER,
    ContextWindows,
    Questions,
    context_windows,
    halved_note,
    span_labels,
)
from jaxtl.data.tokenizer import Tokenizer

# Tokens of a window, of a context that two share, and of an answer, where a source
# does not say: those of run_qa of transformers.
_LONGEST, _STRIDE, _LONGEST_ANSWER = 384, 128, 30


def windowed(
    dataset: Dataset, table: Table, data: Data, tokenizer: Tokenizer, notes: list[str]
) -> Dataset:
    """A data set of windows, with the tokenizer that cuts them.

    Args:
      dataset: split, a row for each question; its y as in `Table`.
      table: holds the texts.
      data: gives the lengths of windows and answers.
      tokenizer: of the texts, whatever its length.
      notes: what was said of it.
    """
    longest = getattr(data, "max_length", None)
    context = getattr(data, "model_context", None)
    if longest is None:
        longest = min(_LONGEST, context or _LONGEST)
    tokenizer = dataclasses.replace(tokenizer, max_length=longest)
    texts = {name: table.x[name].tolist() for name in ("question", CONTEXT, ANSWERS)}
    stride = getattr(data, "stride", _STRIDE)
    windows = context_windows(tokenizer, texts["question"], texts[CONTEXT], stride)
    answers = dataset.y_clean[windows.question]
    y, holds = span_labels(windows.start, windows.end, answers)
    rows = {
        name: np.flatnonzero(np.isin(windows.question, numbers)).astype(np.int32)
        for name, numbers in dataset.rows.items()
    }
    weights = dataset.weights
    notes = [
        *dataset.notes,
        *notes,
        *_window_notes(windows, dataset.y_clean, holds, stride),
        *_shared_contexts(table.x[CONTEXT], dataset.rows),
    ]
    return dataclasses.replace(
        dataset,
        x=windows.x,
        y=y,
        y_clean=y,
        rows=rows,
        origins=dataset.origins.select(windows.question),
        weights=None if weights is None else weights[windows.question],
        tokenizer=tokenizer,
        notes=tuple(notes),
        questions=Questions(
            question=windows.question,
            start=windows.start,
            end=windows.end,
            contexts=tuple(texts[CONTEXT]),
            answers=tuple(texts[ANSWERS]),
            stride=stride,
            max_answer_length=getattr(data, "max_answer_length", _LONGEST_ANSWER),
        ),
    )


def _window_notes(
    windows: ContextWindows, answers: np.ndarray, holds: np.ndarray, stride: int
) -> list[str]:
    """What is said of windows.

    Args:
      windows: of all questions.
      answers: (n, 2) the place of each question's first answer.
      holds: (windows,) whether a window has the answer.
      stride: that was asked for.
    """
    notes, cut = [], len(windows.question) - len(answers)
    if cut:
        notes.append(
            f"{len(answers):,} questions are read in {len(windows.question):,} windows "
            f"of at most {windows.x['input_ids'].shape[1]:,} tokens, which overlap by "
            f"{stride:,} tokens of the context"
        )
    notes += halved_note(windows.halved, stride)
    is_held = np.bincount(windows.question[holds], minlength=len(answers)) > 0
    lost = int(((answers[:, 0] != NO_ANSWER) & ~is_held).sum())
    if lost:
        notes.append(
            f"{lost:,} answers are in no window as a whole, and are trained on as "
            "absent; raise stride or max_length"
        )
    return notes


def _shared_contexts(contexts: np.ndarray, rows: Mapping[str, np.ndarray]) -> list[str]:
    """Says how many held-out questions are about a context of train."""
    train = set(contexts[rows["train"]].tolist())
    train |= set(contexts[rows.get("unlabelled", rows["train"][:0])].tolist())
    counts = [
        f"{sum(text in train for text in contexts[rows[split]].tolist()):,} of "
        f"{len(rows[split]):,} {split} questions"
        for split in ("val", "test")
        if split in rows and not train.isdisjoint(contexts[rows[split]].tolist())
    ]
    if not counts:
        return []
    return [
        f"{', '.join(counts)} are about a context of train; split_by='context' keeps "
        "contexts apart"
    ]
