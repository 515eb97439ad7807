"""Stateless data order: the rows that step t reads are a function of (seed, t) alone.

Position p = t·batch + i of the endless stream lies in epoch p // n, at place p % n of
it, and reads row π(p % n), where π is a bijection on [0, n) keyed by (seed, epoch). A
run that resumes at step t therefore reads the rows that the uninterrupted run would
have read, on host and device alike, and no permutation is ever stored.

π is a Feistel network over ⌈log₂ n⌉ bits, restricted to [0, n) by cycle walking: a
value that lands at n or above is sent through the network again.

References:
    Black & Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002 (cycle walking).
    Luby & Rackoff, How to Construct Pseudorandom Permutations, SIAM J. Comput. 1988.
"""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError

# Below 12 the permutations of five to seven rows are visibly uneven (chi-square).
_ROUNDS = 12
_GOLDEN_RATIO = 0x9E3779B9  # 2**32 divided by the golden ratio


def indices(
    seed: Any,
    step: Any,
    batch: int,
    n: Any,
    *,
    offset: Any = 0,
) -> np.ndarray | jax.Array:
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
    return _places(xp, seed, step, batch, n, offset)[1].astype(np.int32)


def class_seats(sizes: np.ndarray, sampling: str) -> np.ndarray:
    """How many places of an epoch each class has, int32 (classes,).

    The largest class has as many as it has rows.

    Args:
      sizes: rows of each class, (classes,).
      sampling: "balanced", the same for every class that has rows, or "square_root",
        proportional to the root of its size.

    References:
      Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition,
      ICLR 2020, eq. 1 (q = 0 and q = 1/2).
    """
    sizes = np.asarray(sizes, np.float64)
    power = {"balanced": 0.0, "square_root": 0.5}[sampling]
    shares = np.where(sizes > 0, np.maximum(sizes, 1) ** power, 0.0)
    return np.rint(shares * sizes.max() ** (1 - power)).astype(np.int32)


def class_indices(
    seed: Any,
    step: Any,
    batch: int,
    sizes: Any,
    seats: Any,
    *,
    offset: Any = 0,
) -> np.ndarray | jax.Array:
    """Rows of one step, where every class has its share of the places of an epoch.

    A class visits its rows in turn, and goes on in the next epoch where it stopped, so
    that over time every row of a class is read equally often.

    Args:
      seed, step, batch, offset: as for `indices`.
      sizes: int32 (classes,), rows of each class, which lie one class after another.
      seats: int32 (classes,), its places in an epoch, of `class_seats`.

    Returns:
      int32[batch], each in [0, Σ sizes).
    """
    traced = any(isinstance(v, jax.Array) for v in (seed, step, sizes, seats, offset))
    xp = jnp if traced else np
    sizes, seats = (xp.asarray(v).astype(np.uint32) for v in (sizes, seats))
    ends = xp.cumsum(seats, dtype=np.uint32)
    if not traced:
        _check(step, batch, int(ends[-1]), offset)
    epoch, place = _places(xp, seed, step, batch, ends[-1], offset)
    label = xp.searchsorted(ends, place, side="right")
    visit = epoch * seats[label] + place - (ends - seats)[label]
    first = (xp.cumsum(sizes, dtype=np.uint32) - sizes)[label]
    return (first + visit % sizes[label]).astype(np.int32)


