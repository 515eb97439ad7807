"""What the fuzz test draws: command lines, damage and settings; and its guard of files.

Command lines are drawn from the parser, so that a new command, argument or option is
drawn without a change here.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtl.cli import main
from jaxtl.core import config, output_paths

# What the folder of the test holds, by what an argument of that name takes.
RUNS = ("run", "stopped", "tuned")
PLACES = (*RUNS, "study", "sweep", "bundle", "weights.safetensors", "one.py")
NATURAL = {
    "file": ("one.py", "many.py"),
    "dir": RUNS,
    "run": RUNS,
    "dirs": ("run", "tuned", "study", "sweep"),
    "folder": ("bundle", "run"),
    "files": ("x.npy",),
    "path": ("run", "bundle", "weights.safetensors"),
    "source": ("run", "tuned", "weights.safetensors"),
    "target": RUNS,
}
DIRECTORIES = (*RUNS, "study", "sweep", "bundle")
OUTPUTS = ("new", "new.png", "new.safetensors", "missing/x.png", "run", "one.py/x")
# Numbers of more work than a test has time for are left to `test_huge_numbers`.
NUMBERS = ("0", "1", "2", "-1", "0.5", "nan", "inf", "-inf", "1e400", "x", "", "½")
TEXTS = (
    "x",
    "",
    "ü",
    "../x",
    "a b",
    "all",
    "best",
    "\x00",
    "-1",
    "accuracy",
    "x" * 300,
)
# Options where a default asks for much work; those that are drawn follow them.
FEW = {"fewshot": ("--episodes", "2", "--val-episodes", "2")}
# Options that start other processes or wait for a network.
UNDRAWN = {
    *("--help", "--slurm", "--slurm-arg", "--slurm-local", "--fast", "--device"),
    "--workers",
}
DEAR = (
    "diagnose",
    "report",
    "probe",
    "models",
)  # of a second and more, drawn less often
DAMAGES = (
    *("truncate", "flip", "delete", "empty", "directory", "json", "noise"),
    *("loop", "dangling"),
)
JSON = ("{}", "[]", "null", "3", '{"a": 1}', '"x"', '{"experiment": []}', "NaN")


class Damage(NamedTuple):
    """Damage to a file: in which directory, the how manyth, what is done, where."""

    directory: str
    number: int
    kind: str
    position: int


def subparsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    [action] = main._parser()._subparsers._group_actions
    return action.choices


class Case:
    """A case, whose draws depend on its own name alone.

    Each option of a choice gets a number by the case, the choice and the option's own
    text, and the largest wins: an option that is added or removed elsewhere in the list
    changes no other case's draw, but where it wins or has won itself.
    """

    def __init__(self, *name: object) -> None:
        self.name = " ".join(map(str, name))

    def number(self, choice: str) -> int:
        """A number of 64 bits."""
        text = f"{self.name}\n{choice}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())

    def below(self, choice: str, limit: int) -> int:
        """A whole number from 0 on below a limit."""
        return self.number(choice) % limit

    def pick(self, choice: str, options: Sequence[Any]) -> Any:
        """One of some options; one that is listed twice is as likely as two."""
        counts: collections.Counter = collections.Counter()
        best, chosen = -1, None
        for option in options:
            counts[option] += 1
            number = self.number(f"{choice}\n{option}\n{counts[option]}")
            if number > best:
                best, chosen = number, option
        return chosen


def cases(seed: int, count: int) -> list[tuple[str, Case]]:
    """(command, case) of about `count` cases, each command's in turn."""
    weights = {name: 1 if name in DEAR else 4 for name in subparsers()}
    unit = count / sum(weights.values())
    return [
        (name, Case(seed, name, number))
        for name, weight in weights.items()
        for number in range(round(unit * weight))
    ]


def _value(case: Case, action: argparse.Action, place: str = "") -> str:
    """A value of an argument: what it takes, or what it doesn't."""
    if isinstance(action.type, type) and issubclass(
        action.type, output_paths.OutputPath
    ):
        options = OUTPUTS[:3] * 2 + OUTPUTS
    elif action.choices is not None:
        options = (*action.choices, "x")
    elif action.type is pathlib.Path and not action.option_strings:
        natural = NATURAL.get(action.dest, PLACES)
        options = natural * 4 + PLACES + ("nowhere", "\x00")
    else:
        options = NUMBERS if action.type in (int, float) else TEXTS
    return case.pick(f"value of {action.dest}{place}", options)


def command_line(case: Case, command: str) -> list[str]:
    """Words of a command line: the arguments of a command, and at most two options."""
    actions = subparsers()[command]._actions
    words = [command, *FEW.get(command, ())]
    for action in actions:
        if not action.option_strings and action.nargs != "*":
            count = 1
            if action.nargs == "+":
                count += case.below(f"count of {action.dest}", 2)
            words += [_value(case, action, f" {i}") for i in range(count)]
    options = {a.option_strings[0]: a for a in actions if a.option_strings}
    options = {n: a for n, a in options.items() if not set(a.option_strings) & UNDRAWN}
    if options and case.below("has options", 3) == 0:
        for i in range(1 + case.below("count of options", 2)):
            name = case.pick(f"option {i}", list(options))
            action = options[name]
            words += [name] if action.nargs == 0 else [name, _value(case, action)]
    return words


def damages(case: Case, words: list[str]) -> list[Damage]:
    """One or two damages to what a command line names, or elsewhere."""
    directories = [word for word in words if word in DIRECTORIES] or DIRECTORIES
    return [
        Damage(
            case.pick(f"directory {i}", directories),
            i,
            case.pick(f"kind {i}", DAMAGES),
            case.below(f"position {i}", 100_000),
        )
        for i in range(case.pick("count of damages", (1, 1, 2)))
    ]


