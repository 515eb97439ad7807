"""A run's rows stay its rows: changed data are seen, and every row knows its origin."""

import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxtl import data
from jaxtl.core import files
from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "bad", "good", "film")


def write_pictures(folder, values, size=4):
    """One gray PNG per value in folder/even or folder/odd, by its number."""
    for i, value in enumerate(values):
        path = folder / ("even", "odd")[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size, size), value, np.uint8)).save(path)


def write_texts(folder, lines):
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "train.tsv").write_text("".join(f"{t}\t{y}\n" for t, y in lines))
    return data.Text(
        str(folder / "train.tsv"),
        tokenizer=data.Tokenizer(str(folder / "vocab.txt"), max_length=8),
    )


# Which files are read.


@pytest.mark.parametrize("options", [{}, {"memory_limit": 1}], ids=["eager", "lazy"])
def test_pictures_added_below_a_folder_are_seen_by_the_same_process(tmp_path, options):
    """Files added to a class folder do not touch the top folder's time: 8 of 12."""
    write_pictures(tmp_path, range(8))
    source = data.ImageFolder(str(tmp_path), val=0, test=0, **options)
    before = data.prepare(source)
    write_pictures(tmp_path, range(12))
    after = data.prepare(source)
    assert (len(before.y), len(after.y)) == (8, 12)
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("options", [{}, {"memory_limit": 1}], ids=["eager", "lazy"])
def test_the_fingerprint_sees_every_picture(tmp_path, options):
    """Blanking the 168 pictures that a sample of 32 rows leaves out changes it."""
    write_pictures(tmp_path, range(1, 201))
    source = data.ImageFolder(str(tmp_path), val=0, test=0, **options)
    before = data.prepare(source)
    sampled = set(np.linspace(0, 199, 32).astype(int).tolist())
    names = [before.origins[row] for row in range(200)]
    for row in set(range(200)) - sampled:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(names[row])
    after = data.prepare(source)
    blank = [not lazy_array.gather(after.x, np.array([r])).any() for r in range(200)]
    assert sum(blank) == 168
    assert before.fingerprint != after.fingerprint


@settings(max_examples=25, deadline=None)
@given(row=st.integers(0, 99), column=st.integers(0, 2))
def test_the_fingerprint_sees_any_single_value(row, column):
    x = np.arange(300, dtype=np.float32).reshape(100, 3)
    changed = x.copy()
    changed[row, column] = np.nextafter(changed[row, column], np.float32(np.inf))
    y = np.arange(100) % 2
    prints = [data.prepare(data.Arrays(x=a, y=y)).fingerprint for a in (x, changed, x)]
    assert prints[0] == prints[2] != prints[1]


def test_an_array_in_memory_that_is_changed_is_seen_by_the_same_process():
    x, y = np.zeros((20, 2), np.float32), np.arange(20) % 2
    source = data.Arrays(x=x, y=y)
    before = data.prepare(source).fingerprint
    assert data.prepare(source).fingerprint == before
    y[:] = 1 - y
    after = data.prepare(source)
    assert after.fingerprint != before
    assert after.y.tolist() == y.tolist()
    x[7] = 1
    assert data.prepare(source).fingerprint not in (before, after.fingerprint)


def test_a_changed_cell_of_equal_size_is_seen_by_the_same_process(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i},{i % 2}" for i in range(10, 50)]
    source = data.CSV(str(path), target="y")
    path.write_text("x,y\n" + "\n".join(rows) + "\n")
    before = data.prepare(source)
    times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
    path.write_text("x,y\n" + "\n".join(["99,0", *rows[1:]]) + "\n")
    os.utime(path, ns=times)  # size and time of the last change are as before
    after = data.prepare(source)
    assert (before.x[0, 0], after.x[0, 0]) == (10, 99)
    assert before.fingerprint != after.fingerprint


def test_the_fingerprint_sees_a_shift_of_a_whole_column(tmp_path):
    """Unix seconds are stored as differences, which a shift leaves as they are."""
    prints = []
    for start in (1_700_000_000, 1_700_086_400):
        path = tmp_path / f"{start}.csv"
        rows = [f"{start + i},{i % 2}" for i in range(40)]
        path.write_text("x,y\n" + "\n".join(rows) + "\n")
        prints.append(data.prepare(data.CSV(str(path), target="y")).fingerprint)
    assert prints[0] != prints[1]


def test_a_changed_tokenizer_is_seen_by_the_same_process(tmp_path):
    source = write_texts(tmp_path, [("good film", 1), ("bad film", 0)] * 10)
    before = data.prepare(source)
    pieces = [*VOCABULARY[:4], "good", "bad", "film"]  # same length, other ids
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    after = data.prepare(source)
    assert before.x["input_ids"][0].tolist()[:4] == [2, 5, 6, 3]
    assert after.x["input_ids"][0].tolist()[:4] == [2, 4, 6, 3]
    assert before.fingerprint != after.fingerprint


