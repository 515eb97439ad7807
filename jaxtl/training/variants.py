"""A file's runs: every variant with every seed, in the order they need each other."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxtl import pretrained
from jaxtl.core import atomic, process_group, resource_errors, serialization
from jaxtl.core.errors import UserError, describe_error, nearest
from jaxtl.data import preparation
from jaxtl.training import (
    data_contents,
    experiment_file,
    inputs,
    loop,
    run_dir,
    setup,
)
from jaxtl.training.experiment import PLACEMENT, Experiment, Variant
from jaxtl.training.experiment_file import File


class Job(NamedTuple):
    """One run of a study: variant, seed, directory and the experiment to run."""

    variant: str
    seed: int
    directory: pathlib.Path
    exp: Experiment


def is_single(file: File) -> bool:
    """Whether the file is one experiment with one seed."""
    return list(file.variants) == [""] and file.seeds is None


def jobs(file: File, out: pathlib.Path) -> list[Job]:
    """The runs of a file in an order that respects `init=Variant(...)`.

    A variant that others start from runs once, with its own seed, unless they ask for
    it per seed. Its path stands in the experiments of those that start from it.

    Raises:
      UserError: for an unknown variant, or variants that wait for each other.
    """
    seeds = {name: _seeds(file, name) for name in file.variants}
    jobs_in_order = []
    for name in ordered(file.variants):
        for seed in seeds[name]:
            exp = dataclasses.replace(file.variants[name], seed=seed)
            if isinstance(exp.init, Variant):
                exp = dataclasses.replace(exp, init=_source(exp.init, seeds, seed, out))
            jobs_in_order.append(Job(name, seed, run_folder(out, name, seed), exp))
    return jobs_in_order


def only(file: File, names: Iterable[str]) -> File:
    """The file with some variants, and those that they start from.

    Raises:
      UserError: for an unknown variant.
    """
    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in file.variants:
            raise UserError(
                f"{file.path.name} has no variant {name!r}"
                f"{nearest(name, file.variants)} (variants: "
                f"{', '.join(file.variants)})."
            )
        init = file.variants[name].init
        if isinstance(init, Variant) and name not in needed:
            waiting.append(init.name)
        needed.add(name)
    variants = {name: exp for name, exp in file.variants.items() if name in needed}
    return dataclasses.replace(file, variants=variants)


def _seeds(file: File, name: str) -> tuple[int, ...]:
    requested = [
        exp.init
        for exp in file.variants.values()
        if isinstance(exp.init, Variant) and exp.init.name == name
    ]
    own_seed = file.variants[name].seed
    if file.seeds is None or (requested and not any(v.per_seed for v in requested)):
        return (own_seed,)
    return file.seeds


def _source(init: Variant, seeds: Mapping[str, Any], seed: int, out: pathlib.Path):
    seed_used = seed if init.per_seed else seeds[init.name][0]
    path = str(run_folder(out, init.name, seed_used))
    return pretrained.FromRun(path, init.reset, init.ignore, init.which)


def run_folder(out: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """The directory of a variant's run with a seed, in that of its study."""
    parts = [re.sub(r"[^\w.=+-]+", "_", part) for part in name.split("/") if part]
    return out.joinpath(*parts, f"seed{seed}")


def ordered(variants: Mapping[str, Experiment]) -> list[str]:
    """The names so that each comes after the one that it starts from.

    Raises:
      UserError: an unknown variant, or variants that wait for each other.
    """
    order: list[str] = []

    def visit(name: str, waiting: Sequence[str]):
        if name in waiting:
            circle = " → ".join([*waiting, name])
            raise UserError(f"variants wait for each other: {circle}.")
        if name in order:
            return
        init = variants[name].init
        if isinstance(init, Variant):
            if init.name not in variants:
                raise UserError(
                    f"variant {name!r}: init=Variant({init.name!r}) is no variant of "
                    f"this file{nearest(init.name, variants)} "
                    f"(variants: {', '.join(variants)})."
                )
            visit(init.name, [*waiting, name])
        order.append(name)

    for name in variants:
        visit(name, [])
    return order


def run_single(
    file: File, out: pathlib.Path, *, overwrite: bool = False, progress: Any = None
):
    """Runs a file that gives one experiment; returns its result."""
    run = setup.setup(
        file.variants[""],
        out,
        overwrite=overwrite,
        file=file.path,
        overrides=file.overrides,
    )
    return loop.train(run, progress=progress)


def prepare(file: File, out: pathlib.Path, *, overwrite: bool = False) -> None:
    """Makes the directory of a study and stores what it is made from.

    Data that can't be read and variants that don't exist are told before that.
    """
    check = run_dir.check_replaceable if overwrite else run_dir.refuse
    process_group.on_first(lambda: check(out))
    runs = [job.directory.relative_to(out).as_posix() for job in jobs(file, out)]
    contents: data_contents.Contents = {}
    for exp in file.variants.values():
        sources = inputs.sources(exp)
        datasets = {n: preparation.prepare(s, exp.seed) for n, s in sources.items()}
        contents |= data_contents.contents(sources, datasets)
    code = file.path.read_bytes()
    stored = {
        "file": file.name,
        "overrides": list(file.overrides),
        "seeds": None if file.seeds is None else list(file.seeds),
        "variants": list(file.variants),
        "runs": runs,
        "experiments": {n: serialization.to_json(e) for n, e in file.variants.items()},
        "doc": file.doc,
        "contents": contents,
    }

    def write() -> None:
        run_dir.create(out, overwrite=overwrite)
        atomic.write_bytes(out / run_dir.CODE, code)
        run_dir.write_json(out / run_dir.STUDY, run_dir.signed(stored, code))

    process_group.on_first(write)