def apply(case: Case, damage: Damage, folder: pathlib.Path) -> str:
    """Damages a file below a folder; returns what was done to it."""
    directory = folder / damage.directory
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    # Arrays of checkpoints are many, all are read by one library, and their names are
    # of chance.
    arrays = [path for path in files if "ocdbt" in str(path)]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    names = {name: path for name, path in names.items() if path not in arrays}
    numbered = {f"array {i}": path for i, path in enumerate(arrays)}
    if not files:
        return f"nothing in {damage.directory}"
    pool = [*names] * 12 + [*numbered]
    path = {**names, **numbered}[case.pick(f"file {damage.number}", pool)]
    damage_file(path, damage.kind, damage.position)
    return f"{damage.kind} of {path.relative_to(folder)} ({damage.position})"


def damage_file(path: pathlib.Path, kind: str, position: int = 0) -> None:
    """Damages a file; `position` says where, or which of several contents it gets."""
    content = bytearray(path.read_bytes())
    if kind == "truncate":
        path.write_bytes(content[: position % (len(content) + 1)])
    elif kind == "flip" and content:
        content[position % len(content)] ^= 1 << position % 8
        path.write_bytes(content)
    elif kind == "json":
        path.write_text(JSON[position % len(JSON)])
    elif kind == "noise":
        path.write_bytes(position.to_bytes(4) * 13)
    else:
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind in ("empty", "flip"):
            path.touch()
        elif kind in ("loop", "dangling"):
            path.symlink_to(path.name if kind == "loop" else "nowhere")


class Guard:
    """Knows each entry below a folder, tells what changed, and undoes it.

    Args:
      folder: the folder.
      before: a guard of the same folder, whose contents are not read again where
        nothing has changed since.

    Attributes:
      folder: the folder.
      outputs: command line -> what it prints where nothing is damaged.
    """

    def __init__(self, folder: pathlib.Path, before: "Guard | None" = None):
        self.folder = folder
        self.outputs: dict[tuple[str, ...], str] = {}
        self._stamps = self._scan()
        self._contents = {
            name: before._contents[name]
            if before is not None and before._stamps.get(name) == stamp
            else self._content(name)
            for name, stamp in self._stamps.items()
        }

    def _scan(self) -> dict[str, tuple]:
        """{relative path: what a change of the entry changes} of all entries."""
        stamps, folders = {}, [self.folder]
        while folders:
            for entry in os.scandir(folders.pop()):
                name = os.path.relpath(entry.path, self.folder)
                is_folder = entry.is_dir(follow_symlinks=False)
                stat = entry.stat(follow_symlinks=False)
                change = () if is_folder else (stat.st_mtime_ns, stat.st_size)
                stamps[name] = (is_folder, stat.st_ino, *change)
                folders += [entry.path] if is_folder else []
        return stamps

    def _content(self, name: str) -> bytes | None:
        """A file's bytes or a link's target; None for a folder."""
        path = self.folder / name
        if path.is_symlink():
            return os.fsencode(os.readlink(path))
        return None if path.is_dir() else path.read_bytes()

    def changed(self) -> dict[str, str]:
        """{entry: "new", "lost" or "changed"} since the guard was made."""
        now, changes = self._scan(), {}
        for name in {**self._stamps, **now}:
            if name not in self._stamps:
                changes[name] = "new"
            elif name not in now:
                changes[name] = "lost"
            elif now[name] != self._stamps[name] and (
                self._content(name) != self._contents[name]
            ):
                changes[name] = "changed"
        return changes

    def restore(self) -> None:
        """Brings all entries back to what they were."""
        for name, kind in sorted(self.changed().items()):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if kind == "new":
                continue
            if self._contents[name] is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._contents[name])
        for name, content in self._contents.items():  # below what was a lost folder
            path = self.folder / name
            if not os.path.lexists(path):
                path.mkdir(parents=True) if content is None else path.write_bytes(
                    content
                )
        self._stamps = self._scan()


def setting_paths(value, prefix: str = "") -> list[str]:
    """The dotted paths of all fields of a configuration, nested ones included."""
    if isinstance(value, dict):
        entries = value
    elif config.is_config(value):
        entries = {name: getattr(value, name) for name in config.fields(value)}
    else:
        return []
    paths = []
    for name, entry in entries.items():
        paths += [f"{prefix}{name}", *setting_paths(entry, f"{prefix}{name}.")]
    return paths


VALUES = (
    *(
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "0.5",
        "1e400",
        "9" * 30,
        "3" * 12,
        "3" * 500,
        "1e38",
        "-0.0",
    ),
    *("''", "x", "ü", "None", "True", "[]", "{}", "()", "(1, 2)", "{'a': 1}", "[[["),
    *("lambda: 0", "1/0", "'a' * 3", "tl.losses.CrossEntropy()", "tl.nothing"),
    *("__import__('os')", "\x00", " ", "=", "1_0", "0x10", "1j", "b'x'", "..."),
    *("tl.data.Digits()", "tl.models.MLP()", "tl.optim", "tl.FROZEN", "x" * 500),
)


def setting(case: Case, paths: list[str]) -> tuple[str, bool]:
    """An override "path=value", and whether its path is misspelled."""
    path = case.pick("path", paths)
    if case.below("is misspelled", 5) == 0:
        at = case.below("place of the letter", len(path))
        letter = case.pick("letter", ("", "q", "é", "..", "-"))
        path = path[:at] + letter + path[at + (letter != "q") :]
    return f"{path}={case.pick('value', VALUES)}", path not in paths
