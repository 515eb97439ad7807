"""Roles of a sweep's axes: compared, tuned, fixed."""

import pytest

from jaxtl.core.errors import UserError
from jaxtl.results.axis_roles import assign_roles, matches

AXES = {
    "method": ("a", "b"),
    "data.labels_per_class": (5, 10),
    "optim.lr": (0.1, 1),
    "terms.l2.weight": (0.0, None),
    "optim.b1": (0.9,),
    "seed": (0, 1),
}


def test_numbers_of_the_optimizer_and_the_terms_are_tuned():
    roles = assign_roles(AXES)
    assert roles.compared == ("method", "data.labels_per_class")
    assert roles.tuned == ("optim.lr", "terms.l2.weight")
    assert roles.fixed == {"optim.b1": 0.9}
    assert roles.method == "method"


def test_axes_that_are_not_compared_are_tuned():
    roles = assign_roles(AXES, ["method"])
    assert roles.compared == ("method",)
    assert roles.tuned == ("data.labels_per_class", "optim.lr", "terms.l2.weight")
    assert roles.fixed == {"optim.b1": 0.9}


def test_axes_have_short_names():
    roles = assign_roles(AXES, ["lr", "weight"])
    assert roles.compared == ("optim.lr", "terms.l2.weight")
    assert roles.fixed == {"optim.b1": 0.9}


def test_ambiguous_and_unknown_names_are_refused():
    axes = {"optim.lr": (0.1, 1), "head.lr": (0.1, 1)}
    with pytest.raises(UserError, match=r"'lr' is ambiguous.*optim\.lr, head\.lr"):
        assign_roles(axes, ["lr"])
    with pytest.raises(
        UserError, match=r"no axis 'optim\.rl'; did you mean 'optim\.lr'"
    ):
        assign_roles(axes, ["optim.rl"])


def test_a_selector_matches_the_last_part_of_a_name():
    assert matches({"run": "mnist/full"}, {"run": "full"})
    assert not matches({"run": "mnist/full"}, {"run": "mnist"})
    assert not matches({"method": "full"}, {"run": "full"})
