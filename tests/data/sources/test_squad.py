"""Questions about contexts: files of SQuAD and `datasets`, windows and their labels."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import description, question_windows, splits, tokenizer_training
from jaxtl.data.sources import squad_records
from jaxtl.training import inputs

tokenizers = pytest.importorskip("tokenizers")

CONTEXT = (
    "Anna Smith lives in Paris ,  near the old bridge . Her brother Émile moved to "
    "Oslo in 1987 and sells apples , pears and plums at the market there ."
)
ANSWERS = {
    "where does Anna live ?": ["Paris", "Paris ,  near the old bridge"],
    "  who moved to Oslo ?": ["Émile"],
    "what does Émile sell there at the market ?": ["apples , pears and plums"],
    "who is Anna ?": [],
}


def question(text, answers, **values):
    starts = [CONTEXT.index(answer) for answer in answers]
    pairs = [{"text": t, "answer_start": s} for t, s in zip(answers, starts)]
    return {"question": text, "answers": pairs, **values}


def nested(**options):
    qas = [
        question(text, answers, id=str(i), is_impossible=not answers)
        for i, (text, answers) in enumerate(ANSWERS.items())
    ]
    paragraph = {"context": CONTEXT, "qas": qas}
    article = {"title": "Anna", "paragraphs": [paragraph]}
    return {"version": "v2.0", "data": [article], **options}


def flat():
    for i, (text, answers) in enumerate(ANSWERS.items()):
        pairs = question(text, answers)["answers"]
        lists = {k: [p[k] for p in pairs] for k in ("text", "answer_start")}
        yield {"id": str(i), "context": CONTEXT, "question": text, "answers": lists}


def write(folder, name, content):
    (folder / name).write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )
    return str(folder / name)


def read(path, **options):
    return data.prepare(data.SQuAD(path, **{"val": 0, "test": 0, **options}))


def test_nested_and_flat_files_hold_the_same_questions(tmp_path):
    lines = "\n".join(map(json.dumps, flat()))
    tables = [
        data.SQuAD(write(tmp_path, "a.json", nested())).read(),
        data.SQuAD(write(tmp_path, "a.jsonl", lines)).read(),
        data.SQuAD(write(tmp_path, "b.json", [*flat()])).read(),
        data.SQuAD(write(tmp_path, "c.json", lines)).read(),  # as Dataset.to_json
        data.SQuAD(write(tmp_path, "d.json", json.dumps(nested(), indent=1))).read(),
    ]
    for table in tables:
        assert table.x["answers"].tolist() == [*map(tuple, ANSWERS.values())]
        assert table.x["question"].tolist() == [*ANSWERS]
        first = [CONTEXT[a:b] if a >= 0 else None for a, b in table.y]
        assert first == [(answers or [None])[0] for answers in ANSWERS.values()]
        np.testing.assert_array_equal(table.digests, tables[0].digests)
    assert tables[0].origins[2].endswith("a.json[2]")
    assert tables[1].origins[2].endswith("a.jsonl:3")


def test_parquet_holds_the_same_questions(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    whole = data.SQuAD(write(tmp_path, "a.json", nested())).read()
    for name in ("a.parquet", "a.pq"):
        parquet.write_table(arrow.Table.from_pylist([*flat()]), tmp_path / name)
        table = data.SQuAD(str(tmp_path / name)).read()
        np.testing.assert_array_equal(table.digests, whole.digests)
        np.testing.assert_array_equal(table.y, whole.y)


def test_data_sets_of_datasets_hold_the_same_questions(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list([*flat()])
    whole = datasets.DatasetDict({"train": part, "validation": part, "extra": part})
    whole.save_to_disk(str(tmp_path / "saved"))
    expected = data.SQuAD(write(tmp_path, "a.json", nested())).read()
    for source in (whole, str(tmp_path / "saved")):
        table = data.SQuAD(source).read()
        digests = np.concatenate([expected.digests] * 2)
        np.testing.assert_array_equal(table.digests, digests)
        assert {k: v.tolist() for k, v in table.splits.items()} == {
            "train": [0, 1, 2, 3],
            "val": [4, 5, 6, 7],
        }
        assert table.notes == ("splits that are not read: extra",)
        assert table.origins[5].endswith(", validation[1]")
    alone = data.SQuAD(part, test_path=str(tmp_path / "a.json")).read()
    assert {k: len(v) for k, v in alone.splits.items()} == {"train": 4, "test": 4}
    columns = {"text": "question", "pair": "context", "target": "answers"}
    with pytest.raises(UserError, match=r"which tl.data.SQuAD\(dataset\) reads"):
        data.HFDataset(part, **columns).read()
    with pytest.raises(UserError, match="has a split for val of its own"):
        data.SQuAD(whole, val_path=str(tmp_path / "a.json")).read()
    twice = datasets.DatasetDict({"validation": part, "dev": part})
    table = data.SQuAD(twice).read()
    assert table.splits["val"].tolist() == [0, 1, 2, 3]
    assert table.notes == ("splits that are not read: dev",)
    with pytest.raises(UserError, match="the splits first, of which none is called tr"):
        data.SQuAD(datasets.DatasetDict({"first": part})).read()
    with pytest.raises(UserError, match="name such a folder as path="):
        data.SQuAD(test_path=str(tmp_path / "saved")).read()


def engines():
    """A small tokenizer of each kind, trained on the texts, as a tokenizer.json."""
    texts = [CONTEXT, *ANSWERS] * 2
    yield tokenizer_training.train(texts, "word_piece", 150).content
    pairs = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    pairs.train_from_iterator(texts, 300, special_tokens=["<s>", "</s>", "<pad>"])
    ids = [(name, pairs.token_to_id(name)) for name in ("</s>", "<s>")]
    pairs._tokenizer.post_processor = tokenizers.processors.RobertaProcessing(*ids)
    yield pairs._tokenizer.to_str()
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram())
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    unigram.train_from_iterator(
        texts,
        tokenizers.trainers.UnigramTrainer(
            vocab_size=90, special_tokens=special, unk_token="<unk>"
        ),
    )
    unigram.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(n, unigram.token_to_id(n)) for n in ("<s>", "</s>")],
    )
    yield unigram.to_str()


def reference_labels(encoded, row, answers):
    """The loop of `run_qa.py` of transformers, which ends at the context's last token.

    The published loop runs on to the padding where an answer begins in the last token
    of a window; that of their course ends there.
    """
    parts, offsets = encoded.sequence_ids(row), encoded["offset_mapping"][row]
    if not answers:
        return [0, 0]
    start_char = CONTEXT.index(answers[0])
    end_char = start_char + len(answers[0])
    first = parts.index(1)
    last = len(parts) - 1 - parts[::-1].index(1)
    if not (offsets[first][0] <= start_char and offsets[last][1] >= end_char):
        return [0, 0]
    index = first
    while index <= last and offsets[index][0] <= start_char:
        index += 1
    start, index = index - 1, last
    while index >= first and offsets[index][1] >= end_char:
        index -= 1
    return [start, index + 1]


@pytest.mark.parametrize("kind", range(3), ids=["word_piece", "bpe", "unigram"])
def test_windows_and_labels_are_those_of_transformers(tmp_path, kind):
    """Against a fast tokenizer, called as `run_qa.py` calls it."""
    transformers = pytest.importorskip("transformers")
    content = [*engines()][kind]
    path = write(tmp_path, "tokenizer.json", content)
    length, stride = (24, 6) if kind == 0 else (40, 9)
    dataset = read(
        write(tmp_path, "a.json", nested()),
        tokenizer=data.Tokenizer(path),
        max_length=length,
        stride=stride,
    )
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=path, pad_token="[PAD]" if kind == 0 else "<pad>"
    )
    encoded = theirs(
        [text.lstrip() for text in ANSWERS],
        [CONTEXT] * len(ANSWERS),
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        padding="longest",
    )
    questions = encoded["overflow_to_sample_mapping"]
    width = len(encoded["input_ids"][0])
    assert dataset.questions.question.tolist() == questions
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(dataset.x[name][:, :width], encoded[name])
    answers = [*ANSWERS.values()]
    for row, number in enumerate(questions):
        expected = reference_labels(encoded, row, answers[number])
        assert dataset.y[row].tolist() == expected
        spans = [
            span if part == 1 else (-1, -1)
            for span, part in zip(
                encoded["offset_mapping"][row], encoded.sequence_ids(row)
            )
        ]
        found = zip(dataset.questions.start[row], dataset.questions.end[row])
        assert [*found][:width] == spans
    assert (dataset.y[:, 1] > 0).sum() >= 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.data())
def test_an_answer_is_labelled_where_a_window_holds_it_as_a_whole(lengths, draw):
    """Every character of the answer lies in the labelled tokens, and no token less."""
    ends = np.cumsum(lengths)
    begin = np.concatenate([[-1], ends - lengths, [-1]])[None]
    end = np.concatenate([[-1], ends, [-1]])[None]
    total = int(ends[-1])
    first = draw.draw(st.integers(0, total + 3))
    last = draw.draw(st.integers(first + 1, total + 5))
    y, holds = question_windows.span_labels(begin, end, np.array([[first, last]]))
    assert holds[0] == (last <= total)
    if holds[0]:
        start, stop = y[0]
        assert begin[0, start] <= first < end[0, start]
        assert begin[0, stop] < last <= end[0, stop]
    else:
        assert y.tolist() == [[0, 0]]


def test_splits_hold_whole_questions_and_are_stored_as_such(tmp_path):
    content = nested()
    content["data"] = content["data"] * 6
    for i, article in enumerate(content["data"]):
        article = json.loads(json.dumps(article))
        for part in article["paragraphs"][0]["qas"]:
            part["id"] += f"-{i}"
        article["title"] = f"article {i}"
        article["paragraphs"][0]["qas"][0]["share"] = 2.0
        content["data"][i] = article
    for article in content["data"]:
        for part in article["paragraphs"][0]["qas"]:
            part.setdefault("share", 1.0)
    options = {"val": 4, "test": 8, "max_length": 24, "stride": 6}
    options["sample_weight"] = "share"
    source = data.SQuAD(write(tmp_path, "a.json", content), **options)
    dataset = data.prepare(source)
    questions = dataset.questions
    assert {k: len(v) for k, v in dataset.example_rows.items()} == {
        "train": 12,
        "val": 4,
        "test": 8,
    }
    for rows in dataset.rows.values():
        whole = np.isin(questions.question, questions.of_rows(rows))
        np.testing.assert_array_equal(np.flatnonzero(whole), rows)
    shares = np.where(questions.question % 4 == 0, 2.0, 1.0)
    np.testing.assert_array_equal(dataset.weights, shares)
    splits.save_splits(tmp_path / "splits.npz", dataset)
    again = data.prepare(source, seed=7, splits_file=tmp_path / "splits.npz")
    for name, rows in dataset.rows.items():
        np.testing.assert_array_equal(again.rows[name], rows)
    apart = read(source.path, val=4, split_by="title", max_length=24, stride=6)
    assert "split by title: 6 groups" in " ".join(apart.notes)
    lines = " ".join(description.lines_of(dataset))
    assert "24 examples, question_answering, 6 questions without an answer" in lines
    assert "split_by='context' keeps contexts apart" in lines
    windows = {name: len(rows) for name, rows in dataset.rows.items()}
    assert f"{windows['test']:,} of {windows['test']:,} test windows" in lines


def test_contexts_that_unlabelled_questions_share_are_told(tmp_path):
    rows = [
        {**row, "id": f"{i}{row['id']}", "context": f"{CONTEXT} {i}"}
        for i in range(6)
        for row in flat()
    ]
    path = write(tmp_path, "a.json", rows)
    dataset = read(path, test=8, labels=1, max_length=24, stride=6)
    assert len(dataset.example_rows["unlabelled"]) == 15
    test = set(dataset.example_rows["test"].tolist())
    others = {number // 4 for number in range(24) if number not in test}
    shared = sum(number // 4 in others for number in test)
    assert f"{shared} of 8 test questions are about a context" in dataset.notes[-1]


def test_streams_are_padded_to_one_length(tmp_path):
    path = write(tmp_path, "a.json", nested())
    short = [{**row, "context": CONTEXT[:52]} for row in [*flat()][:1]]
    other = write(tmp_path, "b.json", short)
    content = next(engines())
    settings = {"val": 0, "test": 0, "stride": 6}
    vocabulary = write(tmp_path, "tokenizer.json", content)

    def load(**options):
        tokenizer = data.Tokenizer(vocabulary, **options)
        sources = [
            data.SQuAD(p, tokenizer=tokenizer, **settings) for p in (path, other)
        ]
        exp = tl.Experiment(
            model=tl.models.Bert(predict="span"),
            data=sources[0],
            streams={"source": sources[1]},
        )
        return inputs.load_datasets(exp)

    with pytest.raises(UserError, match=r"pad both to one length, .*buckets=\(48,\)"):
        load()
    shapes = {d.x["input_ids"].shape[1] for d in load(buckets=(48,)).values()}
    assert shapes == {48}


def test_what_does_not_fit_a_window_is_said(tmp_path):
    path = write(tmp_path, "a.json", nested())
    dataset = read(path, max_length=16, stride=8)
    notes = " ".join(dataset.notes)
    assert "leave no more than stride=8 tokens of a window for the context" in notes
    assert "answers are in no window as a whole" in notes
    with pytest.raises(UserError, match="max_length=8: the question 'what does Émile"):
        read(path, max_length=8)


@pytest.mark.parametrize(
    ("text", "start", "place"),
    [
        ("Paris", 20, (20, 25)),
        (" Paris ", 19, (19, 26)),  # as the file has it
        ("Paris ", 20, (20, 26)),
        ("Paris", 19, (20, 25)),  # begins at the blank before
        ("\tParis", 20, (20, 25)),
        ("Paris , near the", 20, (20, 37)),  # two blanks in the context
    ],
)
def test_answers_are_moved_by_blanks_alone(tmp_path, text, start, place):
    row = {"context": CONTEXT, "question": "?"}
    row["answers"] = {"text": [text], "answer_start": [start]}
    [record] = squad_records.read_questions(tmp_path / write(tmp_path, "a.json", [row]))
    assert record.answers[0][1:] == place
    moved = CONTEXT[slice(*place)] != text or place[0] != start
    assert record.repaired == moved
    table = data.SQuAD(str(tmp_path / "a.json")).read()
    assert bool(table.notes) == moved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answers": {"text": ["Oslo"], "answer_start": [3]}},
            "'Oslo' has answer_start 3, where the context has 'a Sm'; it stands at 78",
        ),
        ({"answers": {"text": ["Rome"], "answer_start": [3]}}, "it stands nowhere"),
        ({"answers": {"text": ["Oslo"], "answer_start": []}}, "1 texts and 0 answer_"),
        ({"answers": ["Oslo"]}, "expected objects with text and answer_start"),
        ({"answers": [{"text": "Oslo"}]}, "answer_start None; expected a text, and"),
        ({"answers": None}, 'a question without an answer has "answers": \\[\\]'),
        ({"is_impossible": True}, "is_impossible is True, but there are 2 answers"),
        ({"is_impossible": 3}, "is_impossible is 3; expected true or false"),
        ({"context": " "}, "context is ' '; expected a text"),
        ({"question": None}, "question is None; expected a text"),
    ],
)
def test_odd_questions_are_refused(tmp_path, changes, message):
    row = {**next(flat()), **changes}
    path = write(tmp_path, "a.jsonl", json.dumps(row))
    with pytest.raises(UserError, match=f"SQuAD.path: .*a.jsonl:1.*{message}"):
        data.SQuAD(path).read()


def test_odd_files_and_options_are_refused(tmp_path):
    row = next(flat())
    for content, message in [
        ("{", "is no JSON"),
        ('[{"question": "a", "question": "b"}]', "has the key 'question' twice"),
        ([], "holds no question"),
        ([3], "holds 3 where an object of questions is expected"),
        ([row, row], r"\[1\]: the id '0' comes twice"),
        ([{"context": CONTEXT, "questions": "?"}], "no key 'question'.*did you mean"),
    ]:
        with pytest.raises(UserError, match=message):
            data.SQuAD(write(tmp_path, "a.json", content)).read()
    path = write(tmp_path, "a.json", [{**row, "level": "easy"}])
    assert data.SQuAD(path).read().notes == ("keys that are not used: level",)
    with pytest.raises(UserError, match="split_by='titel': question 0 has no such key"):
        data.SQuAD(path, split_by="titel").read()
    with pytest.raises(UserError, match="stride=-1: expected a whole number of at"):
        data.SQuAD(path, stride=-1)
