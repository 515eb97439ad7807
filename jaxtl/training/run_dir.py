"""A run's directory: everything about one run, and nobody else's while it is written.

experiment.json   the resolved experiment        experiment.py  a copy of its file
splits.npz        the rows of every split        loaded.json    what was loaded
metrics.jsonl     one line per logged step       checkpoints/   see checkpoint.py
result.json       final metrics and costs        lock           held while running
"""

import fcntl
import json
import os
import pathlib
import shutil
from typing import Any

from jaxtl.core import serialization
from jaxtl.core.errors import RunLocked, UserError
from jaxtl.training import experiment_file

MARK = "experiment.json"
STUDY = "study.json"  # of a directory that holds the runs of one file


def refuse(path: pathlib.Path) -> None:
    """Raises UserError if the directory exists and holds anything."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; a run needs a directory.")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(
            f"{path} exists already and is never overwritten by accident: choose "
            f"another --out, continue it with `jaxtl resume {path}`, or pass "
            "--overwrite."
        )


def check_single_run(path: pathlib.Path) -> None:
    """Raises UserError, with their names, for a directory that holds several runs."""
    if not (path / MARK).exists() and (path / STUDY).exists():
        runs = sorted(str(p.parent.relative_to(path)) for p in path.rglob(MARK))
        raise UserError(f"{path} holds several runs; name one of {', '.join(runs)}.")


def create(path: pathlib.Path, *, overwrite: bool) -> None:
    """Makes a run directory, empty.

    Raises:
      UserError: if it holds anything, unless `overwrite` is given and it is the
        directory of a run (or of several) that no process is using.
    """
    if not overwrite:
        refuse(path)
    elif path.is_dir() and any(path.iterdir()):
        if not (path / MARK).exists() and not (path / STUDY).exists():
            raise UserError(
                f"{path} holds files but no {MARK}, so it is no run directory and "
                "--overwrite does not touch it."
            )
        with lock(path):
            for child in path.iterdir():
                if child.name != "lock":
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
    path.mkdir(parents=True, exist_ok=True)


class lock:
    """Holds a run's directory: a second process that wants it is told so.

    The operating system releases it when the process ends, however it ends.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path / "lock"

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


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=True) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; UserError where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"there is no {path.name} in {path.parent}: it is no directory of a "
            "(finished) run."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None


def write_experiment(
    path: pathlib.Path,
    exp: Any,
    *,
    file: Any = None,
    overrides: Any = (),
    variant: str = "",
):
    """Stores the resolved experiment and a copy of the file that it came from."""
    if file is not None:
        shutil.copyfile(file, path / "experiment.py")
    write_json(
        path / MARK,
        {
            "experiment": serialization.to_json(exp),
            "file": None if file is None else pathlib.Path(file).name,
            "overrides": list(overrides),
            "variant": variant,
        },
    )


def read_experiment(path: pathlib.Path):
    """Rebuilds the experiment of a run directory."""
    stored = read_json(path / MARK)
    try:
        file, pictured = stored["file"], stored["experiment"]
    except (KeyError, TypeError):
        raise UserError(f"{path / MARK} is damaged: it holds no experiment.") from None
    if file is not None:
        experiment_file.import_copy(path / "experiment.py", file)
    return serialization.from_json(pictured)


def same_experiment(path: pathlib.Path, exp: Any) -> None:
    """Raises UserError where an experiment is not the one that a directory stores."""
    stored = read_json(path / MARK).get("experiment", {})
    current = json.loads(json.dumps(serialization.to_json(exp)))
    changed = [k for k in current if current[k] != stored.get(k)]
    if changed:
        raise UserError(
            f"{path} was begun with another experiment: {', '.join(changed)} differ; "
            "set a new run up instead (init=tl.pretrained.FromRun takes its weights)."
        )
