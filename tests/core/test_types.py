"""The vocabulary's few behaviours."""

import copy
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import FROZEN, Tokens, vectors
from jaxtl.optim.schedules import Schedule
from jaxtl.terms.base import Term


def test_nearest_names_the_closest_or_nothing():
    assert nearest("weigth", ["weight", "lr"]) == "; did you mean 'weight'?"
    assert nearest("zzz", ["weight", "lr"]) == ""
    assert nearest(3, [31, 4]) == "; did you mean '31'?"


def test_frozen_stays_one_object():
    assert copy.deepcopy(FROZEN) is FROZEN
    assert pickle.loads(pickle.dumps(FROZEN)) is FROZEN
    assert repr(FROZEN) == "FROZEN"


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)


def test_vectors_average_real_tokens_and_flatten_the_rest():
    states = np.arange(24.0).reshape(2, 3, 4)
    mask = np.array([[True, True, False], [False, False, False]])
    found = vectors(Tokens(jnp.asarray(states), jnp.asarray(mask)))
    np.testing.assert_allclose(found[0], states[0, :2].mean(0))
    np.testing.assert_array_equal(found[1], np.zeros(4))
    assert vectors(jnp.zeros((2, 3, 4), jnp.bfloat16)).shape == (2, 12)
    assert vectors(jnp.zeros((2, 3), jnp.bfloat16)).dtype == jnp.float32


def test_bare_terms_and_schedules_say_what_they_lack():
    with pytest.raises(TypeError, match="Term defines no __call__"):
        Term()(None)
    with pytest.raises(TypeError, match="Schedule defines no value"):
        Schedule().value(0, 1)
