"""Names of runs below a directory: what their seeds share, and nothing else does."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxtl.training import run_dir, variants


def labels_of_runs(
    path: pathlib.Path,
    runs: Mapping[pathlib.Path, Mapping[str, Any]],
    *,
    prefix: bool = False,
) -> dict[pathlib.Path, dict[str, Any]]:
    """The labels of runs: "run", the name of what its seeds share, and "seed".

    The name is that of the run's variant, of its directory below `path`, or of its
    file. Where several studies below `path` have a variant of one name, the directory
    of the study is put before it: "mnist/full" and "usps/full".

    Args:
      path: the directory that runs are read from.
      runs: directory of each run -> what its experiment.json holds.
      prefix: whether to put the name of `path` before.

    Returns:
      Directory of each run -> its labels, in the order given.
    """
    studies: dict[str, set[tuple[str, ...]]] = {}
    for folder, stored in runs.items():
        if variant := stored.get("variant"):
            studies.setdefault(variant, set()).add(_study_of(path, folder, variant))
    several = any(len(folders) > 1 for folders in studies.values())
    labels = {}
    for folder, stored in runs.items():
        name = _name(path, folder, stored, prefix=prefix, with_study=several)
        labels[folder] = {"run": name, **_seed(folder, stored)}
    return labels


def seed_of(folder: pathlib.Path) -> int | None:
    """The seed of a folder called "seed3", None for another name."""
    match = re.fullmatch(r"seed(\d+)", folder.name)
    return int(match.group(1)) if match else None


def _seed(folder: pathlib.Path, stored: Mapping[str, Any]) -> dict[str, int]:
    experiment = stored.get("experiment")
    seed = experiment.get("seed") if isinstance(experiment, dict) else None
    seed = seed_of(folder) if seed is None else seed
    return {"seed": seed} if isinstance(seed, int) else {}


def _name(
    path: pathlib.Path,
    folder: pathlib.Path,
    stored: Mapping[str, Any],
    *,
    prefix: bool,
    with_study: bool,
) -> str:
    """The name of a run; `with_study` puts the directory of a variant's study first."""
    variant = stored.get("variant")
    below = folder.relative_to(path)
    name = variant or str(below if seed_of(folder) is None else below.parent)
    if variant and with_study:
        name = "/".join([*_study_of(path, folder, variant), variant])
    if name == ".":
        study = {} if prefix else run_dir.read_study(path)
        file = None if prefix else study.get("file") or stored.get("file")
        return pathlib.Path(file).stem if file else path.name
    return f"{path.name}/{name}" if prefix else name


def _study_of(
    path: pathlib.Path, folder: pathlib.Path, variant: str
) -> tuple[str, ...]:
    """The parts of the directory of a run's study, from `path` on."""
    below = folder.relative_to(path)
    parts = (below if seed_of(folder) is None else below.parent).parts
    own = variants.run_folder(pathlib.Path(), variant, 0).parts[:-1]
    is_own = parts[len(parts) - len(own) :] == own
    return parts[: len(parts) - len(own)] if is_own else parts
