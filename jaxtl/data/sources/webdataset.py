"""Pictures with labels from tar shards, as webdataset writes them."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, label_arrays, origins, split_fields, splits, tar_shards
from jaxtl.data.dataset import Table
from jaxtl.data.image_sets import ImageFiles
from jaxtl.data.sources import split_names
from jaxtl.data.sources.folder_layout import SUFFIXES
from jaxtl.data.tar_shards import Sample

_LABELS = ("cls", "json", "txt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDataset(ImageFiles):
    """Tar shards of webdataset: `1.jpg` with `1.cls`, `1.json` or `1.txt` beside it.

    `WebDataset("train-{000..127}.tar", val_path="val-*.tar")`. One pass over the
    headers of members finds the examples; pictures that do not fit in `memory_limit`
    are read from the shards for each batch. `image_sets.ImageFiles` tells how pictures
    are read; members beside the picture and the label are not.

    Attributes:
      path: a shard that is not compressed, several, a folder of them, or a pattern with
        braces or a star; looked for under $JAXTL_DATA_DIR as well. None where there are
        held-out splits alone.
      val_path, test_path: likewise, of the validation and test split.
      image: what follows the first dot in the names of pictures; None takes that of
        the only picture of each example.
      label: likewise of labels; None takes the first of cls, json and txt that the
        first example has.
      key: of the label in an object of JSON.
      task: None infers it, as `Arrays` does.
      class_names: names in label order; None takes the texts or numbers that occur.
    """

    path: str | tuple[str, ...] | None = dataclasses.field(default=None, kw_only=False)
    val_path: str | tuple[str, ...] | None = None
    test_path: str | tuple[str, ...] | None = None
    image: str | None = None
    label: str | None = None
    key: str = "label"
    task: str | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("path", "val_path", "test_path", "class_names"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("image", "label"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, value.removeprefix(".").lower())

    def files(self) -> tuple[pathlib.Path, ...]:
        """All shards."""
        shards = [s for split in self._shards().values() for s in split]
        return tuple(map(pathlib.Path, shards))

    def read(self) -> Table:
        """Finds the examples of all shards, and decodes the pictures where they fit."""
        parts = {
            split: [*tar_shards.samples(shards, _field(split))]
            for split, shards in self._shards().items()
        }
        for split, part in parts.items():
            if not part:
                raise UserError(f"{_field(split)}: the shards have no members.")
        examples = [example for part in parts.values() for example in part]
        suffixes = [self._image_suffix(example) for example in examples]
        label = self._label_suffix(examples)
        labels = self._labels(examples, label)
        store = tar_shards.store_of(examples, suffixes)
        pictures = self.read_pictures(store)
        kept = pictures.kept
        lengths = {split: len(part) for split, part in parts.items()}
        return Table(
            x=pictures.x,
            y=labels.y[kept],
            class_names=labels.class_names,
            task=labels.task,
            splits=splits.consecutive(lengths, kept),
            preprocess=pictures.preprocess,
            origins=origins.of_files(store.names).select(kept),
            digests=pictures.digests,
            notes=(
                *labels.notes,
                *_unread(examples, {*suffixes, label}),
                *pictures.notes,
            ),
        )

    def _shards(self) -> dict[str, list[str]]:
        """Split -> paths of its shards."""
        shards: dict[str, list[str]] = {}
        for split, patterns in split_fields.by_split(self).items():
            patterns = (patterns,) if isinstance(patterns, str) else patterns
            expanded = [_expanded(p, split) for p in patterns]
            shards[split] = [shard for part in expanded for shard in part]
        everything = [shard for part in shards.values() for shard in part]
        if (shard := cells.repeated(map(os.path.realpath, everything))) is not None:
            raise UserError(f"WebDataset: the shard {shard} is in two splits.")
        return shards

    def _image_suffix(self, example: Sample) -> str:
        """Which member of an example is its picture."""
        if self.image is not None:
            options = [self.image] if self.image in example.members else []
        else:
            options = [
                s for s in example.members if f".{s.rpartition('.')[2]}" in SUFFIXES
            ]
        if len(options) == 1:
            return options[0]
        problem = f"has {len(options)} pictures" if options else "has no picture"
        if self.image is not None:
            problem = (
                f"has no member {self.image!r}{nearest(self.image, example.members)}"
            )
        shard = next(iter(example.members.values())).shard
        raise UserError(
            f"WebDataset.image={self.image!r}: {example.name!r} in {shard} {problem} "
            f"(members: {', '.join(example.members)}); image= names what follows the "
            "first dot, such as 'jpg'."
        )

    def _label_suffix(self, examples: Sequence[Sample]) -> str:
        """What follows the first dot in the names of labels; each example has one."""
        options = (self.label,) if self.label is not None else _LABELS
        first = examples[0].members
        suffix = next((s for s in options if s in first), None)
        without = [e for e in examples if suffix is None or suffix not in e.members]
        if suffix is not None and not without:
            return suffix
        example = without[0]
        shard = next(iter(example.members.values())).shard
        wanted = [suffix] if suffix is not None else options
        raise UserError(
            f"WebDataset.label={self.label!r}: {len(without)} of {len(examples)} "
            f"examples have no member {' or '.join(wanted)}, the first "
            f"{example.name!r} in {shard} (members: {', '.join(example.members)})."
        )

    def _labels(self, examples: Sequence[Sample], suffix: str) -> label_arrays.Labels:
        """Labels as numbers where all are written as numbers, else as texts."""
        values = [self._label(example, suffix) for example in examples]
        where = f"WebDataset.label={suffix!r}"
        if all(isinstance(value, str) for value in values):
            numbers = cells.numbers(values)
            integers = [cells.integer(value) for value in values]
            if None not in integers:
                values = integers
            elif numbers is not None:
                values = numbers.tolist()
        y = label_arrays.stacked(values, where)
        return label_arrays.read(y, self.class_names, self.task, where)

    def _label(self, example: Sample, suffix: str) -> Any:
        """The label of an example: a text, or the value in an object of JSON."""
        member = example.members[suffix]
        where = f"{example.name}.{suffix} in {member.shard}"
        try:
            text = member.read().decode("utf-8")
            if not suffix.endswith("json"):
                return cells.normalized(text)
            value = json.loads(text)
        except ValueError:  # of Unicode and of JSON
            kind = "JSON" if suffix.endswith("json") else "text in utf-8"
            raise UserError(f"WebDataset.label: {where} is no {kind}.") from None
        if isinstance(value, dict):
            if self.key not in value:
                raise UserError(
                    f"WebDataset.key={self.key!r}: {where} has no such key"
                    f"{nearest(self.key, value)} (keys: {', '.join(value)})."
                )
            value = value[self.key]
        if isinstance(value, bool | int | float | str | list):
            return cells.normalized(value) if isinstance(value, str) else value
        raise UserError(
            f"WebDataset.key={self.key!r}: {where} holds {value!r}; expected a text, a "
            "number or a list of numbers."
        )


def _expanded(pattern: str, split: str) -> list[str]:
    """The shards of a folder or pattern, which are of one split."""
    shards = tar_shards.expand(pattern, _field(split))
    if "{" not in pattern:  # names in braces were written one by one
        split_names.check_one_split(
            map(os.path.basename, shards),
            f"{_field(split)}={pattern!r}",
            "name those of each split, path='train-*.tar', val_path='val-*.tar'",
        )
    return shards


def _field(split: str) -> str:
    return f"WebDataset.{split_fields.split_field(split)}"


def _unread(examples: Sequence[Sample], used: set[str]) -> list[str]:
    """Says which members of examples are neither picture nor label."""
    counts = collections.Counter(s for e in examples for s in e.members)
    others = [f".{s} ({n})" for s, n in sorted(counts.items()) if s not in used]
    return [f"members that are not read: {', '.join(others)}"] if others else []
