"""Quantizers: bitsandbytes' codes and values, QLoRA's equations in float64, bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.peft import quantization

# What bitsandbytes 0.50.2's quantize_4bit(w.T, quant_type="nf4", blocksize=64) gives
# on CPU for this matrix w, without and with compress_statistics=True.
WEIGHT = ((np.arange(150) * 37 % 101 - 50) / 50).reshape(50, 3).astype("f4")
WEIGHT = WEIGHT * np.array([1, 0.125, 8], "f4")
CODES = (
    "0123579cdef113579bdef113479bdef012469bdef012468bde7778888666777877777777777777777"
    "7777777777777777777cef012358acef012358acee012357acde0123579cdef113579"
)
SCALES = [1.0, 7.840000152587891, 8.0]
VALUES = [
    [-1.0, 0.0, 3.455165147781372],
    [-0.6961928009986877, 0.0, 5.6679816246032715],
]
SUM = 223.70425956696272  # of the absolute values
DOUBLE = {"scales": [0, 218, 220], "scale_scales": 4.613333225250244}
DOUBLE_OFFSET = 5.613333225250244
DOUBLE_VALUES = [
    [-1.0324373245239258, 0.0, 3.463418960571289],
    [-0.7187754511833191, 0.0, 5.681521892547607],
]
DOUBLE_SUM = 224.7094895541668


def values_of(quantized, weight):
    return np.asarray(quantization.dequantize(quantized, weight.shape, jnp.float32))


def test_nf4_is_that_of_bitsandbytes():
    quantized = quantization.quantize_nf4(jnp.asarray(WEIGHT))
    codes = np.asarray(quantized["codes"]).reshape(-1)[:75]
    assert bytes(codes).hex() == CODES
    assert np.asarray(quantized["scales"]).tolist() == SCALES
    values = values_of(quantized, WEIGHT)
    assert values[:2].tolist() == VALUES
    assert np.abs(values.astype("f8")).sum() == pytest.approx(SUM, abs=1e-12)


def test_double_quantization_is_that_of_bitsandbytes():
    quantized = quantization.quantize_nf4(jnp.asarray(WEIGHT), double_quantization=True)
    assert bytes(np.asarray(quantized["codes"]).reshape(-1)[:75]).hex() == CODES
    assert np.asarray(quantized["scales"]).tolist() == DOUBLE["scales"]
    assert quantized["scales"].dtype == jnp.uint8
    np.testing.assert_allclose(
        quantized["scale_scales"], [DOUBLE["scale_scales"]], rtol=1e-6
    )
    assert float(quantized["scale_offset"]) == pytest.approx(DOUBLE_OFFSET, rel=1e-6)
    values = values_of(quantized, WEIGHT)
    np.testing.assert_allclose(values[:2], DOUBLE_VALUES, rtol=1e-6)
    assert np.abs(values.astype("f8")).sum() == pytest.approx(DOUBLE_SUM, rel=1e-6)


def test_the_levels_of_8_bit_floats_are_those_of_bitsandbytes():
    levels = quantization.dynamic_levels()
    assert len(set(levels.tolist())) == 256
    # Its first, its last and its smallest positive ones, as it prints them.
    np.testing.assert_allclose(levels[:3], [-0.99296875, -0.97890625, -0.96484375])
    np.testing.assert_allclose(levels[-3:], [0.97890625, 0.99296875, 1.0])
    np.testing.assert_allclose(levels[127:130], [0, 5.5e-7, 3.25e-6], rtol=1e-6)


def nf4_in_float64(weight):
    """QLoRA's eq. 4 by the letter: the nearest level of each weight of each block."""
    rows = np.moveaxis(weight.astype("f8"), -1, 0).reshape(-1)
    values = []
    for start in range(0, rows.size, 64):
        block = rows[start : start + 64]
        scale = np.abs(block).max()
        distances = np.abs(
            block[:, None] / (scale or 1) - quantization.NF4_LEVELS.astype("f8")
        )
        values.append(scale * quantization.NF4_LEVELS.astype("f8")[distances.argmin(1)])
    values = np.concatenate(values).reshape(weight.shape[-1], *weight.shape[:-1])
    return np.moveaxis(values, 0, -1)


shapes = st.sampled_from([(1, 1), (7, 3), (65, 2), (3, 2, 5, 4)])
seeds = st.integers(0, 2**16)


def drawn(shape, seed, size):
    weight = np.random.default_rng(seed).normal(size=shape) * 10.0**size
    return weight.astype("f4")


@settings(max_examples=12)
@given(shapes, seeds, st.integers(-6, 6))
def test_nf4_by_the_equation(shape, seed, size):
    weight = drawn(shape, seed, size)
    values = values_of(quantization.quantize_nf4(jnp.asarray(weight)), weight)
    expected = nf4_in_float64(weight)
    np.testing.assert_allclose(values, expected, atol=1e-6 * np.abs(weight).max())
    # What is on the levels stays: quantizing twice changes nothing.
    again = values_of(quantization.quantize_nf4(jnp.asarray(values)), weight)
    np.testing.assert_array_equal(again, values)


@settings(max_examples=12)
@given(shapes, seeds, st.integers(-6, 6))
def test_int8_is_within_half_a_scale(shape, seed, size):
    weight = drawn(shape, seed, size)
    weight[..., 0] = 0  # an output whose weights are all 0 has no scale
    quantized = quantization.quantize_int8(jnp.asarray(weight))
    values = values_of(quantized, weight).astype("f8")
    scales = np.abs(weight.astype("f8")).reshape(-1, shape[-1]).max(0) / 127
    np.testing.assert_allclose(quantized["scales"], scales, rtol=1e-6)
    bound = scales / 2 + 1e-6 * np.abs(weight).max()
    assert (np.abs(values - weight) <= bound).all()
    # The largest weight of an output is exact, up to rounding.
    largest = np.abs(values).reshape(-1, shape[-1]).max(0)
    np.testing.assert_allclose(largest, scales * 127, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_half_precision_is_quantized_in_single(dtype):
    weight = jnp.asarray(WEIGHT, dtype)
    single = weight.astype(jnp.float32)
    for quantize in (quantization.quantize_int8, quantization.quantize_nf4):
        codes, expected = quantize(weight), quantize(single)
        assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, codes, expected)))
        values = quantization.dequantize(codes, weight.shape, weight.dtype)
        assert values.dtype == weight.dtype
        whole = quantization.dequantize(expected, weight.shape, jnp.float32)
        assert jnp.array_equal(values, whole.astype(dtype))