def episode_indices(
    seed: Any,
    step: Any,
    batch: int,
    sizes: Any,
    ways: int,
    per_class: int,
    *,
    offset: Any = 0,
) -> np.ndarray | jax.Array:
    """Rows of one step of episodes, laid out as (episodes, ways, per_class).

    Episode e is a function of (seed, e): its classes are a permutation's first `ways`,
    and the examples of each another's first `per_class`.

    Args:
      seed, step: as for `indices`.
      batch: number of rows, a multiple of ways · per_class; static.
      sizes: int32 (classes,), rows of each class, which lie one class after another:
        at least `ways` classes of at least `per_class` rows.
      ways, per_class: classes of an episode, and examples of each; static.
      offset: rows before step 0, a multiple of ways · per_class.

    Returns:
      int32[batch], each in [0, Σ sizes).
    """
    traced = any(isinstance(v, jax.Array) for v in (seed, step, sizes, offset))
    xp = jnp if traced else np
    sizes = xp.asarray(sizes).astype(np.uint32)
    if not traced:
        _check(step, batch, int(sizes.sum()), offset)
    seed, step, offset = (_uint32(xp, v) for v in (seed, step, offset))
    position = step * np.uint32(batch) + offset + xp.arange(batch, dtype=np.uint32)
    examples = np.uint32(ways * per_class)
    key = _mix(_mix(seed) ^ _mix(position // examples + np.uint32(_GOLDEN_RATIO)))
    place = position % examples
    classes = _uint32(xp, len(sizes))
    label = _permute(xp, key, place // np.uint32(per_class), classes)
    class_key = _mix(key ^ _mix(label + np.uint32(_GOLDEN_RATIO)))
    row = _permute(xp, class_key, place % np.uint32(per_class), sizes[label])
    first = (xp.cumsum(sizes, dtype=np.uint32) - sizes)[label]
    return (first + row).astype(np.int32)


def _places(
    xp: types.ModuleType, seed: Any, step: Any, batch: int, n: Any, offset: Any
) -> tuple[Any, Any]:
    """(epoch, permuted place in [0, n)) of the positions of a step, uint32[batch]."""
    seed, step, n, offset = (_uint32(xp, v) for v in (seed, step, n, offset))
    position = step * np.uint32(batch) + offset + xp.arange(batch, dtype=np.uint32)
    epoch = position // n
    key = _mix(_mix(seed) ^ _mix(epoch + np.uint32(_GOLDEN_RATIO)))
    return epoch, _permute(xp, key, position % n, n)


def _permute(xp: types.ModuleType, key: Any, place: Any, n: Any) -> Any:
    """Applies the keyed bijection on [0, n) to each place.

    Args:
      xp: numpy or jax.numpy.
      key: uint32[batch], one key per place (equal keys, same bijection).
      place: uint32[batch], each in [0, n).
      n: uint32[1], or uint32[batch], one per place.

    Returns:
      uint32[batch], each in [0, n). Expected passes through the network: below 2.
    """
    last = (n - np.uint32(1))[:, None]
    bits = (last >> xp.arange(32, dtype=np.uint32) > 0).sum(-1)
    low = ((bits + 1) // 2).astype(np.uint32)
    high = (bits // 2).astype(np.uint32)

    def any_outside(value: Any) -> Any:
        return xp.any(value >= n)

    def walk(value: Any) -> Any:
        return xp.where(value >= n, _feistel(key, value, high, low), value)

    value = _feistel(key, place, high, low)
    if xp is jnp:
        return jax.lax.while_loop(any_outside, walk, value)
    while any_outside(value):
        value = walk(value)
    return value


def _feistel(key: Any, value: Any, high: Any, low: Any) -> Any:
    """Alternating Feistel network on `high` + `low` bits, a bijection for any sizes."""
    bit = np.uint32(1)
    high_mask, low_mask = (bit << high) - bit, (bit << low) - bit
    high_bits, low_bits = value >> low, value & low_mask
    for number in range(0, _ROUNDS, 2):
        high_bits = high_bits ^ (_round(key, low_bits, number) & high_mask)
        low_bits = low_bits ^ (_round(key, high_bits, number + 1) & low_mask)
    return (high_bits << low) | low_bits


def _round(key: Any, half: Any, number: int) -> Any:
    # The high bits of the product are the well-mixed ones, and halves may be one bit.
    round_key = key + np.uint32(number * _GOLDEN_RATIO & 0xFFFFFFFF)
    return _mix(half ^ round_key) >> np.uint32(16)


def _mix(value: Any) -> Any:
    """Murmur3's 32-bit finalizer: a bijection whose output bits look independent."""
    value = value ^ (value >> np.uint32(16))
    value = value * np.uint32(0x85EBCA6B)
    value = value ^ (value >> np.uint32(13))
    value = value * np.uint32(0xC2B2AE35)
    return value ^ (value >> np.uint32(16))


def _uint32(xp: types.ModuleType, value: Any) -> Any:
    """A one-element array, since numpy warns when a uint32 *scalar* wraps."""
    if isinstance(value, (int, np.integer)):
        value = int(value) & 0xFFFFFFFF
    return xp.asarray(value).astype(np.uint32).reshape(1)


def _check(step: Any, batch: int, n: Any, offset: Any) -> None:
    """Raises UserError for a number out of range; traced ones are not checked."""
    concrete = {
        name: int(value)
        for name, value in (("step", step), ("n", n), ("offset", offset))
        if isinstance(value, (int, np.integer))
    }
    if batch < 1:
        raise UserError(f"batch must be at least 1; got {batch}.")
    if concrete.get("n", 1) < 1 or concrete.get("n", 1) >= 2**31:
        raise UserError(f"n, the rows of a split, must be 1 to 2**31-1; got {n}.")
    if concrete.get("step", 0) < 0:
        raise UserError(f"step must not be negative; got {step}.")
    last = (concrete.get("step", 0) + 1) * batch + concrete.get("offset", 0)
    if last > 2**32:
        raise UserError(
            f"step {step} of batch {batch} ends at position {last}, "
            "beyond 2**32, the most that the data order can count."
        )
