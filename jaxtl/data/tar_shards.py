"""Shards of webdataset: tar files whose adjacent members of one name are an example."""

from __future__ import annotations

import collections
import dataclasses
import glob
import hashlib
import itertools
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxtl.core import progress
from jaxtl.core.errors import UserError, first_line
from jaxtl.data import paths
from jaxtl.data.image_stores import ImageStore, NamedBytes

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


class ShardMember(NamedTuple):
    """Where the bytes of a member lie.

    Attributes:
      shard: path of the tar file.
      offset, size: in bytes.
    """

    shard: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Sample(NamedTuple):
    """The members of an example by what follows the first dot of their names."""

    name: str
    members: dict[str, ShardMember]


@dataclasses.dataclass(frozen=True, eq=False)
class TarImages(ImageStore):
    """Encoded images in uncompressed tar files, by their places."""

    names: tuple[str, ...]
    members: tuple[ShardMember, ...]

    def open(self, row: int) -> NamedBytes:
        return NamedBytes(self.members[row].read(), self.names[row])

    def is_empty(self, row: int) -> bool:
        return self.members[row].size == 0

    def digests(self, rows: Sequence[int]) -> list[str]:
        tracked = progress.track(rows, "hashing the images of shards")
        return [hashlib.sha256(self.members[row].read()).hexdigest() for row in tracked]


def expand(pattern: str, field: str) -> list[str]:
    """The paths of shards that a path stands for.

    Args:
      pattern: a file, a folder of tar files, "train-{000..127}.tar", or "train-*.tar".
      field: the option that named it, for messages.

    Raises:
      UserError: there is no such file.
    """
    shards: list[str] = []
    for path in _braces(pattern):
        if glob.has_magic(path):
            matches = next(
                (m for c in paths.candidates(path) if (m := glob.glob(str(c)))), None
            )
            if matches is None:
                raise UserError(f"{field}: no file matches {path!r}.")
            shards += sorted(matches)
            continue
        file = paths.find(path, field)
        inside = sorted(file.glob("*.tar")) if file.is_dir() else [file]
        if not inside:
            raise UserError(f"{field}: the folder {file} holds no .tar file.")
        shards += map(str, inside)
    if len(set(shards)) < len(shards):
        repeated = next(s for s, n in collections.Counter(shards).items() if n > 1)
        raise UserError(f"{field} names the shard {repeated} twice.")
    return shards


def _braces(pattern: str) -> Iterator[str]:
    """The texts of "a{00..11}" and "a{b,c}", as a shell expands them."""
    match = _RANGE.search(pattern) or _CHOICE.search(pattern)
    if match is None:
        yield pattern
        return
    if match.re is _RANGE:
        low, high = match.groups()
        numbers = range(int(low), int(high) + 1)
        parts: Iterable[str] = (str(n).zfill(len(low)) for n in numbers)
    else:
        parts = match[1].split(",")
    for part in parts:
        yield from _braces(pattern[: match.start()] + part + pattern[match.end() :])


def samples(shards: Sequence[str], field: str) -> Iterator[Sample]:
    """The examples of shards in order; one pass over the headers of their members.

    Members whose names begin with "__" or a dot, and folders, are left out.

    Args:
      shards: paths of tar files that are not compressed.
      field: the option that named them, for messages.

    Raises:
      UserError: a shard that is no such tar file or is cut off, a member that comes
        twice, or an example whose members are not adjacent.
    """
    for shard in progress.track(shards, "indexing shards"):
        names: set[str] = set()
        groups = itertools.groupby(_members(shard, field), key=lambda entry: entry[0])
        for name, entries in groups:
            if name in names:
                raise UserError(
                    f"{field}: in {shard} the members of {name!r} are not adjacent; "
                    "write the shard with its members sorted by name."
                )
            names.add(name)
            members: dict[str, ShardMember] = {}
            for _, suffix, member in entries:
                if suffix in members:
                    raise UserError(f"{field}: {shard} has {name}.{suffix} twice.")
                members[suffix] = member
            yield Sample(name, members)


def _members(shard: str, field: str) -> Iterator[tuple[str, str, ShardMember]]:
    """(Name up to the first dot, what follows in lower case, place) of each member."""
    size = os.stat(shard).st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                folder, _, base = info.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                archive.members.clear()  # type: ignore[attr-defined]
                if info.isdir() or base.startswith(("__", ".")):
                    continue
                if not info.isreg() or info.issparse():
                    raise UserError(
                        f"{field}: {info.name} in {shard} is a link or a sparse file; "
                        "expected whole files."
                    )
                if info.offset_data + info.size > size:
                    raise UserError(
                        f"{field}: {shard} is cut off within {info.name}; it has "
                        f"{size:,} bytes."
                    )
                name = f"{folder}/{stem}" if folder else stem
                yield (
                    name,
                    suffix.lower(),
                    ShardMember(shard, info.offset_data, info.size),
                )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{field}: {shard} can't be read: {first_line(error)}; expected a tar file "
            "that is not compressed (gunzip it if it is)."
        ) from None


def store_of(examples: Sequence[Sample], suffix: Sequence[str]) -> TarImages:
    """The images of examples, each by its own suffix."""
    members = [e.members[s] for e, s in zip(examples, suffix, strict=True)]
    names = [f"{m.shard}/{e.name}.{s}" for m, e, s in zip(members, examples, suffix)]
    return TarImages(tuple(names), tuple(members))
