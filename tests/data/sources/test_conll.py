"""Words with tags: columns, CoNLL-U and JSON; tags as labels of pieces."""

import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import description, word_pieces

pytest.importorskip("tokenizers")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES += ["eu", "re", "##jects", "peter", "black", "##burn", "."]
CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
. . O O

Peter NNP I-NP B-PER
Blackburn NNP I-NP I-PER
"""


@pytest.fixture
def write(tmp_path):
    """Writes a file, beside a small vocabulary, and returns its path."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))

    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def read(path, **options):
    folder = path.rpartition("/")[0]
    tokenizer = data.Tokenizer(f"{folder}/vocab.txt", max_length=8)
    return data.prepare(data.CoNLL(path, val=0, test=0, tokenizer=tokenizer, **options))


def test_a_word_has_its_tag_on_its_first_piece(write):
    dataset = read(write("a.conll", CONLL))
    assert dataset.task == "entities"
    assert dataset.class_names == ("B-PER", "I-ORG", "I-PER", "O")
    assert dataset.x["input_ids"][1, :6].tolist() == [2, 8, 9, 10, 3, 0]
    assert dataset.y.tolist() == [
        [-1, 1, 3, -1, 3, -1, -1, -1],
        [-1, 0, 2, -1, -1, -1, -1, -1],
    ]
    assert [dataset.origins[row].rpartition(":")[2] for row in (0, 1)] == ["3", "7"]
    [line] = description.lines_of(dataset)
    assert "entities, 5 words, 4 classes: B-PER 1, I-ORG 1, I-PER 1, O 2" in line


def test_further_pieces_are_trained_on_where_asked(write):
    text = "Blackburn B-PER\nrejects O\nBlackburn I-PER\n"
    dataset = read(write("a.txt", text), all_pieces=True)
    b, i, o = range(3)
    labels = word_pieces.trained_labels(dataset.y)[0]
    assert labels.tolist() == [-1, b, i, o, o, i, i, -1]
    counted = [label if label >= 0 else None for label in dataset.y[0].tolist()]
    assert counted == [None, b, None, o, None, i, None, None]


def test_labels_are_those_of_transformers(write):
    """The loop of their example run_ner.py, over `word_ids` of the same tokenizer."""
    transformers = pytest.importorskip("transformers")
    dataset = read(write("a.conll", CONLL))
    theirs = transformers.BertTokenizerFast(write("v.txt", "\n".join(PIECES)))
    sentences = [["EU", "rejects", "."], ["Peter", "Blackburn"]]
    tags = [[1, 3, 3], [0, 2]]
    encoded = theirs(sentences, is_split_into_words=True)
    for row in range(2):
        words, expected = encoded.word_ids(row), []
        for place, word in enumerate(words):
            first = word is not None and word != (words[place - 1] if place else None)
            expected.append(tags[row][word] if first else -1)
        assert encoded["input_ids"][row] == [
            i for i in dataset.x["input_ids"][row].tolist() if i
        ]
        assert dataset.y[row, : len(expected)].tolist() == expected


def test_words_behind_the_longest_text_are_said(write):
    dataset = read(write("a.txt", "".join(f"eu {t}\n" for t in ["B-X"] * 9)))
    assert (dataset.y >= 0).sum() == 6
    [note] = dataset.notes
    assert note.startswith("3 of 9 words are neither trained on nor counted")


def test_json_and_universal_columns_hold_the_same_words(write):
    lines = '{"tokens": ["Peter", "."], "ner_tags": [1, 0]}\n'
    numbered = read(write("a.jsonl", lines), class_names=("O", "B-PER"))
    assert (numbered.y[0, :3].tolist(), numbered.task) == ([-1, 1, 0], "entities")
    rows = (
        "# text = Peter .\n1\tPeter\tpeter\tNOUN\n1-2\tPeter.\t_\t_\n2\t.\t.\tPUNCT\n"
    )
    universal = read(write("a.conllu", rows))
    assert (universal.class_names, universal.task) == (("NOUN", "PUNCT"), "tags")
    assert universal.y[0, :4].tolist() == [-1, 0, 1, -1]
    np.testing.assert_array_equal(universal.x["input_ids"], numbered.x["input_ids"])


def test_files_are_splits_and_a_tokenizer_is_trained_on_the_first(write):
    train = write("a.conll", CONLL)
    test = write("b.conll", "Paris B-LOC\n")
    dataset = data.prepare(data.CoNLL(train, test_path=test, val=0))
    assert {k: len(v) for k, v in dataset.rows.items()} == {"train": 2, "test": 1}
    assert "B-LOC" in " ".join(description.lines_of(dataset))
    assert (dataset.y[2] >= 0).sum() == 1


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.txt", "a O\nb\n", {}, "line 2 of .* has 1 columns; expected 2"),
        ("a.txt", "a\nb\n", {}, "has one column; expected a word and its tag"),
        ("a.txt", "a O\n", {"tag": 2}, "tag=2: .* has 2 columns"),
        ("a.txt", "\n-DOCSTART- O\n", {}, "has no sentence"),
        ("a.txt", "a 3\n", {"class_names": ("O",)}, "there is a tag '3'.*below 1"),
        ("a.json", '[{"tokens": ["a"], "tags": []}]', {}, "1 tokens and 0 tags"),
        ("a.json", '{"token": ["a"], "tags": []}', {}, "no key 'tokens' or 'words'"),
        ("a.json", '{"tokens": "a b", "tags": []}', {}, "is no list"),
        ("a.json", "a O\n", {}, "line 1 of .* is no JSON"),
    ],
)
def test_files_that_can_not_be_read_are_named(write, name, text, options, message):
    with pytest.raises(UserError, match=message):
        read(write(name, text), **options)
