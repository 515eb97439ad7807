"""Damaged files, odd arguments and odd settings: a sentence or a result, nothing lost.

Whatever is drawn, no command leaves with a traceback or with the exit code of a fault
of the program, and a command that fails has changed no file. A command may succeed on a
damaged file that it does not read, or whose damage does no harm: it changes nothing
but its own outputs either.

CI tries 500 cases. FUZZ_SEED draws others, FUZZ_CASES as many as it says. What a case
draws depends on its own name (seed, command and number) alone, so that what is added
elsewhere leaves it as it is.
"""

import os
import pathlib
import re
import shutil
import signal
import sys

import fuzzing
import numpy as np
import pytest
from fuzzing import Guard, damage_file, setting_paths

import jaxtl as tl
from jaxtl.cli import main

EXPERIMENT = '''
"""Single."""
import jaxtl as tl

SWEEP = {"optim.lr": [1e-3, 1e-2]}


def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.Digits(limit=200, labels_per_class=5, split_seed=0),
        steps=3,
        batch=8,
    )
'''
STUDY = EXPERIMENT.replace("SWEEP", "SEEDS = (0, 1)\nSWEEP")
TUNED = (
    "run one.py init=tl.pretrained.FromRun('run') wise_ft=(0.5,) "
    "streams={'source':tl.data.Digits(limit=200)} --out tuned"
)
RICH = EXPERIMENT.replace(
    "steps=3",
    """terms={
            "task": tl.losses.CrossEntropy(),
            "l2": tl.regularizers.L2SP(weight=0.1),
        },
        init=tl.pretrained.FromRun("run"),
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=1e-3), groups={".*": 1.0}),
        average=tl.optim.EMA(),
        steps=3""",
)
# A longer case is one that asks for endless work.
SECONDS = 30
SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = int(os.environ.get("FUZZ_CASES", "500"))


