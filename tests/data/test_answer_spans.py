"""Answers from the logits of windows, against `run_qa` of transformers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.data import answer_spans

CONTEXTS = (
    "Anna lives in Paris near the old bridge .",
    "Oslo is cold .",
    "Emil sells apples , pears and plums .",
)
LENGTH = 9
# What `postprocess_qa_predictions` of transformers (examples/pytorch/
# question-answering/utils_qa.py, commit 31f57e9) gives for `windows()`, with
# n_best_size=20, max_answer_length=3, without and with version_2_with_negative.
V1 = [
    ("Anna lives in", 0.3526159424302124),
    ("Oslo", 0.5275895770245117),
    ("Emil sells", 0.42564124950676857),
]
V2 = [
    ("Anna lives in", 0.28237821861452084, -0.34567999449471865),
    ("", 0.4651643495583314, 0.4998678925711333),
    ("", 0.3730262425444816, 0.3337308396509795),
]


def windows():
    """Windows of up to 6 words behind 2 other tokens, and drawn logits."""
    question, begin, end = [], [], []
    for number, context in enumerate(CONTEXTS):
        words = context.split(" ")
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        spans = [(b - len(word), b) for word, b in zip(words, ends)]
        for start in (0, 3) if len(words) > 6 else (0,):
            part = spans[start : start + 6]
            rest = [(-1, -1)] * (LENGTH - 2 - len(part))
            both = np.array([(-1, -1)] * 2 + part + rest)
            question.append(number)
            begin.append(both[:, 0])
            end.append(both[:, 1])
    logits = np.random.default_rng(5).normal(size=(len(question), LENGTH, 2)) * 1.5
    logits[:, 0] += 3.5
    return np.array(question), np.array(begin), np.array(end), logits


def predictions(threshold):
    question, begin, end, logits = windows()
    for number, context in enumerate(CONTEXTS):
        rows = question == number
        yield (
            context,
            answer_spans.predict_answer(
                begin[rows], end[rows], logits[rows], 3, threshold
            ),
        )


def _text(context, span):
    return "" if span is None else context[span.start : span.end]


def test_answers_are_those_of_transformers():
    for (context, p), (text, probability) in zip(predictions(None), V1):
        assert _text(context, p.span) == text
        np.testing.assert_allclose(p.probability, probability, rtol=1e-12)
    for (context, p), (text, probability, lead) in zip(predictions(0.0), V2):
        assert _text(context, p.span) == text
        np.testing.assert_allclose(p[2:], [probability, lead], rtol=1e-12)
    texts = [_text(context, p.span) for context, p in predictions(0.4)]
    assert texts == ["Anna lives in", "", "Emil sells"]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 30),
    st.integers(0, 10**6),
)
def test_the_best_spans_are_the_best_of_all(count, length, longest, most, seed):
    """Against all pairs of tokens of the context, one by one."""
    rng = np.random.default_rng(seed)
    begin = np.where(rng.random((count, length)) < 0.7, np.arange(length) * 3, -1)
    end = np.where(begin >= 0, begin + rng.integers(0, 4, begin.shape), -1)
    logits = rng.normal(size=(count, length, 2)).astype(np.float32)
    pairs = [
        (float(logits[w, i, 0]) + float(logits[w, j, 1]), begin[w, i], end[w, j])
        for w in range(count)
        for i in range(length)
        for j in range(i, min(i + longest, length))
        if begin[w, i] >= 0 and end[w, j] > begin[w, i]
    ]
    expected = sorted(pairs, reverse=True)[:most]
    assert answer_spans.best_spans(begin, end, logits, longest, most) == expected


def test_no_answer_shares_the_probability_of_twenty():
    """It is the last of 20 where it is better than one of them, else the 21st."""
    start = np.arange(25)[None]
    logits = np.zeros((1, 25, 2))
    logits[0, :, 0] = np.arange(25) / 10
    start[0, 0] = -1  # a token of the question, whose score is that of no answer
    scores = np.arange(5, 25) / 10  # of the 20 best of 24 spans of one token
    for null, shared in ((0.0, scores), (1.0, scores[1:])):
        logits[0, 0] = null, 0
        prediction = answer_spans.predict_answer(start, start + 1, logits, 1, 0.0)
        expected = np.exp(2.4) / (np.exp(shared).sum() + np.exp(null))
        np.testing.assert_allclose(prediction.probability, expected, rtol=1e-12)


def test_a_window_without_context_has_no_span():
    nothing = np.full((1, 4), -1)
    logits = np.zeros((1, 4, 2))
    assert answer_spans.best_spans(nothing, nothing, logits, 3, 20) == []
    assert answer_spans.predict_answer(nothing, nothing, logits, 3, None).span is None
    assert answer_spans.predict_answer(nothing, nothing, logits, 3, 0.0)[1:] == (
        0.0,
        1.0,
        np.inf,
    )
