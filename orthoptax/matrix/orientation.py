# SPDX-License-Identifier: Apache-2.0
"""Small side first: kernels work on matrices with no more rows than columns."""

import jax

from orthoptax._types import Polar


def flip(x: jax.Array) -> jax.Array:
    """The transpose if (..., m, n) has m > n, else x; its own inverse by shape."""
    return x.mT if x.shape[-2] > x.shape[-1] else x


def small_side_first(polar: Polar) -> Polar:
    """Lets a kernel meant for m <= n take any (..., m, n), through the transpose.

    Args:
      polar: a kernel with polar(X^T) = polar(X)^T. Static.
    Returns: a `Polar` for any m and n.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.newton_schulz import newton_schulz
      >>> small_side_first(newton_schulz())(jnp.ones((5, 2))).shape
      (5, 2)

    Source: KellerJordan/Muon@857d1ad, muon.py.
    """

    def oriented(x: jax.Array) -> jax.Array:
        y = polar(flip(x))
        return y.mT if x.shape[-2] > x.shape[-1] else y

    return oriented
