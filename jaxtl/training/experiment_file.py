"""Reads experiment files and applies overrides of the command line."""

import dataclasses
import hashlib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import re
import reprlib
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core import config, files, limits, process_group, serialization
from jaxtl.core.call_errors import describe_call_error
from jaxtl.core.errors import UserError, describe_error, nearest
from jaxtl.training.experiment import Experiment

MODULE = "jaxtl_experiment_"  # experiment files are imported under this prefix
# Module -> digest of the file that it was imported from, as it was then.
_digests: dict[str, str] = {}


@dataclasses.dataclass(frozen=True)
class File:
    """An experiment file, read and overridden.

    Attributes:
      path: where it was read from.
      variants: name -> Experiment; a single experiment is named "".
      seeds: the file's SEEDS, None if it gives none.
      overrides: as given.
      doc: the file's docstring.
      original: name of the file that `path` is a copy of; "" if it is none.
      name: of the file, or of the one that it is a copy of.
    """

    path: pathlib.Path
    variants: dict[str, Experiment]
    seeds: tuple[int, ...] | None
    overrides: tuple[str, ...]
    doc: str
    original: str = ""

    @property
    def name(self) -> str:
        return self.original or self.path.name

    def run_name(self, variant: str) -> str:
        """Name of a variant's runs in tables; a single experiment has the file's."""
        return variant or pathlib.Path(self.name).stem


def load(path: str | pathlib.Path, *overrides: str) -> Any:
    """Loads an experiment file: an Experiment, or a dict of variants.

    Args:
      path: the file.
      overrides: "optim.lr=0.01"; a first part that is a variant's name limits the
        override to it, otherwise it applies to every variant that has the path.

    Returns:
      The experiment, or variant -> experiment where the file has several.

    Raises:
      UserError: for a missing or broken file, and for an unknown path or wrong value.
    """
    variants = read_file(path, *overrides).variants
    return variants[""] if list(variants) == [""] else variants


def read_file(path: str | pathlib.Path, *overrides: str, original: str = "") -> File:
    """Reads an experiment file; an override `SEEDS=0,1,2` replaces its seeds.

    Args:
      path: the file.
      overrides: as of `load`.
      original: name of the file that this one is a copy of; its classes have the module
        of that name.
    """
    path = pathlib.Path(path)
    module = import_file(path, original)
    function = getattr(module, "experiment", None)
    if not callable(function):
        raise UserError(
            f"{path} defines no function experiment() that returns a tl.Experiment."
        )
    try:
        result = function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _at_line(path, error) from error
    variants = result if isinstance(result, Mapping) else {"": result}
    for name, value in variants.items():
        if not isinstance(value, Experiment):
            raise UserError(
                f"{path}: experiment() must return a tl.Experiment or a dict of them, "
                f"got {type(value).__name__}" + (f" for {name!r}." if name else ".")
            )
    seeds = getattr(module, "SEEDS", None)
    remaining = []
    for override in overrides:
        if override.partition("=")[0] in ("SEEDS", "seeds"):
            seeds = _seeds(override.partition("=")[2])
        else:
            remaining.append(override)
    variants = apply_overrides(dict(variants), remaining)
    doc = inspect.getdoc(module) or ""
    seeds = None if seeds is None else _checked_seeds(seeds, len(variants))
    return File(path, variants, seeds, tuple(overrides), doc, original)


def check_same(file: File) -> None:
    """Raises UserError where the processes of a job read different files."""
    values: dict[str, Any] = {"SEEDS": file.seeds}
    for name, exp in file.variants.items():
        fields = serialization.to_json(exp).items()
        values |= {f"{name} {field}".strip(): value for field, value in fields}
    values["code"] = hashlib.sha256(file.path.read_bytes()).hexdigest()[:8]
    process_group.check_same(
        "experiment file", values, "give all processes the same file and overrides"
    )


def _seeds(text: str) -> Any:
    """The seeds of a command line: 3, "0,1,2" or "0..4", which includes its ends."""
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", text.strip()):
        return range(int(match[1]), int(match[2]) + 1)
    return config.literal(text)


