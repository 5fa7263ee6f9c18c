# SPDX-License-Identifier: Apache-2.0
"""Where weights may be: what a step arrives at, brought back to a set of matrices.

Each constructor returns a `Projection`, a function (new, old, start) of the weights
after the step and before it, (..., rows, cols), and of their Frobenius norm at the
first step, (..., 1, 1).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_callable
from orthoptax._types import Polar, Projection
from orthoptax.matrix.clip import hard_cap
from orthoptax.matrix.inner import local
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.norms import frobenius
from orthoptax.matrix.orientation import small_side_first
from orthoptax.matrix.running import divide, norm
from orthoptax.matrix.schedules import QUINTIC


def sphere(radius: ArrayLike | None = None) -> Projection:
    """Matrices of one Frobenius norm.

        W <- R W / ||W||_F                              0 stays 0

    Args:
      radius: R, not negative; None: the norm at the first step, and weights whose step
        is zero then stay as they are, bit for bit. Traceable.
    Returns: a `Projection`.
    Raises: ValueError if a Python number is negative or NaN.
    Example:
      >>> new = jnp.asarray([[0.0, -3.0]])
      >>> sphere(10.0)(new, new, jnp.ones((1, 1))).tolist()
      [[0.0, -10.0]]

    Source: Emerging-Optimizers@fd77292, muon_hyperball.py.
    """
    if radius is not None:
        in_range("sphere", "radius", radius)

    return _Sphere(radius)


@dataclasses.dataclass(frozen=True)
class _Sphere:
    """See `sphere`."""

    radius: ArrayLike | None

    def __call__(self, new: jax.Array, old: jax.Array, start: jax.Array) -> jax.Array:
        still = jnp.all(new == old, axis=(-2, -1), keepdims=True)
        return self._scaled(frobenius()(new, local).x, old, start, still)

    def by_norm(
        self,
        new: jax.Array,
        old: jax.Array,
        start: jax.Array,
        size: jax.Array,
        step: jax.Array,
    ) -> jax.Array:
        """The same of parts of matrices, given the norms of `new` and of the step."""
        return self._scaled(divide(new, size.astype(new.dtype)), old, start, step == 0)

    def _scaled(
        self, unit: jax.Array, old: jax.Array, start: jax.Array, still: jax.Array
    ) -> jax.Array:
        if self.radius is not None:
            return jnp.asarray(self.radius).astype(unit.dtype) * unit
        return jnp.where(still, old, start.astype(unit.dtype) * unit)


def stiefel(polar: Polar | None = None) -> Projection:
    """Semi-orthogonal matrices: the nearest one, by a polar function.

        W <- polar(W)

    Args:
      polar: see `orthoptax.matrix`; None: `newton_schulz(QUINTIC)`, whose singular
        values end within 4 % of 1; Jordan's schedule would leave them anywhere between
        0.68 and 1.13. Static.
    Returns: a `Projection`.
    Raises: TypeError if `polar` is not a function.
    Example:
      >>> from orthoptax.matrix.exact import svd
      >>> new = jnp.diag(jnp.asarray([3.0, -2.0]))
      >>> stiefel(svd())(new, new, jnp.ones((1, 1))).round(3).tolist()
      [[1.0, 0.0], [0.0, -1.0]]

    Source: SPEL, arXiv:2601.21487; code Emerging-Optimizers@fd77292, spel.py.
    """
    polar = newton_schulz(QUINTIC) if polar is None else polar
    is_callable("stiefel", "polar", polar, "orthoptax.matrix.newton_schulz()")
    oriented = small_side_first(polar)
    return lambda new, old, start: oriented(new)


def spectral_cap(cap: ArrayLike = 1.0, *, polar: Polar | None = None) -> Projection:
    """Matrices without a singular value above a cap.

        W <- U min(S, cap) V^T     of W = U S V^T

    Args:
      cap: not negative. Traceable.
      polar: see `hard_cap`. Static.
    Returns: a `Projection`.
    Raises: ValueError if a Python number is negative or NaN; TypeError if `polar` is
      not a function.
    Example:
      >>> new = jnp.diag(jnp.asarray([3.0, 0.5]))
      >>> spectral_cap(0.75)(new, new, jnp.ones((1, 1))).diagonal().round(2).tolist()
      [0.75, 0.5]

    Source: Emerging-Optimizers@fd77292, spectral_clipping_utils.py, as a projection.
    """
    capped = hard_cap(cap, polar=polar)
    return lambda new, old, start: capped(new)


def radial_brake(outward: ArrayLike = 0.5, inward: ArrayLike = 1.0) -> Projection:
    """Lets the Frobenius norm follow a step only in part.

        s <- outward if ||W'||_F > ||W||_F else inward
        W' <- W' (||W||_F + s (||W'||_F - ||W||_F)) / ||W'||_F

    Args:
      outward: share of a growth that is kept, not negative. Traceable.
      inward: share of a decrease that is kept, not negative. Traceable.
    Returns: a `Projection`.
    Raises: ValueError if a Python number is negative or NaN.
    Example:
      >>> old, new = jnp.asarray([[5.0, 0.0]]), jnp.asarray([[0.0, 8.0]])
      >>> radial_brake()(new, old, jnp.ones((1, 1))).tolist()
      [[0.0, 6.5]]

    Source: Emerging-Optimizers@fd77292, radial brake.
    """
    in_range("radial_brake", "outward", outward)
    in_range("radial_brake", "inward", inward)

    def project(new: jax.Array, old: jax.Array, start: jax.Array) -> jax.Array:
        del start
        was, now = norm(old), norm(new)
        kept = (jnp.asarray(s).astype(now.dtype) for s in (outward, inward))
        goal = was + jnp.where(now > was, *kept) * (now - was)
        return new * (goal / jnp.where(now == 0, 1, now)).astype(new.dtype)

    return project
