"""The scripts of `jaxtl completion`, in a shell where there is one."""

import shutil
import subprocess
import sys

import pytest

from jaxtl.cli import main


def completed(script, *words):
    """What bash offers for the last of some words."""
    line = " ".join(f"'{word}'" for word in words)
    call = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        "_shtab_jaxtl; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    result = subprocess.run(
        ["bash", "--norc"], input=call, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_files(tmp_path, capsys):
    pytest.importorskip("shtab")
    assert main.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert completed(script, "jaxtl", "pre") == {"predict"}
    assert completed(script, "jaxtl", "") >= set(main.COMMANDS)
    assert completed(script, "jaxtl", "re") == {"resume", "report", "reproduce"}
    assert "--licence" in completed(script, "jaxtl", "push", "--l")
    (tmp_path / "one.py").touch()
    start = f"{tmp_path}/on"
    assert completed(script, "jaxtl", "run", start) == {f"{tmp_path}/one.py"}
    assert completed(script, "jaxtl", "completion", "z") == {"zsh"}


def test_scripts_of_all_shells_name_the_commands(capsys):
    pytest.importorskip("shtab")
    for shell in ("zsh", "fish"):
        assert main.main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(name in script for name in main.COMMANDS)
        assert "upload a run" in script  # what a command does, beside its name


def test_what_is_not_installed_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main.main(["completion", "bash"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'jaxtl[completion]'" in error
    assert error.count("\n") == 1
