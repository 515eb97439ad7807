"""Files and folders are whole or absent, at whatever moment the process is killed."""

import os
import pathlib
import re
import subprocess

import pytest
from moments import moments_of

from jaxtl.core import atomic, processes


def ended_process():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def another(monkeypatch):
    """Lets what was written look like a process that has ended, as after a kill."""
    number = ended_process()
    monkeypatch.setattr(os, "getpid", lambda: number)


def visible(folder):
    """Path -> content of the files that are no drafts."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(atomic.is_draft(part) for part in path.relative_to(folder).parts)
    }


def test_a_file_is_the_old_or_the_new_one_at_every_moment(tmp_path, another):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("old")
    with moments_of(folder) as moments:
        atomic.write_text(folder / "notes.txt", "new" * 1000)
    contents = [visible(moment) for moment in moments]
    assert {len(content) for content in contents} == {1}
    assert {content["notes.txt"] for content in contents} == {"old", "new" * 1000}
    assert len(contents) >= 3
    for moment in moments:
        atomic.write_text(moment / "other.txt", "x")
        assert len(list(moment.iterdir())) == 2, "no draft stays"


def test_a_folder_is_the_old_or_the_new_one_after_every_moment(tmp_path, another):
    folder = tmp_path / "folder"
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "a").write_text("old")
    with moments_of(folder) as moments, atomic.folder(folder / "out") as draft:
        (draft / "a").write_text("new")
        (draft / "b").write_text("new")
    old, new = {"out/a": "old"}, {"out/a": "new", "out/b": "new"}
    seen = []
    for moment in moments:
        atomic.write_text(moment / "other.txt", "x")
        content = visible(moment)
        assert content.pop("other.txt") == "x"
        assert {p.name for p in moment.iterdir()} == {"out", "other.txt"}
        seen.append(content)
    assert old in seen
    assert new in seen
    assert all(content in (old, new) for content in seen)


def fill(context, *names):
    """Writes into a draft, and fails after the first file."""
    with context as draft:
        for name in names:
            (draft / name if name else draft).write_text("half")
        raise OSError("full")


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"):
        fill(atomic.file(path), "")
    with pytest.raises(OSError, match="full"):
        fill(atomic.folder(tmp_path / "b"), "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_a_folder_that_is_not_to_be_replaced_is_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("theirs")
    with pytest.raises(OSError), atomic.folder(tmp_path / "a", replace=False) as draft:
        (draft / "x").write_text("mine")
    assert visible(tmp_path) == {"a/x": "theirs"}
    assert len(list(tmp_path.iterdir())) == 1


def test_drafts_of_processes_that_run_are_left_alone(tmp_path, monkeypatch):
    with atomic.file(tmp_path / "a") as draft:
        draft.write_text("x")
        running = os.getppid()
        monkeypatch.setattr(os, "getpid", lambda: running)
        atomic.write_text(tmp_path / "b", "y")
        assert draft.exists()
    assert visible(tmp_path) == {"a": "x", "b": "y"}


def test_drafts_of_other_machines_are_left_alone(tmp_path, another):
    foreign = tmp_path / f".part-00000000-{os.getpid()}-a"
    foreign.write_text("x")
    atomic.write_text(tmp_path / "b", "y")
    assert foreign.exists()


def test_whether_a_process_runs():
    assert processes.is_running(os.getpid())
    assert processes.is_running(1), "another user's"
    assert not processes.is_running(ended_process())


# Calls that write a file where it will be read.
WRITES = re.compile(
    r"\.write_(text|bytes)\(|\bopen\(.*[\"'](w|a|x|r\+)[bt+]*[\"']|np\.save|savefig\("
    r"|save_file\(|copyfile\(|copytree\(|\.to_csv\(|\.save_pretrained\(|\.dump\("
)
# Module -> how many calls of it need no draft of their own.
EXCEPTIONS = {
    "evaluation/feature_cache_disk.py": 2,  # files of a draft of a folder
    "export/write_bundle.py": 5,  # the same
    "training/metrics_log.py": 1,  # read line by line; a half line is no line
    "training/run_dir.py": 1,  # the lock
    "core/trust.py": 1,  # a key, linked to its name when it is whole
    "cli/main.py": 1,  # os.devnull
    "cli/supervisor.py": 1,  # what a process prints while it runs
}


def test_the_package_writes_files_through_drafts_only():
    package = pathlib.Path(atomic.__file__).parents[1]
    calls = {}
    for path in package.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for i, line in enumerate(lines):
            following = line + (lines[i + 1] if line.endswith("(") else "")
            if WRITES.search(line) and not re.search(r"\bdraft\b|atomic\.", following):
                calls.setdefault(str(path.relative_to(package)), []).append(
                    line.strip()
                )
    counts = {name: len(texts) for name, texts in calls.items()}
    assert counts == EXCEPTIONS, f"write these by jaxtl.core.atomic: {calls}"
