"""Settings of tokenizers, each against transformers on the same raw texts.

Origin: the tokenizer classes of transformers (`BertTokenizer`, `RobertaTokenizer`,
`GPT2Tokenizer`) and what their `save_pretrained` writes.
"""

import json

import pytest

from jaxtl.core.errors import UserError
from jaxtl.data import Tokenizer, tokenizer_settings

transformers = pytest.importorskip("transformers")

TEXTS = [
    "Good, GOOD film é ÉCOLE",
    " a  film\tnot[MASK]<mask> good",
    "日本 good日本",
    "the [CLS] good<s> film</s><pad>",
    "",
    "good film good film good film good film good bad",
]
PAIRS = ["bad film", "é", "日本", "a", "good", "bad"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", "Good", "the"]
WORDS += ["a", "é", "e", "ecole", "École", "not", "日", "本", "日本", "bad", ",", "##s"]
WORDS += ["b", "c"]
LETTERS = sorted(set("goodfilmbadtheaGOODnéÉcolCLE,[]MASK<>sp/\u0120ÃĩĲæĹ¥ľ¬"))
MERGES = [("o", "o"), ("g", "oo"), ("\u0120", "g"), ("goo", "d"), ("i", "l")]


def bert(folder, **options):
    vocab = {word: i for i, word in enumerate(dict.fromkeys(WORDS))}
    return transformers.BertTokenizer(vocab=vocab, **options), vocab


def byte_pairs(cls, special, **options):
    pieces = [*special, *LETTERS, *("".join(pair) for pair in MERGES)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [(a, b) for a, b in MERGES if a in vocab and b in vocab]
    return cls(vocab=vocab, merges=merges, **options), vocab, merges


def write(folder, kind, files, options):
    """The directory that transformers writes, of tokenizer.json or of its parts."""
    if kind == "bert":
        tokenizer, vocab = bert(folder, **options)
        parts = {"vocab.txt": "\n".join(vocab)}
    else:
        roberta = kind == "roberta"
        cls = transformers.RobertaTokenizer if roberta else transformers.GPT2Tokenizer
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        special = special if roberta else ["<|endoftext|>"]
        tokenizer, vocab, merges = byte_pairs(cls, special, **options)
        lines = [" ".join(pair) for pair in merges]
        parts = {
            "vocab.json": json.dumps(vocab),
            "merges.txt": "\n".join(["#version: 0.2", *lines, ""]),
        }
    tokenizer.save_pretrained(folder)
    if files == "parts":
        (folder / "tokenizer.json").unlink()
        for name, text in parts.items():
            (folder / name).write_text(text)


def agree(folder, max_length=12):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(str(folder), max_length=max_length)
    limit = min(max_length, theirs.model_max_length)
    for pairs in (None, PAIRS):
        x = ours(TEXTS, pairs)
        for i, text in enumerate(TEXTS):
            pair = None if pairs is None else pairs[i]
            want = theirs(text, pair, truncation=True, max_length=limit)
            got = x["input_ids"][i][x["attention_mask"][i]].tolist()
            assert got == want["input_ids"], (text, pair)
            if pairs and "token_type_ids" in want:
                types = x["token_type_ids"][i][x["attention_mask"][i]].tolist()
                assert types == want["token_type_ids"], (text, pair)


ROBERTA = [{}, {"add_prefix_space": True}, {"truncation_side": "left"}]
CASES = [
    *(("bert", {"do_lower_case": lower}) for lower in (True, False)),
    ("bert", {"do_lower_case": False, "strip_accents": True}),
    ("bert", {"do_lower_case": True, "strip_accents": False}),
    ("bert", {"tokenize_chinese_chars": False}),
    ("bert", {"truncation_side": "left", "padding_side": "left"}),
    ("bert", {"model_max_length": 7}),
    ("bert", {"cls_token": "a", "sep_token": "b", "unk_token": "c"}),
    ("bert", {"additional_special_tokens": ["film", "good"]}),
    *(("roberta", options) for options in ROBERTA),
    ("gpt2", {}),
    ("gpt2", {"add_prefix_space": True}),
    ("gpt2", {"add_bos_token": True}),
    ("gpt2", {"add_bos_token": True, "add_eos_token": True}),
]


@pytest.mark.parametrize("files", ["json", "parts"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_raw_texts_get_the_ids_of_transformers(kind, options, files, tmp_path):
    write(tmp_path, kind, files, options)
    agree(tmp_path)


@pytest.mark.parametrize("files", ["json", "parts"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_token_types_that_the_model_does_not_get_are_0(kind, files, tmp_path):
    write(tmp_path, kind, files, {})
    before = Tokenizer(str(tmp_path))(TEXTS, PAIRS)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["model_input_names"] = ["input_ids", "attention_mask"]
    file.write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert "token_type_ids" not in theirs(TEXTS, PAIRS)
    tokenizer = Tokenizer(str(tmp_path))
    after = tokenizer(TEXTS, PAIRS)
    assert (after["input_ids"] == before["input_ids"]).all()
    assert not after["token_type_ids"].any()
    # The text of its tokenizer.json, which exports hold, says so itself.
    (tmp_path / "alone.json").write_text(tokenizer.to_json())
    alone = Tokenizer(str(tmp_path / "alone.json"))(TEXTS, PAIRS)
    assert not alone["token_type_ids"].any()
    assert (alone["input_ids"] == before["input_ids"]).all()


@pytest.mark.parametrize("value", [True, False])
def test_the_configuration_decides_over_tokenizer_json(value, tmp_path):
    write(tmp_path, "bert", "json", {"do_lower_case": not value})
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "do_lower_case": value}))
    agree(tmp_path)
    x = Tokenizer(str(tmp_path), lower=not value)(["Good"])["input_ids"]
    assert x[0, 1] == WORDS.index("Good" if value else "good")


def test_roberta_without_any_configuration_closes_its_texts(tmp_path):
    write(tmp_path, "roberta", "parts", {})
    (tmp_path / "tokenizer_config.json").unlink()
    x = Tokenizer(str(tmp_path))(["good"], ["bad"])
    ids = x["input_ids"][0][x["attention_mask"][0]].tolist()
    first, *middle, last = ids
    assert (first, last) == (0, 2)
    assert middle.count(2) == 2
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    agree(tmp_path)


def test_added_tokens_keep_their_numbers(tmp_path):
    write(tmp_path, "bert", "json", {})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["ood", transformers.AddedToken("ilm", lstrip=True)])
    tokenizer.save_pretrained(tmp_path)
    agree(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    number = str(len(dict.fromkeys(WORDS)) + 7)
    config["added_tokens_decoder"] = {number: {"content": "good", "special": False}}
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="'good' should have the id 3"):
        Tokenizer(str(tmp_path))(["a"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"do_lower_csae": True}, "'do_lower_csae' .true. is unknown; did you mean"),
        ({"do_lower_case": "no"}, 'do_lower_case is "no"; expected true, false'),
        ({"never_split": ["x"]}, r'never_split \["x"\] is not supported'),
        ({"split_special_tokens": True}, "split_special_tokens true is not supported"),
        ({"truncation_side": "both"}, 'truncation_side is "both"'),
        ({"model_max_length": -1}, "model_max_length is -1"),
        ({"cls_token": "film"}, "does not put around a text"),
        ({"auto_map": {"AutoTokenizer": "x.X"}}, "'auto_map' .* is unknown"),
    ],
)
def test_settings_that_are_not_understood_are_named(change, says, tmp_path):
    write(tmp_path, "bert", "json", {})
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=says):
        Tokenizer(str(tmp_path))(["good"])


