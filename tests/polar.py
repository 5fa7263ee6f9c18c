# SPDX-License-Identifier: Apache-2.0
"""How a polar kernel's result is measured, and what it may lose to another's."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

ALLOWED = 0.002
"""What band and cosine may be worse by."""
LARGEST = 1.35
"""The norm that no result may pass."""


class Result(NamedTuple):
    """What is measured of a result.

    band: the largest distance from 1 of as many singular values, from the largest on,
    as the matrix has above the rounding. cosine: to the exact factor, in float64. norm:
    the largest singular value.
    """

    band: float
    cosine: float
    norm: float


def beside_exact(polar, x: np.ndarray, rounding: float = 0.0) -> Result:
    """Of a kernel's result for a matrix; it must be finite.

    rounding: relative, of the matrix where it enters a product; what lies below comes
    out as chance has it.
    """
    u, s, vh = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    exact = u * (s > 1e-12 * s[0]) @ vh
    o = np.asarray(polar(jnp.asarray(x, jnp.float32)), np.float64)
    assert np.isfinite(o).all()
    own = np.linalg.svd(o, compute_uv=False)
    cosine = np.sum(o * exact) / np.linalg.norm(o) / np.linalg.norm(exact)
    reached = np.abs(own - 1)[: max(1, np.sum(s > rounding * s[0]))]
    return Result(reached.max(), cosine, own[0])
