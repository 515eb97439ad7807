"""Rows or pictures per second of each source, next to the library that also reads it.

Each source reads its file as `Data.read` does, with its checks: types and holes of
every cell, headers and hashes of every picture. The other library, in the same process
and in turn, reads the same file to arrays of the same values: pandas, scikit-learn,
datasets, or torch's loader with Pillow. Files are in the memory of the operating
system. A library that is not installed is left out.

    python benchmarks/sources.py [--quick] [--json FILE]
"""

import importlib.util
import io
import json
import pathlib
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
import scipy.sparse
import sklearn.datasets
import timing

from jaxtl import data
from jaxtl.data.sources import folder_layout

ROUNDS = 5
SIDE = 64  # pixels of the pictures
LISTED = 100_000  # files of the folder that is listed
TARGET = 2.0  # seconds


class Job(NamedTuple):
    """One file, read by a source of jaxtl and by another library."""

    source: str
    rows: int
    ours: Callable[[], object]
    other: str
    theirs: Callable[[], object]
    needs: tuple[str, ...]  # modules


def table(rows: int) -> dict[str, np.ndarray]:
    """Six columns of numbers, one of categories, one of classes."""
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=rows).round(6) for i in range(6)}
    columns["color"] = rng.choice(["red", "green", "blue"], rows)
    return {**columns, "y": rng.choice(["no", "yes"], rows)}


