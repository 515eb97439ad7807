"""Augmentations of words: rates, tokens that stay, and each change by loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.data import (
    Tokenizer,
    WordDeletion,
    WordDropout,
    WordReplacement,
    WordSwap,
)

CLS, SEP, PAD = 101, 102, 0
OPERATIONS = (WordDeletion, WordDropout, WordReplacement, WordSwap)


def _texts(count=200, length=12, pairs=False):
    rng = np.random.default_rng(0)
    ids = np.full((count, length), PAD, np.int32)
    mask = np.zeros((count, length), bool)
    segments = np.zeros((count, length), np.int32)
    for row in range(count):
        words = rng.integers(1000, 1050, rng.integers(1, length - 2))
        text = [CLS, *words, SEP]
        if pairs and len(words) > 3:
            text[3] = SEP
            segments[row, 4 : len(text)] = 1
        ids[row, : len(text)] = text
        mask[row, : len(text)] = True
    x = {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask)}
    return {**x, "token_type_ids": jnp.asarray(segments)} if pairs else x


def _run(operation, x, seed=0):
    return jax.jit(operation.__call__)(jax.random.key(seed), x)


def _rows(x):
    """Yields each text's ids as a list, without padding."""
    for ids, mask in zip(np.asarray(x["input_ids"]), np.asarray(x["attention_mask"])):
        yield ids[mask.astype(bool)].tolist()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_special_tokens_and_padding_stay(operation):
    x = _texts(pairs=True)
    out = _run(operation(probability=1.0), x)
    for before, after in zip(_rows(x), _rows(out)):
        special = [i for i in before if i in (CLS, SEP)]
        assert [i for i in after if i in (CLS, SEP)] == special
        assert after[0] == CLS
        assert after[-1] == SEP
    hidden = ~np.asarray(out["attention_mask"])
    assert (np.asarray(out["input_ids"])[hidden] == PAD).all()
    assert out["input_ids"].dtype == x["input_ids"].dtype
    assert out["attention_mask"].dtype == x["attention_mask"].dtype


@pytest.mark.parametrize("operation", OPERATIONS)
def test_probability_zero_changes_nothing(operation):
    x = _texts(pairs=True)
    out = _run(operation(probability=0.0), x)
    for name in x:
        np.testing.assert_array_equal(out[name], x[name])


def test_dropout_replaces_its_share_of_words():
    x = _texts(600)
    out = np.asarray(_run(WordDropout(probability=0.3, to=100), x)["input_ids"])
    words = np.asarray(x["input_ids"]) >= 1000
    assert ((out == 100) <= words).all()
    share = (out == 100).sum() / words.sum()
    np.testing.assert_allclose(share, 0.3, atol=4 * np.sqrt(0.21 / words.sum()))
    np.testing.assert_array_equal(
        out[out != 100], np.asarray(x["input_ids"])[out != 100]
    )


def test_replacement_draws_from_the_words_of_the_batch():
    x = _texts(600)
    before = np.asarray(x["input_ids"])
    words = before >= 1000
    out = np.asarray(_run(WordReplacement(probability=1.0), x)["input_ids"])
    np.testing.assert_array_equal(out[~words], before[~words])
    theirs = np.bincount(before[words] - 1000, minlength=50) / words.sum()
    ours = np.bincount(out[words] - 1000, minlength=50) / words.sum()
    np.testing.assert_allclose(ours, theirs, atol=5 * np.sqrt(0.02 / words.sum()))
    np.testing.assert_allclose((out == before)[words].mean(), 1 / 50, atol=0.02)


def test_a_batch_without_words_is_unchanged():
    ids = jnp.asarray([[CLS, SEP, PAD]] * 2)
    x = {"input_ids": ids, "attention_mask": ids != PAD}
    for operation in OPERATIONS:
        out = _run(operation(probability=1.0), x)
        np.testing.assert_array_equal(out["input_ids"], ids)


def test_swapped_words_change_places_with_a_neighbor():
    x = _texts(300)
    out = _run(WordSwap(probability=1.0), x)
    moved = 0
    for before, after in zip(_rows(x), _rows(out)):
        assert sorted(before) == sorted(after)
        place = 0
        while place < len(before):
            if before[place] == after[place]:
                place += 1
                continue
            assert (before[place], before[place + 1]) == (
                after[place + 1],
                after[place],
            )
            moved, place = moved + 2, place + 2
    words = int((np.asarray(x["input_ids"]) >= 1000).sum())
    assert moved > 0.6 * words


@pytest.mark.parametrize("probability", [0.4, 1.0])
def test_deletion_is_the_text_without_some_words(probability):
    x = _texts(300, pairs=True)
    out = _run(WordDeletion(probability=probability), x)
    lost = total = 0
    segments = zip(np.asarray(x["token_type_ids"]), np.asarray(out["token_type_ids"]))
    for before, after, (old, new) in zip(_rows(x), _rows(out), segments):
        remaining = iter(zip(before, old))
        assert all(token in remaining for token in zip(after, new))  # in order
        words = [i for i in before if i >= 1000]
        new_words = [i for i in after if i >= 1000]
        assert new_words
        if probability == 1.0:
            assert new_words == words[:1]
        lost, total = lost + len(words) - len(new_words), total + len(words)
    mask = np.asarray(out["attention_mask"])
    assert (mask[:, :-1] >= mask[:, 1:]).all()
    if probability < 1:
        np.testing.assert_allclose(lost / total, probability, atol=0.05)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: WordDropout(probability=2), "WordDropout.probability"),
        (lambda: WordSwap()(jax.random.key(0), jnp.ones((2, 3))), "tokenized texts"),
    ],
)
def test_bad_use_is_named(act, message):
    with pytest.raises(UserError, match=message):
        act()


def test_a_tokenizer_names_its_special_ids(data_dir):
    ids = Tokenizer("tokenizers/bert_base_uncased_vocab.txt").special()
    assert ids["[CLS]"] == CLS
    assert ids["[SEP]"] == SEP
    assert ids["[MASK]"] == WordDropout().to
