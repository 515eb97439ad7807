"""Every source reads n examples with a number of calls that is proportional to n.

Calls of Python and C functions are counted, and so are the files that are opened and
looked up: of twice the data they may be twice as many, not four times.
"""

import builtins
import io
import itertools
import json
import os
import sys
import tarfile
import threading

import numpy as np
import PIL.Image
import pytest
import scipy.sparse
from sklearn import datasets as sklearn_datasets

from jaxtl import data
from jaxtl.data import image_files
from jaxtl.data.preparation import clear_table_cache, load_table

SIZES = (16, 32, 64)
WORDS = ("red", "green", "blue")


def png(i):
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (i % 256, i // 256, 7)).save(file, "png")
    return file.getvalue()


def table(n):
    return {
        "a": [i / 7 for i in range(n)],
        "b": [WORDS[i % 3] for i in range(n)],
        "y": ["cd"[i % 2] for i in range(n)],
    }


def csv(folder, n):
    rows = zip(*table(n).values())
    lines = ["a,b,y", *(",".join(map(str, row)) for row in rows)]
    (folder / "t.csv").write_text("\n".join(lines))
    return data.CSV(str(folder / "t.csv"), target="y")


def json_lines(folder, n):
    rows = [dict(zip("aby", row)) for row in zip(*table(n).values())]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return data.JSON(str(folder / "t.jsonl"), target="y")


def parquet(folder, n):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table(table(n)), folder / "t.parquet", row_group_size=8)
    return data.Parquet(str(folder / "t.parquet"), target="y")


def frame(folder, n):
    return data.Frame(table(n), target="y")


def arrays(folder, n):
    np.savez(folder / "a.npz", x=np.zeros((n, 3), np.float32), y=np.arange(n) % 2)
    return data.Arrays(str(folder / "a.npz"))


def multi_mnist(folder, n):
    x, y = np.ones((n, 28, 28), np.uint8), np.arange(n) % 2
    parts = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    np.savez(folder / "m.npz", **parts)
    return data.MultiMNIST(str(folder / "m.npz"))


def tasks(folder, n):
    return data.Tasks({"a": arrays(folder, n), "b": arrays(folder, n)})


def images_in_folders(folder, n):
    for i in range(n):
        path = folder / "cd"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(i))
    return data.ImageFolder(str(folder))


def image_list(folder, n):
    (folder / "images").mkdir()
    for i in range(n):
        (folder / f"images/{i}.png").write_bytes(png(i))
    rows = "".join(f"images/{i}.png,{'cd'[i % 2]}\n" for i in range(n))
    (folder / "list.csv").write_text("path,y\n" + rows)
    return data.ImageList(str(folder / "list.csv"), target="y")


def image_text(folder, n):
    (folder / "images").mkdir()
    for i in range(n):
        (folder / f"images/{i}.png").write_bytes(png(i))
    rows = "".join(f"images/{i}.png,{WORDS[i % 3]} {i}\n" for i in range(n))
    (folder / "list.csv").write_text("image,text\n" + rows)
    return data.ImageText(str(folder / "list.csv"))


