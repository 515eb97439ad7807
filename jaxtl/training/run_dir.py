"""A run's directory: everything about one run, and nobody else's while it is written.

experiment.json   the resolved experiment        experiment.py  a copy of its file
splits.npz        the rows of every split        data.json      what was read
splits-NAME.npz   those of a stream              loaded.json    what was loaded
source.json       digests of θ₀
metrics.jsonl     one line per logged step       checkpoints/   see checkpoint.py
result.json       final metrics and costs        lock           held while running
"""

import contextlib
import fcntl
import fnmatch
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtl.core import (
    atomic,
    output_paths,
    process_group,
    processes,
    serialization,
    trust,
)
from jaxtl.core.errors import RunLocked, UserError
from jaxtl.data.tokenizer import TOKENIZER
from jaxtl.training import experiment_file
from jaxtl.training.experiment import PLACEMENT, Experiment

MARK = "experiment.json"
DATA = "data.json"  # {stream: lines of `data.description`}
CODE = "experiment.py"  # copy of the experiment file
LOCK = "lock"
STUDY = "study.json"  # of a directory that holds the runs of one file
FAILURES = "failures.json"  # of a study's runs that failed, until they are run again
SWEEP = "sweep.sqlite"  # of a sweep's directory
LOADED = "loaded.json"
SOURCE = "source.json"
_REPLACED = ".replaced"  # the mark of a directory that is being emptied
# What a run writes before its mark.
_BEFORE_MARK = (LOCK, CODE, DATA, LOADED, SOURCE, TOKENIZER, "splits*.npz")


def refuse(path: pathlib.Path) -> None:
    """Raises UserError if a directory can't be made or holds anything.

    What a run leaves that was killed before it began counts as nothing.
    """
    output_paths.check_folder(path)
    if path.is_dir() and any(path.iterdir()) and not is_unstarted(path):
        raise UserError(
            f"{path} exists already and is never overwritten by accident: choose "
            f"another --out, continue it with `jaxtl resume {path}`, or pass "
            "--overwrite."
        )


def check_replaceable(path: pathlib.Path) -> None:
    """Raises UserError for a directory that is not a run's, or is in use."""
    output_paths.check_folder(path)
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not ((path / MARK).exists() or (path / STUDY).exists() or is_unstarted(path)):
        raise UserError(
            f"{path} holds files but no {MARK}, so it is no run directory and "
            "--overwrite does not touch it."
        )
    check_unlocked(path)


def is_unstarted(path: pathlib.Path) -> bool:
    """Whether a directory holds what a kill leaves before its mark is written.

    That is what a run writes before, or what was not yet removed of another.
    """
    names = {p.name for p in path.iterdir() if not atomic.is_draft(p.name)}
    if _REPLACED in names:
        return True
    is_begun = all(any(fnmatch.fnmatch(n, p) for p in _BEFORE_MARK) for n in names)
    return LOCK in names and is_begun


def create(path: pathlib.Path, *, overwrite: bool) -> None:
    """Makes a run directory that is empty but for its lock file.

    Raises:
      UserError: if it holds anything, unless `overwrite` is given and it is the
        directory of a run (or of several) that no process is using.
    """
    if overwrite:
        check_replaceable(path)
    else:
        refuse(path)
    path.mkdir(parents=True, exist_ok=True)
    with lock(path):
        empty(path, (MARK, STUDY))


def empty(path: pathlib.Path, marks: Sequence[str]) -> None:
    """Removes all that a directory holds but its lock.

    The first step renames its mark, so that a kill leaves no half directory of a run
    but one that counts as not begun.

    Args:
      path: the directory.
      marks: names of the files by which it is told what the directory is.
    """
    for mark in marks:
        if (path / mark).exists():
            os.replace(path / mark, path / _REPLACED)
    children = [child for child in path.iterdir() if child.name != LOCK]
    for child in sorted(children, key=lambda child: child.name == _REPLACED):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


class lock:
    """Holds a run's directory: a second process that wants it is told so.

    The operating system releases it when the process ends, however it ends.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path / LOCK

    def __enter__(self):
        self.file = open(self.path, "a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.seek(0)
            owner = self.file.read().strip() or "unknown"
            self.file.close()
            raise RunLocked(
                f"{self.path.parent} is in use by another process (pid {owner}); wait "
                "for it, or give this run another directory."
            ) from None
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()
        return self

    def __exit__(self, *_):
        self.file.truncate(0)
        fcntl.flock(self.file, fcntl.LOCK_UN)
        self.file.close()


@contextlib.contextmanager
def lock_for_job(path: pathlib.Path) -> Iterator[None]:
    """Holds a run's directory for all processes of a job, by process 0."""
    with contextlib.ExitStack() as stack:
        process_group.on_first(lambda: stack.enter_context(lock(path)))
        yield


def check_unlocked(path: pathlib.Path) -> None:
    """Raises RunLocked for a directory that another process is training in."""
    if (path / LOCK).exists():
        with lock(path):
            pass


def is_running(path: pathlib.Path) -> bool:
    """Whether the process that locked a run's directory lives, on this machine."""
    file = path / LOCK
    owner = file.read_bytes().strip() if file.exists() else b""
    return owner.isdigit() and processes.is_running(int(owner))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    atomic.write_text(path, json.dumps(value, indent=1, allow_nan=True) + "\n")


def read_json(path: pathlib.Path, kind: type = dict) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      kind: of the value that it must hold, dict or list.

    Raises:
      UserError: a file that is missing, damaged, or holds a value of another kind.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        marks = (MARK, STUDY)
        if path.name in marks and path.parent.is_dir() and is_unstarted(path.parent):
            raise UserError(
                f"the run in {path.parent} was stopped before it began; start it "
                f"again with `jaxtl run FILE --out {path.parent}`."
            ) from None
        raise UserError(
            f"there is no {path.name} in {path.parent}: it is no directory of a "
            "(finished) run."
        ) from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list"
        raise UserError(
            f"{path} is damaged: it holds {json.dumps(value)[:40]}, expected "
            f"{expected}."
        )
    return value


