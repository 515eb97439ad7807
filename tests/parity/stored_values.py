"""Values that authors' programs computed, and their comparison with an equation.

A file of values holds for each case the program (repository, commit, file), a note
where its lines could not run as they are, the seed of the standard normal inputs, their
shapes in the order in which they are drawn, the value that the program returned in
float64, and where it is a scalar its gradient by the first input.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np


def load(name):
    """The cases of a file in this folder, name -> case."""
    return json.loads(pathlib.Path(__file__).with_name(name).read_text())


def inputs(case):
    """The inputs of a case, float64 arrays."""
    rng = np.random.default_rng(case["seed"])
    return [rng.normal(size=shape) for shape in case["shapes"]]


def assert_equal(case, equation, tolerance=1e-9):
    """Compares an equation's value, and its gradient where the case has one."""
    with jax.enable_x64(True):
        arrays = list(map(jnp.asarray, inputs(case)))
        if "gradient" not in case:
            equation = jax.jit(equation) if arrays else equation
            value = equation(*arrays)
            np.testing.assert_allclose(value, case["value"], rtol=tolerance, atol=1e-12)
            return
        first, *others = arrays
        # Compiled whole: operation by operation takes many times as long.
        function = jax.jit(jax.value_and_grad(equation))
        value, gradient = function(first, *others)
    np.testing.assert_allclose(value, case["value"], rtol=tolerance)
    expected = np.asarray(case["gradient"])
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)
