"""What to say of a run whose base was quantized where its weights are written."""

import pathlib

from jaxtl.training import run_dir, run_paths


def float_note(directory: str | pathlib.Path) -> str:
    """One line for a run with a quantized base, "" for any other.

    Args:
      directory: of the run.
    """
    stored = run_dir.read_mark(run_paths.one_run(directory))["experiment"]
    peft = stored.get("peft")
    base = peft.get("base", "float") if isinstance(peft, dict) else "float"
    if base == "float":
        return ""
    return (
        f"the base was trained with as {base}; what it stands for is written, as float"
    )