def write_experiment(
    path: pathlib.Path,
    exp: Experiment,
    *,
    file: pathlib.Path | None = None,
    file_name: str = "",
    overrides: Sequence[str] = (),
    variant: str = "",
) -> None:
    """Stores the resolved experiment and a copy of the file that it came from.

    Arguments as of `setup`.
    """
    code = None if file is None else file.read_bytes()
    if code is not None:
        atomic.write_bytes(path / CODE, code)
    stored = {
        "experiment": serialization.to_json(exp),
        "file": None if file is None else file_name or file.name,
        "overrides": list(overrides),
        "variant": variant,
    }
    write_json(path / MARK, signed(stored, code))


def signed(stored: dict[str, Any], code: bytes | None) -> dict[str, Any]:
    """Adds the signature of stored JSON values and of the file beside them."""
    return {**stored, "signature": trust.sign(_signed_content(stored, code))}


def may_run_code(path: pathlib.Path, stored: Mapping[str, Any]) -> bool:
    """Whether the code in a directory may run (see `jaxtl.core.trust`).

    Args:
      path: the directory of a run or of a study.
      stored: what `signed` returned when it was made, as read from its JSON file.
    """
    code = (path / CODE).read_bytes() if (path / CODE).exists() else None
    content = {k: v for k, v in stored.items() if k != "signature"}
    return trust.is_trusted(_signed_content(content, code), stored.get("signature"))


def _signed_content(stored: Mapping[str, Any], code: bytes | None) -> bytes:
    text = json.dumps(stored, sort_keys=True, default=str)
    return text.encode() + b"\0" + (code or b"")


def read_without_lost_metrics(
    path: pathlib.Path,
) -> tuple[Experiment, dict[str, UserError]]:
    """Rebuilds an experiment as `read_experiment`, to evaluate its model alone.

    Returns:
      The experiment, and name -> error of the metrics that it lacks as they can't be
      rebuilt here: functions of a notebook, say.

    Raises:
      UserError: the remaining experiment can't be rebuilt.
    """
    stored, lost = read_mark(path), {}
    values = dict(stored["experiment"])
    items = (values.get("metrics") or {}).get("items", [])
    remaining = []
    for name, value in items:
        try:
            rebuild(path, stored, stored["file"], value)
            remaining.append([name, value])
        except UserError as error:
            lost[name] = error
    if lost:
        values["metrics"] = {"type": "map", "items": remaining}
    return rebuild(path, stored, stored["file"], values), lost


def read_experiment(path: pathlib.Path) -> Experiment:
    """Rebuilds the experiment of a run directory from its JSON.

    The copy of the experiment file is imported only where the experiment uses a class
    or a function that the file defines, and where `may_run_code` allows it.

    Raises:
      UserError: no experiment, a damaged one, or one that needs foreign code.
    """
    stored = read_mark(path)
    return rebuild(path, stored, stored["file"], stored["experiment"])


def read_study(path: pathlib.Path) -> dict[str, Any]:
    """The content of a study's file, {} for a folder that holds none."""
    file = path / STUDY
    return read_json(file) if file.exists() else {}


def read_mark(path: pathlib.Path) -> dict[str, Any]:
    """Reads what `write_experiment` stored; the experiment stays JSON values.

    Raises:
      UserError: no such file, or a damaged one.
    """
    stored = read_json(path / MARK)
    values, file = stored.get("experiment"), stored.get("file", 0)
    if not isinstance(values, dict) or not isinstance(file, str | None):
        raise UserError(f"{path / MARK} is damaged: it holds no experiment.")
    return stored


def rebuild(
    path: pathlib.Path, stored: Mapping[str, Any], file: str | None, values: Any
) -> Any:
    """Rebuilds a configuration that a directory stores as JSON values.

    Args:
      path: the directory.
      stored: all that its JSON file holds, with the signature.
      file: name that its experiment file had; None if there was none.
      values: the JSON values of the configuration.

    Raises:
      UserError: values that can't be rebuilt, or not without running foreign code.
    """
    modules = serialization.foreign_modules(values)
    if modules and not may_run_code(path, stored):
        names = ", ".join(sorted(_code_name(module) for module in modules))
        raise UserError(
            f"{path} was not made by this user on this machine, and reading it runs "
            f"the code of {names}; look at that code, then pass --trust (in Python: "
            "with tl.trust.allow())."
        )
    if file is not None and _module_name(file) in modules:
        experiment_file.import_copy(path / CODE, file)
    return serialization.from_json(values)


def _code_name(module: str) -> str:
    return CODE if module.startswith(experiment_file.MODULE) else f"module {module!r}"


def same_experiment(path: pathlib.Path, exp: Any) -> None:
    """Raises UserError where an experiment is not the one that a directory stores.

    The number of devices may be another one.
    """
    current = json.loads(json.dumps(serialization.to_json(exp)))
    stored, current = (
        serialization.identity(type(exp), content)
        for content in (read_mark(path)["experiment"], current)
    )
    changed = [
        name
        for name in {**current, **stored}
        if current.get(name) != stored.get(name) and name not in PLACEMENT
    ]
    if changed:
        raise UserError(
            f"{path} was begun with another experiment: {', '.join(changed)} differ; "
            "set a new run up instead (init=tl.pretrained.FromRun takes its weights)."
        )


def _module_name(file: str) -> str:
    return experiment_file.MODULE + pathlib.Path(file).stem
