"""Reads experiment files and applies overrides of the command line."""

import dataclasses
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.core import config, files
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
    """

    path: pathlib.Path
    variants: dict[str, Experiment]
    seeds: tuple[int, ...] | None
    overrides: tuple[str, ...]
    doc: str
    original: str = ""

    def run_name(self, variant: str) -> str:
        """Name of a variant's runs in tables; a single experiment has the file's."""
        return variant or pathlib.Path(self.original or self.path).stem


def load(path: str | pathlib.Path, *overrides: str) -> Any:
    """Loads an experiment file: an Experiment, or a dict of variants.

    Args:
      path: the file.
      overrides: "optim.lr=0.01"; a first part that is a variant's name limits the
        override to it, otherwise it applies to every variant that has the path.

    Raises:
      UserError: for a missing or broken file, and for an unknown path or wrong value.
    """
    variants = read_file(path, *overrides).variants
    return variants[""] if list(variants) == [""] else variants


def read_file(path: str | pathlib.Path, *overrides: str) -> File:
    """Reads an experiment file; an override `SEEDS=0,1,2` replaces its seeds."""
    path = pathlib.Path(path)
    module = import_file(path)
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
    seeds = None if seeds is None else tuple(int(s) for s in seeds)
    return File(path, variants, seeds, tuple(overrides), doc)


def _seeds(text: str) -> tuple[int, ...]:
    value = config.literal(text)
    value = (value,) if isinstance(value, int) else value
    if not isinstance(value, tuple | list) or not all(
        isinstance(s, int) and s >= 0 for s in value
    ):
        raise UserError(f"SEEDS={text!r}: expected whole numbers such as SEEDS=0,1,2.")
    return tuple(value)


def import_file(path: pathlib.Path):
    """Imports an experiment file under a name made of its own; errors name the line."""
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")]
        raise UserError(
            f"there is no experiment file {str(path)!r}"
            f"{nearest(path.name, siblings)}".rstrip(".")
            + "."
        )
    name = MODULE + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
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
        sys.modules[name], _digests[name] = import_file(path), files.digest(path)


def _at_line(path: pathlib.Path, error: BaseException) -> UserError:
    """The error with the last line of the file that it went through."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        # Python makes the name absolute, and the user's may not be.
        if pathlib.Path(trace.tb_frame.f_code.co_filename) == path.absolute():
            line = trace.tb_lineno
        trace = trace.tb_next
    place = path if line is None else f"{path}, line {line}"
    return UserError(f"{place}: {describe_error(error)}.")


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
