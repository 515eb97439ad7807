"""Initial weights written by jaxtl: a run's directory or a checkpoint."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from jaxtl.core import checkpoint, files
from jaxtl.core.errors import UserError
from jaxtl.pretrained.match import Weights


@dataclasses.dataclass(frozen=True)
class FromRun:
    """The model that an earlier run trained.

    Attributes:
      path: the run's directory.
      reset: patterns of leaves to re-initialize, "head" for a new head.
      ignore: patterns of leaves of the run that this model does not have.
      which: "best" on validation, or "last".
      output_names: names of the head's outputs in order, where the stored ones are not
        spelled as the data's; None takes the stored ones.
    """

    path: str
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    which: Literal["best", "last"] = "best"
    output_names: tuple[str, ...] | None = None

    def read(self) -> Weights:
        """Reads the weights.

        Raises:
          UserError: the directory is no run, or its checkpoint can't be read.
        """
        path = pathlib.Path(self.path)
        if not path.is_dir():
            raise UserError(f"init: there is no run directory {self.path!r}.")
        folder = path / "checkpoints"
        step = checkpoint.latest(folder)
        if step is None:
            below = sorted(p.parent for p in path.glob("**/checkpoints"))
            if below:
                names = ", ".join(str(p.relative_to(path)) for p in below[:8])
                raise UserError(
                    f"init: {self.path!r} holds {len(below)} runs: {names}"
                    f"{', …' if len(below) > 8 else ''}; name one of them, such as "
                    f"{str(below[0])!r}."
                )
            raise UserError(
                f"init: {self.path!r} holds no finished checkpoint "
                "(expected checkpoints/<step>/ as `jaxtl run` writes them)."
            )
        states = files.states([folder / str(step)])
        return _read(folder.absolute(), step, self.which, states)

    def stored_preprocess(self) -> dict[str, Any]:
        """The preprocessing of the run as JSON; {} where none is trained yet."""
        folder = pathlib.Path(self.path) / "checkpoints"
        step = checkpoint.latest(folder) if folder.is_dir() else None
        meta = {} if step is None else checkpoint.meta(folder, step)
        return meta.get("preprocess") or {}


@functools.lru_cache(maxsize=4)
def _read(
    folder: pathlib.Path, step: int, which: str, states: tuple[files.FileState, ...]
) -> Weights:
    # Cached, because many small runs of a study start from the same source. The states
    # of its files are an argument so that a checkpoint that was written again is read
    # again.
    item = checkpoint.read(folder, step, which)
    meta = checkpoint.meta(folder, step)
    return Weights(item["params"], item.get("stats", {}), meta, **stored_names(meta))


def stored_names(meta: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """{"output_names", "feature_names"} of a checkpoint's meta, () for none.

    Older versions stored the names of classes alone.
    """
    outputs = meta.get("output_names") or meta.get("class_names") or ()
    features = meta.get("feature_names") or ()
    return {"output_names": tuple(outputs), "feature_names": tuple(features)}


@dataclasses.dataclass(frozen=True)
class FromCheckpoint:
    """An orbax checkpoint of a parameter tree, written by jaxtl or anything else.

    Attributes:
      path: one checkpoint's folder of arrays; a tree {"params": …, "batch_stats": …}
        (or "stats"), or the parameters alone.
      reset, ignore, output_names: as in `FromRun`.
    """

    path: str
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    output_names: tuple[str, ...] | None = None

    def read(self) -> Weights:
        """Reads the weights.

        Raises:
          UserError: the folder is no orbax checkpoint.
        """
        path = pathlib.Path(self.path)
        if not path.is_dir():
            raise UserError(f"init: there is no checkpoint folder {self.path!r}.")
        tree = checkpoint.read_tree(path)
        stats = tree.get("batch_stats", tree.get("stats", {}))
        meta = {**checkpoint.beside(path), "path": json.dumps(str(path))}
        return Weights(tree.get("params", tree), stats, meta, **stored_names(meta))

    def stored_preprocess(self) -> dict[str, Any]:
        """The preprocessing stored beside the weights as JSON; {} for none."""
        path = pathlib.Path(self.path)
        return checkpoint.beside(path).get("preprocess") or {} if path.is_dir() else {}
