"""A model for question answering of transformers, measured on a file of SQuAD."""

import json
import types

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.data.question_windows import Questions
from jaxtl.evaluation import answer_outputs
from jaxtl.evaluation.metrics import answers
from jaxtl.evaluation.metrics.answers import answer_scores

NAMES, CITIES = (
    ["anna", "bert", "carl", "dora", "emil"],
    ["paris", "oslo", "rome", "lima"],
)
LENGTH, STRIDE, LONGEST = 24, 6, 4


def _questions():
    for i in range(20):
        facts = [(NAMES[(i + k) % 5], CITIES[(i * k + k) % 4]) for k in range(4)]
        context = " ".join(f"{name} lives in {city} ." for name, city in facts)
        text = f"{facts[2][0]} lives in {facts[2][1]}"
        answers = [{"text": text, "answer_start": context.index(text)}]
        name = facts[2][0] if i % 3 else "frida"
        yield {
            "question": f"where does {name} live ?",
            "context": context,
            "answers": answers if i % 3 else [],
        }


def _encoder(folder):
    """A small model of transformers with its tokenizer, written to a folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lives", "in", ".", "?"]
    words += ["where", "does", "live", *NAMES, "par", "##is", "oslo", "ro", "##me"]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = transformers.BertForQuestionAnswering(config).eval()
    torch.nn.init.normal_(model.qa_outputs.weight, std=1.0)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    return model, transformers.BertTokenizerFast(str(folder / "vocab.txt"))


def _scores(rows, encoded, start, end):
    """Exact match and F1 of each question, all spans compared one by one."""
    owner = np.array(encoded["overflow_to_sample_mapping"])
    for number, row in enumerate(rows):
        spans, nulls = [], []
        for w in np.flatnonzero(owner == number):
            offsets, parts = encoded["offset_mapping"][w], encoded.sequence_ids(w)
            nulls.append(start[w, 0] + end[w, 0])
            spans += [
                (start[w, i] + end[w, j], offsets[i][0], offsets[j][1])
                for i in range(LENGTH)
                for j in range(i, min(i + LONGEST, LENGTH))
                if parts[i] == parts[j] == 1
            ]
        score, a, b = max(spans)
        text = "" if min(nulls) > score else row["context"][a:b]
        yield answer_scores(text, [x["text"] for x in row["answers"]])


def test_questions_are_measured_by_one_pass_over_their_windows():
    """The right answers of all questions are read once, not once for each question."""
    passes = []

    class Answers(tuple):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    class Numbers(np.ndarray):
        def __eq__(self, number):
            passes.append(1)
            return super().__eq__(number)

    count, length = 40, 4
    question = np.repeat(np.arange(count, dtype=np.int32), 2)
    start = np.tile(np.array([-1, 0, 2, 4], np.int32), (2 * count, 1))
    questions = Questions(
        question=question.view(Numbers),
        start=start,
        end=np.where(start < 0, -1, start + 1),
        contexts=("a b c",) * count,
        answers=Answers([("b",)] * count),
        stride=1,
        max_answer_length=2,
    )
    rows = np.arange(2 * count)[::-1]
    logits = np.zeros((2 * count, length, 2))
    logits[1::2, 2] = np.arange(1, count + 1)[::-1, None]  # the second windows have it
    dataset = types.SimpleNamespace(questions=questions)
    labels = np.zeros((2 * count, 2), int)
    outputs, has_answer = answer_outputs.per_example(
        dataset, rows, logits[::-1], labels
    )
    assert has_answer.tolist() == [1] * count
    np.testing.assert_array_equal(outputs[:, answers.EXACT], 1)
    np.testing.assert_array_equal(outputs[:, answers.WINDOWS], 2)
    # −log p(token 0) of both windows, the mean of first and last tokens.
    second = np.log(length - 1 + np.exp(logits[1::2, 2, 0]))
    np.testing.assert_allclose(outputs[:, answers.LOSS], np.log(length) + second)
    assert len(passes) <= 4


def test_an_example_is_the_first_window_of_a_question():
    questions = types.SimpleNamespace(question=np.array([0, 0, 0, 1, 2, 2]))
    dataset = types.SimpleNamespace(questions=questions)
    rows = answer_outputs.first_rows(dataset, np.array([0, 1, 2, 3, 4, 5]))
    assert rows.tolist() == [0, 3, 4]
    assert answer_outputs.first_rows(dataset, np.array([3, 4, 5])).tolist() == [3, 4]


@pytest.mark.slow
def test_measures_are_those_of_transformers_model_and_tokenizer(tmp_path):
    """Logits and loss of torch, windows of their fast tokenizer."""
    torch = pytest.importorskip("torch")
    model, tokenizer = _encoder(tmp_path)
    rows = [*_questions()]
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    weights = tl.pretrained.FromHub(str(tmp_path))
    source = tl.data.SQuAD(
        test_path=str(tmp_path / "dev.json"),
        max_length=LENGTH,
        stride=STRIDE,
        max_answer_length=LONGEST,
    )
    run = tl.setup(
        tl.Experiment(model=weights.model(), init=weights, data=source, steps=0)
    )
    values = tl.evaluate(run, "test")
    encoded = tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    x = {name: torch.tensor(encoded[name]) for name in names}
    y = torch.tensor(run.datasets["target"].y.astype(np.int64))
    with torch.no_grad():
        out = model(**x, start_positions=y[:, 0], end_positions=y[:, 1])
    start, end = out.start_logits.double().numpy(), out.end_logits.double().numpy()
    exact, f1 = np.mean([*_scores(rows, encoded, start, end)], axis=0)
    assert 0 < f1 < 1
    assert values["answer_f1"] == pytest.approx(f1)
    assert values["exact_match"] == pytest.approx(exact)
    assert values["nll"] == pytest.approx(float(out.loss), rel=1e-6)
