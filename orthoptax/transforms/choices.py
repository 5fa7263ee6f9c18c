# SPDX-License-Identifier: Apache-2.0
"""Which slices `submatrix` takes: the largest, random ones, the largest of shards."""

import math
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax._check import count as check_count
from orthoptax._check import fraction as check_fraction

Choose = Callable[[jax.Array, int, jax.Array, str], jax.Array]
"""choose(scores (..., size), k, count, matrix name): k indices (..., k) a matrix."""


def largest_slices(scores: jax.Array, k: int, count: jax.Array, name: str) -> jax.Array:
    """The k slices of the largest scores.

    Args:
      scores: (..., size), the sum of |entries| of each slice.
      k: how many; static.
      count: not used.
      name: not used.
    Returns: indices (..., k).
    Example:
      >>> scores = jnp.asarray([3.0, 1.0, 2.0])
      >>> largest_slices(scores, 2, jnp.zeros((), jnp.int32), "w").tolist()
      [0, 2]

    Source: code microsoft/dion@0a059a4, dion2.py.
    """
    del count, name
    return lax.top_k(scores, k)[1]


def random_slices(
    scores: jax.Array,
    k: int,
    count: jax.Array,
    name: str,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """k slices drawn evenly, anew for each matrix and update.

    Args:
      scores: (..., size); only its shape matters.
      k: how many; static.
      count: completed updates, folded into the key.
      name: of the matrix, folded into the key.
      key: a typed key; None: `jax.random.key(0)`. For another pass
        `functools.partial(random_slices, key=...)`.
    Returns: indices (..., k), all different.
    Example:
      >>> drawn = random_slices(jnp.zeros(3), 3, jnp.zeros((), jnp.int32), "w")
      >>> sorted(drawn.tolist())
      [0, 1, 2]

    Source: Ahn et al., Dion2, arXiv:2512.16928, the random variant.
    """
    key = jax.random.key(0) if key is None else key
    key = jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), count)
    return lax.top_k(jax.random.uniform(key, scores.shape), k)[1]


def largest_slices_by_shard(shards: int, fraction: float | None = None) -> Choose:
    """The largest slices of each of several shards, chosen by each for itself.

    What code does whose devices do not compare scores: the choice depends on the number
    of shards. `largest_slices` is the exact form.

    Args:
      shards: how many; each has ceil(size / shards) slices, the last ones fewer.
      fraction: of a shard's slices, as given to `submatrix`; None: 0.25.
    Returns: a `Choose`, whose number of indices is its own.
    Raises: ValueError for a fraction outside (0, 1] or fewer than one shard.
    Example:
      >>> choose = largest_slices_by_shard(2, 0.5)
      >>> scores = jnp.asarray([3.0, 4.0, 1.0, 2.0])
      >>> choose(scores, 2, jnp.zeros((), jnp.int32), "w").tolist()
      [1, 3]

    Source: code microsoft/dion@0a059a4, dion2.py, selection_scope="local".
    """
    check_count("largest_slices_by_shard", "shards", shards)
    fraction = 0.25 if fraction is None else fraction
    check_fraction("largest_slices_by_shard", "fraction", fraction)

    def choose(scores: jax.Array, k: int, count: jax.Array, name: str) -> jax.Array:
        size = scores.shape[-1]
        length = math.ceil(size / shards)
        each = max(1, math.ceil(fraction * length))
        found = []
        for start in range(0, size, length):
            own = scores[..., start : start + length]
            here = min(each, own.shape[-1])
            found.append(start + largest_slices(own, here, count, name))
        return jnp.concatenate(found, axis=-1)

    return choose
