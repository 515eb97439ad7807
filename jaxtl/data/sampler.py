"""Stateless data order: which rows step t reads is a function of (seed, t) alone.

Position p = t·batch + i of the endless stream lies in epoch p // n, at place p % n of
it, and reads row π(p % n), where π is a bijection on [0, n) keyed by (seed, epoch). A
run that resumes at step t therefore sees what the uninterrupted run would have seen,
on host and device alike, and no permutation is ever stored.

π is a Feistel network over ⌈log₂ n⌉ bits, restricted to [0, n) by cycle walking: a
value that lands at n or above is sent through the network again.

References:
    Black & Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002 (cycle walking).
    Luby & Rackoff, How to Construct Pseudorandom Permutations, SIAM J. Comput. 1988.
"""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError

# Below 12 the permutations of five to seven rows are visibly uneven (chi-square).
ROUNDS = 12
_GOLDEN = 0x9E3779B9


def indices(
    seed: typing.Any,
    step: typing.Any,
    batch: int,
    n: typing.Any,
    *,
    offset: typing.Any = 0,
) -> typing.Any:
    """Rows of one step, each in [0, n); every row comes once per epoch of n positions.

    numpy is used when every argument is a Python or numpy number, jax otherwise; the
    numbers are identical. seed, step, n and offset may be traced, so runs with other
    seeds or other numbers of labels share one compiled program. A batch larger than n
    spans several epochs.

    Args:
      seed: integer; taken modulo 2**32.
      step: integer ≥ 0, the number of the batch.
      batch: number of rows, static.
      n: integer in [1, 2**31), the number of rows in the split.
      offset: positions before step 0, for a stream that starts in mid-epoch.

    Returns:
      int32[batch].

    Raises:
      UserError: batch or a concrete n below 1, a negative concrete step, or a concrete
        position of 2**32 or more (uint32 arithmetic would wrap there: 2**32 positions
        are 71,000 epochs of MNIST).
    """
    _check(step, batch, n, offset)
    traced = any(isinstance(v, jax.Array) for v in (seed, step, n, offset))
    xp = jnp if traced else np
    seed, step, n, offset = (_uint32(xp, v) for v in (seed, step, n, offset))
    position = step * np.uint32(batch) + offset + xp.arange(batch, dtype=np.uint32)
    epoch = position // n
    key = _mix(_mix(seed) ^ _mix(epoch + np.uint32(_GOLDEN)))
    return permute(key, position % n, n).astype(np.int32)


def permute(key: typing.Any, place: typing.Any, n: typing.Any) -> typing.Any:
    """The keyed bijection on [0, n), applied to each place.

    Args:
      key: uint32[batch], one key per place (equal keys, same bijection).
      place: uint32[batch], each in [0, n).
      n: uint32[1].

    Returns:
      uint32[batch], each in [0, n). Expected passes through the network: below 2.
    """
    xp = jnp if isinstance(place, jax.Array) else np
    bits = ((n - np.uint32(1)) >> xp.arange(32, dtype=np.uint32) > 0).sum()
    low = _uint32(xp, (bits + 1) // 2)
    high = _uint32(xp, bits // 2)

    def outside(value):
        return xp.any(value >= n)

    def walk(value):
        return xp.where(value >= n, _feistel(key, value, high, low), value)

    value = _feistel(key, place, high, low)
    if xp is jnp:
        return jax.lax.while_loop(outside, walk, value)
    while outside(value):
        value = walk(value)
    return value


def _feistel(key, value, high, low):
    """Alternating Feistel network on `high` + `low` bits, a bijection for any sizes."""
    one = np.uint32(1)
    left_mask, right_mask = (one << high) - one, (one << low) - one
    left, right = value >> low, value & right_mask
    for turn in range(0, ROUNDS, 2):
        left = left ^ (_round(key, right, turn) & left_mask)
        right = right ^ (_round(key, left, turn + 1) & right_mask)
    return (left << low) | right


def _round(key, half, turn):
    # The high bits of the product are the well-mixed ones, and halves may be one bit.
    return _mix(half ^ (key + np.uint32(turn * _GOLDEN & 0xFFFFFFFF))) >> np.uint32(16)


def _mix(value):
    """Murmur3's 32-bit finaliser: a bijection whose output bits look independent."""
    value = value ^ (value >> np.uint32(16))
    value = value * np.uint32(0x85EBCA6B)
    value = value ^ (value >> np.uint32(13))
    value = value * np.uint32(0xC2B2AE35)
    return value ^ (value >> np.uint32(16))


def _uint32(xp, value):
    """One-element array, since numpy warns when a uint32 *scalar* wraps."""
    if isinstance(value, (int, np.integer)):
        value = int(value) & 0xFFFFFFFF
    return xp.asarray(value).astype(np.uint32).reshape(1)


def _check(step, batch, n, offset):
    known = {
        name: int(value)
        for name, value in (("step", step), ("n", n), ("offset", offset))
        if isinstance(value, (int, np.integer))
    }
    if batch < 1:
        raise UserError(f"batch must be at least 1; got {batch}.")
    if known.get("n", 1) < 1 or known.get("n", 1) >= 2**31:
        raise UserError(f"n, the rows of a split, must be 1 to 2**31-1; got {n}.")
    if known.get("step", 0) < 0:
        raise UserError(f"step must not be negative; got {step}.")
    last = (known.get("step", 0) + 1) * batch + known.get("offset", 0)
    if last > 2**32:
        raise UserError(
            f"step {step} of batch {batch} ends at position {last}, "
            "beyond 2**32, the most that the data order can count."
        )