def test_rules_that_contradict_the_settings_are_named(tmp_path):
    write(tmp_path, "gpt2", "json", {})
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UserError, match="do_lower_case is false, but the rules"):
        Tokenizer(str(tmp_path), lower=False)(["good"])
    content["model"]["dropout"] = 0.5
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"dropout 0\.5 makes the ids of a text random"):
        Tokenizer(str(tmp_path))(["good"])


def test_the_side_that_tokenizer_json_truncates_is_kept(tmp_path):
    write(tmp_path, "bert", "json", {})
    import tokenizers

    engine = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    engine.enable_truncation(9, direction="left")
    engine.save(str(tmp_path / "tokenizer.json"))
    agree(tmp_path)


def test_sentence_encoders_shorten_and_lower_case(tmp_path):
    write(tmp_path, "bert", "json", {"do_lower_case": False})
    file = tmp_path / "sentence_bert_config.json"
    file.write_text(json.dumps({"max_seq_length": 5, "do_lower_case": True}))
    x = Tokenizer(str(tmp_path))(["GOOD Film bad a the"])
    vocab = {w: i for i, w in enumerate(dict.fromkeys(WORDS))}
    want = [vocab[w] for w in ("[CLS]", "good", "film", "bad", "[SEP]")]
    assert x["input_ids"].tolist() == [want]


def test_a_prompt_in_front_of_each_text_is_refused(tmp_path):
    write(tmp_path, "bert", "json", {})
    file = tmp_path / "config_sentence_transformers.json"
    content = {"prompts": {"query": "query: "}, "default_prompt_name": None}
    file.write_text(json.dumps(content))
    Tokenizer(str(tmp_path))(["good"])
    file.write_text(json.dumps({**content, "default_prompt_name": "query"}))
    with pytest.raises(UserError, match='default_prompt_name "query" is not supported'):
        Tokenizer(str(tmp_path))(["good"])


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_every_key_that_transformers_writes_is_in_the_table(kind, tmp_path):
    write(tmp_path, kind, "json", {})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    options = type(tokenizer).__init__.__annotations__
    keys = {*json.loads((tmp_path / "tokenizer_config.json").read_text()), *options}
    keys |= {*transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES}
    keys |= {*tokenizer.init_kwargs} - {"vocab", "merges"}
    assert keys - tokenizer_settings.CONFIG.keys() - {"vocab", "merges"} == set()
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert set(content) <= tokenizer_settings.TOKENIZER.keys()
