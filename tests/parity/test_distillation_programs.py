"""Distillation: the equations against the programs of their authors."""

import pytest
import stored_values

from jaxtl.terms.distillation import kd

VALUES = stored_values.load("distillation_values.json")
EQUATIONS = {
    "kd": lambda z, teacher: kd.distillation_loss(teacher, z, 4.0).mean(),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equation_is_the_programs(name):
    stored_values.assert_equal(VALUES[name], EQUATIONS[name])
