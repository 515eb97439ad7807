"""Damage to any file that a run, a sweep or an export wrote: a sentence or a result.

Whatever is damaged, no command leaves with a traceback or with the exit code of a fault
of the program. `.ci/slow` tries 500 cases, with a seed that FUZZ_SEED changes.
"""

import os
import pathlib
import random
import shutil

import numpy as np
import pytest

from jaxtl.cli import main

EXPERIMENT = '''
"""Single."""
import jaxtl as tl

SWEEP = {"optim.lr": [1e-3, 1e-2]}


def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.Digits(labels_per_class=5),
        steps=3,
        batch=8,
    )
'''
STUDY = EXPERIMENT.replace("    return tl", "    exp = tl").replace(
    "SWEEP", "SEEDS = (0, 1)\nSWEEP"
) + ('    return {"a": exp, "b": exp}\n')

# Each command, and the directory whose files are damaged before it runs.
COMMANDS = (
    ("run", "show run"),
    ("run", "eval run"),
    ("run", "resume run"),
    ("run", "export run out"),
    ("run", "compare run"),
    ("run", "labels run"),
    ("run", "wise run"),
    ("run", "soup run run"),
    ("run", "inspect run"),
    ("run", "convert run out.safetensors"),
    ("run", "importance run"),
    ("run", "diagnose run"),
    ("run", "run one.py --out run --overwrite"),
    ("run", 'run one.py init=tl.pretrained.FromRun("run") --out new'),
    ("study", "compare study"),
    ("study", "ensemble study"),
    ("study", "show study"),
    ("study", "resume study"),
    ("sweep", "report sweep"),
    ("sweep", "sweep one.py --out sweep"),
    ("sweep", "watch sweep"),
    ("bundle", "predict bundle x.npy"),
    ("bundle", "inspect bundle"),
)
JSON = ("{}", "[]", "null", "3", '{"a": 1}', '"x"')


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A folder with a run, a study, a sweep and an export."""
    folder = tmp_path_factory.mktemp("intact")
    (folder / "one.py").write_text(EXPERIMENT)
    (folder / "many.py").write_text(STUDY)
    np.save(folder / "x.npy", np.zeros((2, 64), np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main(["run", "one.py", "--out", "run"]) == 0
        assert main.main(["run", "many.py", "--out", "study"]) == 0
        assert main.main(["sweep", "one.py", "--out", "sweep"]) == 0
        assert main.main(["export", "run", "bundle"]) == 0
    return folder


def _damage(rng: random.Random, folder: pathlib.Path) -> str:
    """Damages one file below a folder; returns what was done to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Arrays of checkpoints are many, and all are read by one library.
    weights = [1 if "ocdbt" in str(path) else 12 for path in files]
    [path] = rng.choices(files, weights)
    kinds = ("truncate", "flip", "delete", "empty", "directory", "json", "noise")
    kind, content = rng.choice(kinds), bytearray(path.read_bytes())
    if kind == "truncate":
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif kind == "flip" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "json":
        path.write_text(rng.choice(JSON))
    elif kind == "noise":
        path.write_bytes(rng.randbytes(50))
    else:
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind in ("empty", "flip"):
            path.touch()
    return f"{path.relative_to(folder)}: {kind}"


def _try(seed, intact, tmp_path, monkeypatch, capsys):
    rng = random.Random(seed)
    work = tmp_path / str(seed)
    shutil.copytree(intact, work)
    target, command = rng.choice(COMMANDS)
    damage = [_damage(rng, work / target) for _ in range(rng.choice((1, 1, 2)))]
    monkeypatch.chdir(work)
    capsys.readouterr()
    code = main.main(command.split(" "))
    error = capsys.readouterr().err
    case = f"seed {seed}: jaxtl {command} after {damage}: {code} {error}"
    assert code in (0, 1), case
    assert "Traceback" not in error, case
    assert (code == 0) or error.strip(), case
    shutil.rmtree(work)


CASES, SLOW_CASES = 40, 500
REGRESSIONS = (10465, 20272)  # seeds of faults that were mended


@pytest.mark.parametrize("part", range(4))
def test_damage_is_told_in_a_sentence(part, intact, tmp_path, monkeypatch, capsys):
    for seed in (*REGRESSIONS, *range(CASES))[part::4]:
        _try(seed, intact, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_five_hundred_damages_are_told(intact, tmp_path, monkeypatch, capsys):
    first = 10_000 * int(os.environ.get("FUZZ_SEED", "1"))
    for seed in range(first, first + SLOW_CASES):
        _try(seed, intact, tmp_path, monkeypatch, capsys)