def table_jobs(folder: pathlib.Path, rows: int) -> Iterator[Job]:
    """The same table in files of four kinds."""
    columns = table(rows)
    names, cells = list(columns), list(zip(*(c.tolist() for c in columns.values())))
    lines = [",".join(names), *(",".join(map(str, row)) for row in cells)]
    (folder / "t.csv").write_text("\n".join(lines))
    objects = (json.dumps(dict(zip(names, row))) for row in cells)
    (folder / "t.jsonl").write_text("\n".join(objects))

    def pandas(function: str, name: str, **options: object) -> Callable:
        def read() -> object:
            import pandas

            frame = getattr(pandas, function)(folder / name, **options)
            numbers = pandas.get_dummies(frame[names[:-1]]).to_numpy(np.float64)
            return numbers, frame["y"].astype("category").cat.codes.to_numpy()

        return read

    def ours(kind: type, name: str) -> Callable:
        return lambda: kind(str(folder / name), target="y").read()

    yield Job(
        *("CSV", rows, ours(data.CSV, "t.csv"), "pandas"),
        *(pandas("read_csv", "t.csv"), ("pandas",)),
    )
    yield Job(
        *("JSON", rows, ours(data.JSON, "t.jsonl"), "pandas"),
        *(pandas("read_json", "t.jsonl", lines=True), ("pandas",)),
    )
    if importlib.util.find_spec("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
    yield Job(
        *("Parquet", rows, ours(data.Parquet, "t.parquet"), "pandas"),
        *(pandas("read_parquet", "t.parquet"), ("pandas", "pyarrow")),
    )


def sparse_job(folder: pathlib.Path, rows: int) -> Job:
    """A file of svmlight with 50 values in each row."""
    rng = np.random.default_rng(0)
    x = scipy.sparse.random_array((rows, 5000), density=0.01, rng=rng)
    path = str(folder / "a.svm")
    sklearn.datasets.dump_svmlight_file(x, np.arange(rows) % 2, path)
    return Job(
        *("SVMLight", rows, lambda: data.SVMLight(path).read(), "scikit-learn"),
        *(lambda: sklearn.datasets.load_svmlight_file(path), ("sklearn",)),
    )


def encoded(count: int) -> list[bytes]:
    """JPEG files of smooth random pictures."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        small = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        file = io.BytesIO()
        small.resize((SIDE, SIDE)).save(file, "jpeg")
        files.append(file.getvalue())
    return files


def decoded(source: object) -> np.ndarray:
    """A picture as Pillow decodes it."""
    return np.array(PIL.Image.open(source).convert("RGB"))


def picture_jobs(folder: pathlib.Path, count: int) -> Iterator[Job]:
    """The same pictures in folders of classes, saved by datasets, and as items."""
    pictures, root, paths = encoded(count), folder / "pictures", []
    for i, content in enumerate(pictures):
        path = root / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)

    class Files:
        """A map-style data set of torch."""

        def __len__(self) -> int:
            return count

        def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
            return decoded(paths[row]), row % 2

    def torch_loader() -> object:
        import torch

        return list(torch.utils.data.DataLoader(Files(), batch_size=64))

    yield Job(
        *("ImageFolder", count, lambda: data.ImageFolder(str(root)).read()),
        *("torch, Pillow", torch_loader, ("torch",)),
    )
    yield Job(
        *("TorchDataset", count, lambda: data.TorchDataset(Files()).read()),
        *("torch, Pillow", torch_loader, ("torch",)),
    )
    saved = folder / "saved"
    if importlib.util.find_spec("datasets"):
        import datasets

        datasets.disable_progress_bars()
        types = {"image": datasets.Image(), "y": datasets.ClassLabel(names=["a", "b"])}
        cells = {"image": [{"bytes": b} for b in pictures], "y": np.arange(count) % 2}
        features = datasets.Features(types)
        datasets.Dataset.from_dict(cells, features=features).save_to_disk(str(saved))

    def with_datasets() -> object:
        import datasets

        rows = datasets.load_from_disk(str(saved))
        return [np.asarray(row["image"].convert("RGB")) for row in rows]

    source = {"target": "y", "image": "image"}
    yield Job(
        *("HFDataset", count, lambda: data.HFDataset(str(saved), **source).read()),
        *("datasets", with_datasets, ("datasets", "pyarrow")),
    )


def shard_job(folder: pathlib.Path, count: int) -> Job:
    """The pictures in a tar shard of webdataset."""
    path = str(folder / "shard.tar")
    with tarfile.open(path, "w") as archive:
        for i, content in enumerate(encoded(count)):
            for suffix, part in {"jpg": content, "cls": b"%d" % (i % 2)}.items():
                info = tarfile.TarInfo(f"{i:06}.{suffix}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))

    def with_tarfile() -> object:
        with tarfile.open(path, "r:") as archive:
            files = ((info.name, archive.extractfile(info)) for info in archive)
            return [
                decoded(file) if name.endswith("jpg") else int(file.read())
                for name, file in files
            ]

    return Job(
        *("WebDataset", count, lambda: data.WebDataset(path).read()),
        *("tarfile, Pillow", with_tarfile, ()),
    )


def listing(folder: pathlib.Path, count: int) -> timing.Row:
    """Seconds to list a folder of many files and to read their classes."""
    for i in range(100):
        (folder / f"class{i:02}").mkdir()
    for i in range(count):
        (folder / f"class{i % 100:02}/{i}.jpg").touch()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        names = folder_layout.list_images(folder).names
        folder_layout.layout(folder, names)
        seconds.append(time.perf_counter() - start)
    assert len(names) == count
    return {
        "files listed": count,
        "s": statistics.median(seconds),
        "target": f"≤ {TARGET:g}",
    }


def measured(job: Job, rounds: int) -> timing.Row:
    """One row of the table: both readers in turn."""
    times = timing.alternate({"ours": job.ours, "theirs": job.theirs}, rounds).clock
    speed = {name: job.rows / statistics.median(s) for name, s in times.items()}
    return {
        "source": job.source,
        "rows": job.rows,
        "rows/s": round(speed["ours"]),
        "next to": job.other,
        "its rows/s": round(speed["theirs"]),
        "time, ratio": timing.ratio(times, "ours", "theirs"),
        "quartiles": timing.spread(times, "ours", "theirs"),
    }


def main(argv: list[str] | None = None) -> list[list[timing.Row]]:
    """Prints the speed of each source; returns the tables."""
    args = timing.options(__doc__, argv)
    rows, pictures, listed = (200, 10, 200) if args.quick else (50_000, 2000, LISTED)
    rounds = 2 if args.quick else ROUNDS
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        jobs = [
            *table_jobs(folder, rows),
            sparse_job(folder, rows),
            *picture_jobs(folder, pictures),
            shard_job(folder, pictures),
        ]
        speeds = [
            measured(job, rounds)
            for job in jobs
            if all(importlib.util.find_spec(name) for name in job.needs)
        ]
        (folder / "listed").mkdir()
        whole = listing(folder / "listed", listed)
    timing.report(__doc__.partition("\n")[0], [speeds, [whole]], args.json)
    return [speeds, [whole]]


if __name__ == "__main__":
    main(sys.argv[1:])