def _try_all(cases, attempt):
    """Calls a function with each case; fails with the sentences of all that fail."""
    failures = []
    for case in cases:
        try:
            attempt(*case)
        except AssertionError as error:
            failures.append(f"{case[-1].name}: {error}")
    assert not failures, "\n\n".join(failures)


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """The working directory: runs, a study, a sweep, an export, and their guard."""
    folder = tmp_path_factory.mktemp("intact")
    (folder / "one.py").write_text(EXPERIMENT)
    (folder / "many.py").write_text(STUDY)
    (folder / "rich.py").write_text(RICH)
    np.save(folder / "x.npy", np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")  # nothing that is drawn is pushed
        if "huggingface_hub.constants" in sys.modules:
            constants = sys.modules["huggingface_hub.constants"]
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for line in (
            "run one.py --out run",
            TUNED,
            "run many.py --out study",
            "sweep one.py --out sweep",
            "export run bundle",
        ):
            assert main.main(line.split(" ")) == 0, line
        shutil.copy("bundle/parameters.safetensors", "weights.safetensors")
        shutil.copytree("run", "stopped")
        pathlib.Path("stopped/result.json").unlink()
        yield Guard(folder)


def _attempt(words, capsys):
    """Exit code, standard output and error of a command; fails if it takes long."""

    def late(*_):
        pytest.fail(f"jaxtl {words} takes more than {SECONDS} s")

    capsys.readouterr()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        code = main.main(words)
    except SystemExit as exit_:
        code = exit_.code
    finally:
        signal.alarm(0)
    return code, *capsys.readouterr()


def _written(words):
    """What a command that succeeds may change: its outputs, what it goes on with."""
    changing = {"resume", "run", "sweep", "worker"}
    return words[1:] if words[0] in changing else words[2:]


def test_damage_and_odd_arguments_are_told(guard, capsys):
    _try_all(
        fuzzing.cases(SEED, CASES // 2),
        lambda command, case: _try_damage(command, case, guard, capsys),
    )


def _try_damage(command, case, guard, capsys):
    words = fuzzing.command_line(case, command)
    damages = fuzzing.damages(case, words)
    done = [fuzzing.apply(case, damage, guard.folder) for damage in damages]
    damaged = Guard(guard.folder, guard)
    try:
        code, out, error = _attempt(words, capsys)
        changes = damaged.changed()
    finally:
        guard.restore()
    text = f"jaxtl {words} after {done}: {code} {error} {changes}"
    _check(code, error, text)
    lost = [
        name
        for name, kind in changes.items()
        if kind != "new" and not name.endswith("/lock")
    ]
    if code:
        assert not lost, text
    allowed = tuple(filter(None, _written(words)))
    assert all(name.startswith(allowed) for name in lost), text
    # A run that lost its result counts as interrupted, and is named.
    if code == 0 and words[0] in READERS and "interrupted" not in out:
        others = set(_numbers(out)) - set(_numbers(_intact(words, guard, capsys)))
        assert not others, f"{text} {others}\n{out}"


@pytest.mark.parametrize(
    ("line", "file", "kind"),
    [
        ("diagnose run", "run/checkpoints/3/_CHECKPOINT_METADATA", "noise"),
        ("resume run", "run/checkpoints/3/_CHECKPOINT_METADATA", "dangling"),
        ("eval run", "run/checkpoints/3/_CHECKPOINT_METADATA", "delete"),
        ("report sweep", "sweep/sweep.sqlite", "empty"),
        ("compare sweep", "sweep/sweep.sqlite", "empty"),
        ("watch sweep", "sweep/sweep.sqlite", "empty"),
        ("resume study", "study/study.json", "json"),
        ("lr one.py --out new.safetensors", "one.py", "none"),
        ("show rich.py batch=999999999999999999999", "one.py", "none"),
        ("show rich.py data.size=333333333333", "one.py", "none"),
    ],
)
def test_faults_that_were_mended_are_told(line, file, kind, guard, capsys):
    if kind != "none":
        damage_file(guard.folder / file, kind)
    damaged = Guard(guard.folder, guard)
    try:
        code, _, error = _attempt(line.split(" "), capsys)
        assert damaged.changed() == {}, line
    finally:
        guard.restore()
    assert code == 1, line
    assert len(error.strip().splitlines()) == 1, line


# Commands whose numbers come from the runs' files alone. `inspect` lists what there is.
READERS = ("show", "eval", "compare", "predict", "report", "ensemble")


def _intact(words, guard, capsys):
    """What a command prints where nothing is damaged."""
    if tuple(words) not in guard.outputs:
        _, guard.outputs[tuple(words)], _ = _attempt(words, capsys)
        guard.restore()
    return guard.outputs[tuple(words)]


def _numbers(text):
    return re.findall(r"\d+(?:[.,]\d+)*", text)


def _check(code, error, text):
    """Asserts that a code is one of success, bad input or usage, and is explained."""
    assert code in (0, 1, 2), text
    assert "Traceback" not in error, text
    assert code == 0 or error.strip(), text


def test_odd_settings_are_told(guard, capsys):
    paths = setting_paths(tl.load("rich.py"))
    _try_all(
        [(fuzzing.Case(SEED, "setting", number),) for number in range(CASES // 2)],
        lambda case: _try_setting(case, paths, guard, capsys),
    )


def _try_setting(case, paths, guard, capsys):
    override, misspelled = fuzzing.setting(case, paths)
    commands = (("show", "rich.py"), ("run", "rich.py", "--out", "new"))
    words = case.pick("command", commands)
    words = [*words, override]
    try:
        code, _, error = _attempt(words, capsys)
        changes = guard.changed()
    finally:
        guard.restore()
    text = f"jaxtl {words}: {code} {error} {changes}"
    _check(code, error, text)
    assert all(name.split("/")[0] == "new" for name in changes), text
    assert code or not misspelled, text