def _read_study(out: pathlib.Path) -> dict[str, Any]:
    """What a study stores, with all that it needs to be read back."""
    path = out / run_dir.STUDY
    stored = run_dir.read_json(path)
    kinds: dict[str, Any] = {"file": str, "doc": str, "overrides": list}
    kinds |= {"variants": list, "seeds": list | None}
    for name, kind in kinds.items():
        if name not in stored or not isinstance(stored[name], kind):
            raise UserError(f"{path} is damaged: it holds no valid {name!r}.")
    return stored


def reopen(out: pathlib.Path) -> File:
    """Reads back the file of a study directory, with the overrides it was run with.

    A study that this user made here is read from its copy of the file; any other from
    the experiments that it stores, so that nobody else's code runs.

    Raises:
      UserError: no study, or what it stores is damaged.
    """
    stored = _read_study(out)
    overrides = tuple(stored["overrides"])
    if run_dir.may_run_code(out, stored):
        copy, original = out / run_dir.CODE, stored["file"]
        file = experiment_file.read_file(copy, *overrides, original=original)
        return only(file, stored["variants"])
    variants = {
        name: run_dir.rebuild(out, stored, stored["file"], values)
        for name, values in stored.get("experiments", {}).items()
    }
    seeds = None if stored["seeds"] is None else tuple(stored["seeds"])
    return File(
        out / run_dir.CODE, variants, seeds, overrides, stored["doc"], stored["file"]
    )


def run_all(file: File, out: pathlib.Path) -> Iterator[tuple[Job, dict | str]]:
    """Runs what is not finished yet; yields each job with its result or its error.

    A run that fails (its loss stops being finite, or the device's memory is used up)
    does not stop the others, but those that start from it fail with it. Reasons are
    stored for reports, also of a fault that ends the study.

    Raises:
      UserError: the files of a run are damaged; no other has begun then.
    """
    with run_dir.lock_for_job(out):
        contents = run_dir.read_json(out / run_dir.STUDY).get("contents", {})
        planned = jobs(file, out)
        results = _stored_results(planned)
        finished = process_group.first_value([str(folder) for folder in results])
        for job in planned:
            try:
                result: dict | str = (
                    results[job.directory]
                    if str(job.directory) in finished
                    else _run(job, file, out, contents)
                )
            except UserError as error:
                result = str(error)
            except Exception as error:
                if process_group.is_lost(error):
                    raise
                if not isinstance(error, jax.errors.JaxRuntimeError):
                    _store_failure(out, job, f"{describe_error(error)}.")
                    raise
                result = resource_errors.device_sentence(error)
            _store_failure(out, job, result if isinstance(result, str) else "")
            yield job, result


def _stored_results(planned: Iterable[Job]) -> dict[pathlib.Path, dict]:
    """The results of the runs that are finished, by their directories.

    Raises:
      UserError: a result or the mark of a run, finished or not, is damaged.
    """
    results = {}
    for directory in (job.directory for job in planned):
        if (directory / run_dir.MARK).exists():
            run_dir.read_mark(directory)
        if (directory / "result.json").exists():
            results[directory] = run_dir.read_json(directory / "result.json")
    return results


def _store_failure(out: pathlib.Path, job: Job, error: str) -> None:
    """Stores why a run of a study failed, or that it did not ("")."""
    if not process_group.is_first():
        return
    path, name = out / run_dir.FAILURES, job.directory.relative_to(out).as_posix()
    stored = run_dir.read_json(path, list) if path.exists() else []
    failures = [failure for failure in stored if failure["run"] != name]
    if error:
        identity = {"run": name, "variant": job.variant, "seed": job.seed}
        failures.append({**identity, "error": error})
    if failures != stored:
        run_dir.write_json(path, failures)


def _run(job: Job, file: File, out: pathlib.Path, contents: Mapping[str, str]) -> dict:
    """Runs a job, or goes on with it; its result.

    Raises:
      DataChanged: its data are not those of the study's other runs.
    """
    datasets = inputs.load_datasets(job.exp)
    current = data_contents.contents(inputs.sources(job.exp), datasets)
    data_contents.check(out, contents, current)
    exists, is_begun = process_group.first_value(
        [job.directory.exists(), (job.directory / run_dir.MARK).exists()]
    )
    if is_begun:
        placement = {name: getattr(job.exp, name) for name in PLACEMENT}
        run = setup.resume(job.directory, placement=placement)
    else:
        run = setup.setup(
            job.exp,
            job.directory,
            file=file.path,
            file_name=file.name,
            overrides=file.overrides,
            variant=job.variant,
            overwrite=exists,
        )
    return loop.train(run, progress=False)