def test_merges_beside_a_vocabulary_are_seen_by_the_same_process(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = data.Tokenizer(str(tmp_path / "vocab.json"), max_length=8)
    assert tokenizer(["ab"])["input_ids"][0, 0] == 2
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert tokenizer(["ab"])["input_ids"][0, :2].tolist() == [0, 1]


def test_states_follow_links_once_and_skip_what_does_not_exist(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    paths = [state.path for state in files.states([tmp_path, tmp_path / "missing"])]
    assert paths == [str(tmp_path / "a" / "x")]


def test_a_digest_is_sha256_of_the_contents_now(tmp_path):
    # FIPS 180-2, appendix B.1.
    path = tmp_path / "x"
    path.write_text("abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.digest(path) == digest
    path.write_text("abd")
    assert files.digest(path) != digest


# Where rows come from.


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=30, max_size=40),
    blank=st.sets(st.integers(1, 30), max_size=5),
    seed=st.integers(0, 3),
)
def test_origins_of_a_table_name_the_very_line(tmp_path_factory, labels, blank, seed):
    """For any filter, split and noise: line n of the file holds the row's values."""
    labels = [*labels, *"abcabcabcabcabcabcabcabcabcabc"]
    lines = ["x,y", *(f"{i},{label}" for i, label in enumerate(labels))]
    for place in sorted(blank):
        lines.insert(place, "")
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text("\n".join(lines))
    source = data.CSV(
        str(path), target="y", classes=("c", "a"), label_noise=0.3, labels_per_class=3
    )
    dataset = data.prepare(source, seed)
    rows = np.concatenate(list(dataset.rows.values()))
    assert len(rows) == len(dataset.origins)
    for row in rows:
        file, _, line = dataset.origins[row].rpartition(":")
        value, label = lines[int(line) - 1].split(",")
        assert file == str(path)
        assert float(value) == dataset.x[row, 0]
        assert label == dataset.class_names[dataset.y_clean[row]]


@pytest.mark.parametrize("options", [{}, {"memory_limit": 1}], ids=["eager", "lazy"])
def test_origins_of_pictures_are_their_paths(tmp_path, options):
    write_pictures(tmp_path, range(12))
    source = data.ImageFolder(str(tmp_path), classes=("odd",), val=0, **options)
    dataset = data.prepare(source)
    for rows in dataset.rows.values():
        for row, picture in zip(rows, lazy_array.gather(dataset.x, rows)):
            with Image.open(dataset.origins[row]) as image:
                np.testing.assert_array_equal(picture[..., 0], np.asarray(image))


def test_origins_of_arrays_are_their_indices(tmp_path):
    y = np.array([2, 0, 1, 0, 2, 1] * 5)
    x = np.arange(60.0).reshape(30, 2)
    dataset = data.prepare(data.Arrays(x=x, y=y, classes=(1, 2)))
    assert [dataset.origins[row] for row in range(3)] == ["x[0]", "x[2]", "x[4]"]
    np.testing.assert_array_equal(x[dataset.origins.source_row], dataset.x)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    dataset = data.prepare(data.Arrays(str(tmp_path / "a.npz"), classes=(1,)))
    test = dataset.rows["test"]
    names = [dataset.origins[row] for row in test]
    assert names == ["a.npz, x_test[2]", "a.npz, x_test[5]"]


def test_origins_of_texts_count_blank_lines_and_every_file(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    for name, lines in {
        "bad": "bad\n\nbad film\n",
        "good": "\ngood\ngood film",
    }.items():
        (tmp_path / name).write_text(lines)
    paths = tuple(str(tmp_path / name) for name in ("bad", "good"))
    tokenizer = data.Tokenizer(str(tmp_path / "vocab.txt"), max_length=8)
    source = data.Text(
        paths, class_names=("bad", "good"), tokenizer=tokenizer, val=0, test=0
    )
    dataset = data.prepare(source)
    expected = [f"{paths[0]}:1", f"{paths[0]}:3", f"{paths[1]}:2", f"{paths[1]}:3"]
    assert [dataset.origins[row] for row in range(4)] == expected
    dataset = data.prepare(data.Lines(paths, tokenizer=tokenizer, val=0, test=0))
    assert [dataset.origins[row] for row in range(4)] == expected


def test_messages_about_a_table_name_the_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n\n1,a\n\n,b\n")
    with pytest.raises(UserError, match="in line 5"):
        data.prepare(data.CSV(str(path), target="y"))
    path.write_text("x,y\n\n1,a\n\n2,b,c\n")
    with pytest.raises(UserError, match="row 5 of"):
        data.prepare(data.CSV(str(path), target="y"))


def test_a_row_of_several_lines_is_named_by_its_first(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('x,y\n\n"1\n",a\n2,b\n')
    dataset = data.prepare(data.CSV(str(path), target="y", val=0, test=0))
    assert [dataset.origins[row] for row in range(2)] == [f"{path}:3", f"{path}:5"]


def test_digests_of_a_large_folder_are_kept_for_later_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "STORED_BYTES", 1)
    path = tmp_path / "x"
    path.write_text("abc")
    time.sleep(0.15)  # a younger file's times can't tell a later change
    [first] = files.digests([path])
    monkeypatch.setattr(files, "_digests", {})  # as in another process
    with monkeypatch.context() as context:
        context.setattr(files, "_sha256", lambda path: pytest.fail("hashed again"))
        assert files.digests([path]) == [first]
    path.write_text("abd")
    assert files.digests([path]) != [first]
    (tmp_path / "cache" / "jaxtl" / "digests.sqlite").write_text("damaged " * 100)
    monkeypatch.setattr(files, "_digests", {})
    assert files.digests([path]) != [first]


def test_the_last_row_of_data_of_several_blocks_counts():
    x = np.zeros((66, 1024, 1024), np.uint8)  # hashed in blocks of 64 MiB
    before = data.prepare(data.Arrays(x=x, y=np.arange(66) % 2)).fingerprint
    x[-1, -1, -1] = 1
    assert data.prepare(data.Arrays(x=x, y=np.arange(66) % 2)).fingerprint != before
