"""Tokenizers of CLIP and SigLIP against those of transformers, on any text.

Origin: `CLIPTokenizer` and `SiglipTokenizer.canonicalize_text` of transformers.
"""

import json
import sys
import types

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.data import Tokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CAPTIONS = ["a photo of a cat", "a photo of the dog's tail", "two cats, isn't it"] * 5
PARTS = [BOS, EOS, EOS.upper(), "'s", "'LL", "photo", "\u00a0", "İ", "Σ", "e\u0301"]
# Any text, among it what the rules name.
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(PARTS), st.text(st.characters(exclude_categories=("Cs",)))
    ),
    max_size=6,
).map("".join)


def clip_files():
    """A vocabulary as CLIP's: bytes, bytes that end a word, merges, special tokens."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=800, end_of_word_suffix="</w>", show_progress=False
    )
    words = [word for caption in CAPTIONS for word in caption.split()]
    engine.train_from_iterator(words, trainer)
    merges = json.loads(engine.to_str())["model"]["merges"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    pieces += ["".join(pair) for pair in merges]
    vocab = {p: i for i, p in enumerate(dict.fromkeys([*pieces, BOS, EOS]))}
    return vocab, merges


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """CLIP's tokenizer as vocab.json with merges.txt, and as tokenizer.json."""
    vocab, merges = clip_files()
    theirs = transformers.CLIPTokenizer(
        vocab=vocab, merges=list(map(tuple, merges)), model_max_length=77
    )
    folder = tmp_path_factory.mktemp("clip")
    theirs.save_pretrained(folder / "json")
    (folder / "plain").mkdir()
    (folder / "plain" / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "plain" / "merges.txt").write_text("\n".join(lines))
    return folder, theirs


@settings(max_examples=150, deadline=None)
@example("A  PHOTO of the\tdog's tail's 123 <|endoftext|> e\u0301 日本 🐈\x00")
@given(TEXTS)
def test_clip_ids_are_those_of_transformers(folders, text):
    folder, theirs = folders
    want = theirs([text, "a cat"], padding=True, truncation=True, max_length=77)
    for name in ("plain", "json"):
        x = Tokenizer(str(folder / name), max_length=77)([text, "a cat"])
        length = len(want["input_ids"][0])
        np.testing.assert_array_equal(x["input_ids"][:, :length], want["input_ids"])
        np.testing.assert_array_equal(
            x["attention_mask"][:, :length], want["attention_mask"]
        )
        assert not x["attention_mask"][:, length:].any()
        assert (x["input_ids"][:, length:] == theirs.pad_token_id).all()


def test_a_long_caption_keeps_its_end_and_is_as_long_as_the_model_allows(folders):
    folder, theirs = folders
    tokenizer = Tokenizer(str(folder / "json"), max_length=512)
    x = tokenizer(["cat " * 200])
    want = theirs("cat " * 200, truncation=True, max_length=77)["input_ids"]
    np.testing.assert_array_equal(x["input_ids"], [want])
    assert x["input_ids"][0, -1] == theirs.eos_token_id
    # transformers replaces the marks of ends by blanks outside of its backend.
    ids = Tokenizer(str(folder / "plain"))(["A Photo, of\na cat"])["input_ids"][0]
    text = Tokenizer(str(folder / "plain")).decode(ids)
    assert text == "a photo , of a cat" == theirs.decode(ids, skip_special_tokens=True)


def test_the_padding_token_is_the_one_that_the_files_name(folders, tmp_path):
    folder, _ = folders
    for file in (folder / "json").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "!"}))
    other = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    want = other(["a cat", "a photo of a cat"], padding="max_length", max_length=16)
    got = Tokenizer(str(tmp_path), buckets=(16,))(["a cat", "a photo of a cat"])
    np.testing.assert_array_equal(got["input_ids"], want["input_ids"])


def test_ends_of_words_without_clips_tokens_are_refused(tmp_path):
    vocab = {"a": 0, "a</w>": 1, "b": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match="CLIPTokenizer"):
        Tokenizer(str(tmp_path))(["a"])
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "CLIPTokenizer"}')
    with pytest.raises(UserError, match=r"lacks <\|startoftext\|>"):
        Tokenizer(str(tmp_path))(["a"])
    full = {"a": 0, "a</w>": 1, BOS: 2, EOS: 3}
    (tmp_path / "vocab.json").write_text(json.dumps(full))
    config.write_text('{"tokenizer_class": "CLIPTokenizer", "do_lower_case": false}')
    with pytest.raises(UserError, match="do_lower_case is false"):
        Tokenizer(str(tmp_path))(["a"])
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, BOS: 1, EOS: 2}))
    with pytest.raises(UserError, match="no piece that ends with </w>"):
        Tokenizer(str(tmp_path))(["a"])


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """A Unigram tokenizer.json of T5's kind, which itself keeps case and commas."""
    folder = tmp_path_factory.mktemp("siglip")
    letters = sorted(set("aphotfcdgCADOG.,!'"))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0)]
    pieces += [(letter, -5.0) for letter in letters]
    pieces += [("▁a", -2.5), ("▁cat", -6.0), ("at", -5.5), ("▁photo", -6.0)]
    model = tokenizers.models.Unigram(pieces, unk_id=2, byte_fallback=False)
    engine = tokenizers.Tokenizer(model)
    engine.normalizer = tokenizers.normalizers.NFKC()
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    engine.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    engine.add_special_tokens(["<pad>", "</s>", "<unk>"])
    engine.save(str(folder / "tokenizer.json"))
    return folder, tokenizers.Tokenizer.from_str(engine.to_str())


def siglip_config(folder, **values):
    config = {
        "do_lower_case": True,
        "model_input_names": ["input_ids"],
        "pad_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "SiglipTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("lower", [True, False])
def test_siglip_takes_punctuation_out_before_the_pieces(unigram, lower, monkeypatch):
    # Its rules need no sentencepiece, but its module imports it.
    monkeypatch.setitem(sys.modules, "sentencepiece", types.ModuleType("unused"))
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer

    folder, engine = unigram
    siglip_config(folder, do_lower_case=lower)
    rules = SiglipTokenizer.__new__(SiglipTokenizer)
    rules.__dict__["do_lower_case"] = lower
    ours = Tokenizer(str(folder))
    for text in ["A Photo,  of \ta CAT!", "", "a-b_c d's", "«x» 日本, 1.5", "?!"]:
        x = ours([text])
        ids = x["input_ids"][0][x["attention_mask"][0]].tolist()
        assert ids == engine.encode(rules.canonicalize_text(text)).ids
        assert (x["input_ids"][0][~x["attention_mask"][0]] == 1).all()


def test_siglip_2_lower_cases_and_keeps_punctuation(unigram):
    folder, engine = unigram
    siglip_config(folder, tokenizer_class="Siglip2Tokenizer")
    x = Tokenizer(str(folder))(["A Photo, of a CAT!"])
    ids = x["input_ids"][0][x["attention_mask"][0]].tolist()
    assert ids == engine.encode("a photo, of a cat!").ids


def test_a_sentence_piece_model_without_tokenizer_json_is_refused(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"\n\x00")
    with pytest.raises(UserError, match=r"SentencePiece model.*tokenizer\.json"):
        Tokenizer(str(tmp_path))(["a"])
