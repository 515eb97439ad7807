"""Studies: which runs a file makes, in which order, from which source."""

import pathlib
import shutil

import jax
import pytest

import jaxtl as tl
from jaxtl.core import resource_errors
from jaxtl.core.errors import UserError
from jaxtl.results import records
from jaxtl.training import experiment_file, run_dir
from jaxtl.training import variants as train_variants


def file(variants, seeds=None):
    return experiment_file.File(pathlib.Path("x.py"), variants, seeds, (), "")


def exp(**settings):
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=tl.data.Digits(), **settings
    )


def names(jobs):
    return [(j.variant, j.seed) for j in jobs]


OUT = pathlib.Path("out")

OWN = """
import dataclasses
import shutil
import jaxtl as tl
from jaxtl.terms.base import Term

@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Term):
    def __call__(self, context):
        return 0.0

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=tl.data.Digits(), steps=0,
        terms={"task": tl.losses.CrossEntropy(), "own": Own()})

SEEDS = (0, 1)
"""


def test_a_copy_of_a_file_stands_for_the_file(tmp_path, monkeypatch):
    def begin(exp, directory, *, overwrite, **origin):
        directory.mkdir(parents=True)
        run_dir.write_experiment(directory, exp, **origin)
        raise UserError("it begins and goes no further.")

    monkeypatch.setattr(train_variants.setup, "setup", begin)
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    out = tmp_path / "study"
    train_variants.prepare(experiment_file.read_file(path), out)
    copy = train_variants.reopen(out)
    assert copy.path == out / "experiment.py"
    assert (copy.name, copy.run_name("")) == ("mine.py", "mine")
    [*_, (job, _)] = train_variants.run_all(copy, out)
    stored = run_dir.read_mark(job.directory)
    assert stored["file"] == "mine.py"
    module = type(run_dir.read_experiment(job.directory).terms["own"]).__module__
    assert module == experiment_file.MODULE + "mine"


def test_reasons_of_runs_that_failed_are_stored_until_they_are_run_again(
    tmp_path, monkeypatch
):
    out = tmp_path / "study"
    run_dir.create(out, overwrite=False)
    run_dir.write_json(out / run_dir.STUDY, {"variants": ["a", "b"], "file": "x.py"})
    study = file({"a": exp(), "b": exp()}, (0, 1))
    errors = {
        "a/seed1": UserError("the loss is not finite."),
        "b/seed0": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        "b/seed1": KeyError("axis"),
    }

    def run(job, *_):
        job.directory.mkdir(parents=True, exist_ok=True)
        name = job.directory.relative_to(out).as_posix()
        if name in errors:
            raise errors[name]
        result = {"test": {"accuracy": 0.5}}
        run_dir.write_json(job.directory / "result.json", result)
        run_dir.write_experiment(job.directory, job.exp, variant=job.variant)
        return result

    def read():
        return {
            (record.labels["run"], record.labels["seed"]): record.error
            for record in records.read([out]).records
        }

    monkeypatch.setattr(train_variants, "_run", run)
    with pytest.raises(KeyError):  # a fault of the program ends the study
        list(train_variants.run_all(study, out))
    assert read() == {
        ("a", 0): "",
        ("a", 1): "the loss is not finite.",
        ("b", 0): resource_errors.OUT_OF_MEMORY,
        ("b", 1): "KeyError: 'axis'.",
    }
    errors.clear()
    list(train_variants.run_all(study, out))
    assert set(read().values()) == {""}
    assert run_dir.read_json(out / run_dir.FAILURES, list) == []
    # A damaged file of the last run is told before another run begins.
    shutil.rmtree(out / "a" / "seed0")
    for name in ("result.json", run_dir.MARK):
        (out / "b" / "seed1" / name).write_text("")
        with pytest.raises(UserError, match=rf"b/seed1/{name} is damaged"):
            list(train_variants.run_all(study, out))
        assert not (out / "a" / "seed0").exists()
    assert run_dir.read_json(out / run_dir.FAILURES, list) == []


def test_every_variant_with_every_seed():
    found = train_variants.jobs(file({"a": exp(), "b": exp()}, (3, 4)), OUT)
    assert names(found) == [("a", 3), ("a", 4), ("b", 3), ("b", 4)]
    assert [j.exp.seed for j in found] == [3, 4, 3, 4]
    assert found[0].directory == OUT / "a" / "seed3"


def test_without_seeds_each_variant_has_its_own():
    found = train_variants.jobs(file({"a": exp(seed=7), "b": exp()}), OUT)
    assert names(found) == [("a", 7), ("b", 0)]


def test_a_source_runs_first_and_once_with_its_own_seed():
    variants = {"tuned": exp(init=tl.Variant("base")), "base": exp(seed=9)}
    found = train_variants.jobs(file(variants, (0, 1)), OUT)
    assert names(found) == [("base", 9), ("tuned", 0), ("tuned", 1)]
    assert [j.exp.init.path for j in found[1:]] == [str(OUT / "base" / "seed9")] * 2


def test_a_source_per_seed():
    init = tl.Variant("base", reset="head", per_seed=True)
    found = train_variants.jobs(
        file({"base": exp(), "tuned": exp(init=init)}, (0, 1)), OUT
    )
    assert names(found) == [("base", 0), ("base", 1), ("tuned", 0), ("tuned", 1)]
    assert found[3].exp.init.path == str(OUT / "base" / "seed1")
    assert found[3].exp.init.reset == "head"


def test_chains_and_names_with_slashes():
    variants = {
        "c/x y": exp(init=tl.Variant("b")),
        "b": exp(init=tl.Variant("a")),
        "a": exp(),
    }
    found = train_variants.jobs(file(variants, (0,)), OUT)
    assert [j.variant for j in found] == ["a", "b", "c/x y"]
    assert found[2].directory == OUT / "c" / "x_y" / "seed0"


def test_circles_and_unknown_names_are_told():
    circle = {"a": exp(init=tl.Variant("b")), "b": exp(init=tl.Variant("a"))}
    with pytest.raises(UserError, match="a → b → a"):
        train_variants.jobs(file(circle), OUT)
    with pytest.raises(UserError, match="did you mean 'base'"):
        train_variants.jobs(
            file({"base": exp(), "x": exp(init=tl.Variant("bass"))}), OUT
        )


def test_a_variant_by_itself_says_what_it_needs():
    with pytest.raises(UserError, match="another variant of the same"):
        tl.setup(exp(init=tl.Variant("base")))


def test_a_chosen_variant_brings_what_it_starts_from():
    variants = {
        "c": exp(init=tl.Variant("b")),
        "b": exp(init=tl.Variant("a")),
        "a": exp(),
        "other": exp(),
    }
    found = train_variants.only(file(variants, (0, 1)), ["c"])
    assert list(found.variants) == ["c", "b", "a"]
    assert names(train_variants.jobs(found, OUT)) == [
        ("a", 0),
        ("b", 0),
        ("c", 0),
        ("c", 1),
    ]
    with pytest.raises(UserError, match=r"has no variant 'othr'; did you mean 'other'"):
        train_variants.only(file(variants), ["othr"])