def hf_dataset(folder, n):
    pa = pytest.importorskip("pyarrow")
    cells = [{"bytes": png(i), "path": None} for i in range(n)]
    rows = pa.table({"image": cells, "y": table(n)["y"]})
    with pa.ipc.new_stream(str(folder / "data.arrow"), rows.schema) as out:
        out.write_table(rows, max_chunksize=8)
    state = {"_data_files": [{"filename": "data.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return data.HFDataset(str(folder), target="y", image="image", memory_limit=1)


def web_dataset(folder, n):
    with tarfile.open(folder / "a.tar", "w") as archive:
        for i in range(n):
            for suffix, content in {"png": png(i), "cls": b"%d" % (i % 2)}.items():
                info = tarfile.TarInfo(f"{i:05}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return data.WebDataset(str(folder / "a.tar"), memory_limit=1)


def svmlight(folder, n):
    x = scipy.sparse.random_array((n, 9), density=0.3, rng=np.random.default_rng(0))
    path = str(folder / "a.svm")
    sklearn_datasets.dump_svmlight_file(x, np.arange(n) % 2, path)
    return data.SVMLight(path, n_features=9)


def torch_dataset(folder, n):
    return data.TorchDataset([(np.full(3, i, np.float32), i % 2) for i in range(n)])


def text(folder, n):
    lines = [f"{WORDS[i % 3]} {i}\t{'cd'[i % 2]}" for i in range(n)]
    (folder / "t.tsv").write_text("\n".join(lines))
    return data.Text(str(folder / "t.tsv"), header=False)


def lines(folder, n):
    (folder / "t.txt").write_text("\n".join(f"line {i}" for i in range(n)))
    return data.Lines(str(folder / "t.txt"))


def conll(folder, n):
    (folder / "t.conll").write_text("a B-X\nb O\n\n" * n)
    return data.CoNLL(str(folder / "t.conll"))


def squad(folder, n):
    qas = [{"question": "a ?", "answers": [{"text": "b", "answer_start": 2}]}] * 2
    article = {
        "title": "t",
        "paragraphs": [{"context": "a b c", "qas": qas}] * (n // 2),
    }
    (folder / "t.json").write_text(json.dumps({"data": [article]}))
    return data.SQuAD(str(folder / "t.json"))


SOURCES = {
    "Arrays": arrays,
    "CSV": csv,
    "CoNLL": conll,
    "Frame": frame,
    "HFDataset": hf_dataset,
    "ImageFolder": images_in_folders,
    "ImageList": image_list,
    "ImageText": image_text,
    "JSON": json_lines,
    "Lines": lines,
    "MultiMNIST": multi_mnist,
    "Parquet": parquet,
    "SQuAD": squad,
    "SVMLight": svmlight,
    "Tasks": tasks,
    "Text": text,
    "TorchDataset": torch_dataset,
    "WebDataset": web_dataset,
}
OF_ONE_SIZE = {"Digits", "PenDigits", "RenderedDigits", "TFDS"}


def test_every_source_is_here():
    names = {row["name"] for row in data.available()}
    assert names == {*SOURCES, *OF_ONE_SIZE}


def count_calls(source, monkeypatch):
    """How often reading a source calls any function, and those of files by name."""
    counters, of_others = {}, {thread.ident for thread in threading.enumerate()}
    of_others.remove(threading.get_ident())  # threads that earlier tests have left

    def count(owner, name):
        counter = counters[name] = itertools.count()
        function = getattr(owner, name)

        def counted(*args, **options):
            if threading.get_ident() not in of_others:
                next(counter)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    calls = itertools.count()

    def profile(frame, event, argument):
        if event in ("call", "c_call"):
            next(calls)

    with monkeypatch.context() as patch:
        monkeypatch = patch
        count(builtins, "open")
        count(os, "stat")
        count(os, "scandir")
        count(image_files, "read")
        count(image_files, "header")
        clear_table_cache()
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            load_table(source)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return next(calls), {name: next(counter) for name, counter in counters.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_calls_grow_at_most_in_proportion_to_the_examples(name, tmp_path, monkeypatch):
    totals, of_files = [], []
    for n in (SIZES[0], *SIZES):  # the first reading imports what it needs
        folder = tmp_path / f"{n}_{len(totals)}"
        folder.mkdir()
        source = SOURCES[name](folder, n)
        total, files = count_calls(source, monkeypatch)
        totals.append(total)
        of_files.append(files)
    small, middle, large = totals[1:]
    # The differences leave out what is called once: 2 for n, 4 for n².
    assert large - middle <= 2.5 * max(middle - small, 1) + 50, totals
    # A file is opened for its header, its pixels and its hash, new ones hashed twice.
    for kind, most in {"open": 4, "stat": 8, "read": 1, "header": 1}.items():
        growth = of_files[3][kind] - of_files[2][kind]
        assert growth <= most * (SIZES[2] - SIZES[1]), (kind, of_files)
    assert of_files[3]["scandir"] == of_files[1]["scandir"]


def test_the_count_sees_what_is_quadratic(tmp_path, monkeypatch):
    class Pairwise(list):
        def __getitem__(self, row):
            for i in range(row):
                super().__getitem__(i)
            return super().__getitem__(row)

    totals = [
        count_calls(
            data.TorchDataset(Pairwise((np.ones(3), i % 2) for i in range(n))),
            monkeypatch,
        )[0]
        for n in (SIZES[0], *SIZES)
    ]
    assert totals[3] - totals[2] > 2.5 * (totals[2] - totals[1]) + 50