def _checked_seeds(value: Any, variants: int) -> tuple[int, ...]:
    """Seeds as a tuple.

    Args:
      value: a number, or several in any form.
      variants: number of experiments that run with each.

    Raises:
      UserError: no seeds, or too many.
    """
    value = (value,) if isinstance(value, int) else value
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        seeds = limits.as_sequence(value, "SEEDS")
        limits.check_runs(len(seeds) * variants, "the file with all its SEEDS")
        if len(seeds) and all(_is_seed(seed) for seed in seeds):
            return tuple(int(seed) for seed in seeds)
    raise UserError(
        f"SEEDS={reprlib.repr(value)}: expected whole numbers below 2³², such as "
        "SEEDS=0,1,2."
    )


def _is_seed(value: Any) -> bool:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_whole and 0 <= value < 2**32


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles a file as it is, and leaves no __pycache__ beside it.

    Python's own loader takes stored byte code where the file's size and the second of
    its last change are those of the code: an edit of the same length within a second
    would run the old file.
    """

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def import_file(path: pathlib.Path, original: str = "") -> types.ModuleType:
    """Imports an experiment file under a name made of its own; errors name the line.

    Args:
      path: the file.
      original: name of the file that it is a copy of, which is taken in its place.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; expected an experiment file.")
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")]
        raise UserError(
            f"there is no experiment file {str(path)!r}"
            f"{nearest(path.name, siblings)}".rstrip(".")
            + "."
        )
    if path.suffix != ".py":
        raise UserError(
            f"{path} is no experiment file: expected a Python file, whose name ends in "
            ".py."
        )
    name = MODULE + pathlib.Path(original or path).stem
    loader = _SourceLoader(name, str(path.absolute()))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # the file exists
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], _digests[name] = module, files.digest(path)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name], _digests[name]
        raise _at_line(path, error) from error
    return module


def import_copy(path: pathlib.Path, original: str) -> None:
    """Imports a run's copy of an experiment file under the name of its original.

    The stored experiment names the classes that the file defines by that name. A module
    of the same contents stays, so that its classes do; one of other contents, an edited
    or another file of the same name, gives way.

    Args:
      path: the copy.
      original: name of the file that it is a copy of.
    """
    name = MODULE + pathlib.Path(original).stem
    digest = files.digest(path) if path.is_file() else None
    if digest is None or name not in sys.modules or _digests.get(name) != digest:
        import_file(path, original)


def _at_line(path: pathlib.Path, error: BaseException) -> UserError:
    """The error with the last line of the file that it went through."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        # Python makes the name absolute, and the user's may not be.
        if pathlib.Path(trace.tb_frame.f_code.co_filename) == path.absolute():
            line = trace.tb_lineno
        trace = trace.tb_next
    place = path if line is None else f"{path}, line {line}"
    if isinstance(error, SystemExit):
        return UserError(
            f"{place}: the file ends the program (sys.exit), but must define "
            "experiment(), which returns a tl.Experiment."
        )
    return UserError(f"{place}: {describe_call_error(error) or describe_error(error)}.")


def apply_overrides(
    variants: dict[str, Experiment], overrides: Sequence[str]
) -> dict[str, Experiment]:
    """Applies "path=value" overrides to the variants that have the path."""
    import jaxtl

    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise UserError(
                f"the override {override!r} has no '='; expected path=value, such as "
                "optim.lr=0.01."
            )
        path, selected = path.strip(), variants
        for name in sorted(variants, key=len, reverse=True):
            if name and path.startswith(name + "."):
                path, selected = path[len(name) + 1 :], {name: variants[name]}
                break
        changed, errors = {}, []
        for name, value in selected.items():
            try:
                changed[name] = config.override(
                    value, path, text.strip(), names={"tl": jaxtl}
                )
            except config.UnknownPath as error:
                errors.append(error)
        if not changed:
            raise errors[0]
        variants = {**variants, **changed}
    return variants
