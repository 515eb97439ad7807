"""Studies: which runs a file makes, in which order, from which source."""

import pathlib

import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.training import experiment_file
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
