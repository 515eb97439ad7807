"""Selections on literal trees with near-miss names, and the law of the first match."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN

TREE = {
    "stem": {"conv": {"kernel": 0, "bias": 0}, "bn": {"scale": 0, "bias": 0}},
    "stem2": {"conv": {"kernel": 0}},
    "stage1": {"block0": {"conv": {"kernel": 0}, "bn": {"scale": 0}}},
    "stage10": {"block0": {"conv": {"kernel": 0}}},
    "header": {"dense": {"kernel": 0}},
    "head": {"dense": {"kernel": 0, "bias": 0}},
}
PATHS = list(trees.flatten(TREE))


def chosen(pattern):
    mask = trees.flatten(selection.mask(pattern, TREE))
    assert all(isinstance(m, bool) for m in mask.values())
    return {path for path, m in mask.items() if m}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("stem", {p for p in PATHS if p.startswith("stem/")}),
        ("head", {"head/dense/kernel", "head/dense/bias"}),
        ("header", {"header/dense/kernel"}),
        ("stage1", {"stage1/block0/conv/kernel", "stage1/block0/bn/scale"}),
        ("stage1.*", {p for p in PATHS if p.startswith("stage1")}),
        ("stem|head", {p for p in PATHS if p.split("/")[0] in ("stem", "head")}),
        ("stem/conv", {"stem/conv/kernel", "stem/conv/bias"}),
        ("stem/conv/kernel", {"stem/conv/kernel"}),
        (".*bn.*", {p for p in PATHS if "/bn/" in p}),
        (".*/kernel", {p for p in PATHS if p.endswith("/kernel")}),
        ("(?!head).*", {p for p in PATHS if not p.startswith("head")}),
        (".*", set(PATHS)),
    ],
)
def test_patterns_cover_whole_parts_of_paths(pattern, expected):
    assert chosen(pattern) == expected


@pytest.mark.parametrize("pattern", ["ste", "stem/con", "hea", "conv", "kernel"])
def test_parts_of_names_match_nothing(pattern):
    with pytest.raises(UserError, match="matches no parameter"):
        selection.mask(pattern, TREE)


def test_the_first_pattern_decides():
    patterns = {"stem/bn": FROZEN, "stem": 0.1, "stage1.*": 0.5, ".*": 1.0}
    labels = trees.flatten(selection.labels(patterns, TREE))
    assert labels["stem/bn/scale"] == "stem/bn"
    assert labels["stem/conv/kernel"] == "stem"
    assert labels["stem2/conv/kernel"] == ".*"
    assert labels["stage10/block0/conv/kernel"] == "stage1.*"


@given(st.lists(st.sampled_from([*TREE, ".*", ".*bn.*", "stem.*"]), unique=True))
def test_labels_are_the_first_match_or_an_error(patterns):
    def first(path):  # the definition, spelt out on whole path prefixes
        parts = path.split("/")
        heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        return next(
            (p for p in patterns if any(re.fullmatch(p, h) for h in heads)), None
        )

    expected = {path: first(path) for path in PATHS}
    whole = None not in expected.values()
    if whole and set(expected.values()) == set(patterns):
        assert trees.flatten(selection.labels(patterns, TREE)) == expected
    else:
        with pytest.raises(UserError):
            selection.labels(patterns, TREE)


@given(st.text(alphabet="abc/", min_size=1, max_size=8), st.sampled_from(PATHS))
def test_a_literal_pattern_is_a_prefix_at_a_slash(pattern, path):
    assume(not pattern.endswith("/"))
    assert selection.matches(pattern, path) == (path + "/").startswith(pattern + "/")


def test_a_pattern_without_match_prints_the_paths_and_the_nearest():
    with pytest.raises(UserError) as caught:
        selection.labels({"stage2": 1.0, ".*": 1.0}, TREE, what="optim.groups")
    text = str(caught.value)
    assert text.startswith("optim.groups: the pattern 'stage2' matches no parameter")
    assert "did you mean 'stage1" in text
    assert all(path in text for path in PATHS)


def test_a_pattern_near_to_nothing_still_makes_a_sentence():
    with pytest.raises(UserError, match=r"no parameter\. The paths are"):
        selection.mask("zzzzzzzz", TREE)


def test_uncovered_parameters_are_listed():
    with pytest.raises(UserError) as caught:
        selection.labels({"stem": 1.0, "head": 1.0}, TREE, what="optim.groups")
    text = str(caught.value)
    assert "header/dense/kernel" in text
    assert "stem2/conv/kernel" in text
    assert "\n  head/dense/kernel" not in text
    assert '".*"' in text


def test_a_shadowed_pattern_is_told():
    with pytest.raises(UserError, match=r"'stem/bn' decides nothing.*\['stem'\]"):
        selection.labels({"stem": 1.0, "stem/bn": FROZEN, ".*": 1.0}, TREE)


def test_a_broken_expression_is_told():
    with pytest.raises(UserError, match=r"'\(stem' is not a regular expression"):
        selection.mask("(stem", TREE)


def test_keep_puts_none_elsewhere():
    kept = selection.keep(selection.mask("head", TREE), TREE)
    assert set(trees.flatten(kept)) == {"head/dense/kernel", "head/dense/bias"}
