# SPDX-License-Identifier: Apache-2.0
"""AuON's scale: the root-mean-square of a hyperbolic cosine, no matrix product."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_matrix
from orthoptax._dtypes import work_dtype
from orthoptax._types import matrix_link
from orthoptax.layout.names import map_named
from orthoptax.matrix.running import divide, norm


@matrix_link
def energy_scale(
    gamma: ArrayLike = 1.5,
    *,
    normalize: bool = False,
    eps: ArrayLike = 0.0,
    rms_eps: ArrayLike = 0.0,
    axes: tuple[int, ...] | None = (-2, -1),
) -> optax.GradientTransformationExtraArgs:
    """Divides each matrix by the root-mean-square of the cosh of its entries.

    Costs one pass over the entries. The divisor lies between 1 and cosh(gamma).

        X <- U / (||U||_F + eps)
        r <- sqrt(mean(cosh(gamma X)^2))
        U <- U / (r + rms_eps)                        X / (r + rms_eps) if normalize

    Args:
      gamma: strength, not negative. Traceable.
      normalize: pass on X, of norm 1, instead of U. Static.
      eps: added to the norm, for parity with an author's code. Traceable.
      rms_eps: added to r, likewise. Traceable.
      axes: what norm and mean are taken over; None: the whole leaf, for use outside
        `on_matrices` on leaves of any number of axes. Static.
    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. Zero stays zero.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes
      unless `axes` is None.
    Example:
      >>> tx = energy_scale(normalize=True)
      >>> u, _ = tx.update({"w": jnp.full((8, 8), 3e30)}, tx.init({}))
      >>> round(float(jnp.linalg.norm(u["w"])), 3)
      0.983

    Deviations: the paper normalizes and has gamma 1, the authors' code does not
      normalize and has 1.5. As |X| <= 1, r = sqrt(1 + gamma^2/N) nearly for N entries:
      without `normalize` this link changes next to nothing.
    Source: Maity, AuON, arXiv:2509.24320, section 3.1; code ryyzn9/AuON@bba2e82 (eps
      1e-7, rms_eps 1e-8).
    """
    for name, value in (("gamma", gamma), ("eps", eps), ("rms_eps", rms_eps)):
        in_range("energy_scale", name, value)

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra

        def leaf(name: str, u: jax.Array) -> jax.Array:
            if axes is not None:
                is_matrix("energy_scale", name, u.shape)
            along = tuple(range(u.ndim)) if axes is None else axes
            y = u.astype(work_dtype(u.dtype))
            size = norm(y, along)
            g, e, e_rms = (
                jnp.asarray(x).astype(size.dtype) for x in (gamma, eps, rms_eps)
            )
            x = divide(y, (size + e).astype(y.dtype))
            cosh = jnp.cosh(g * jnp.abs(x))  # of at most gamma, so it stays in range
            r = jnp.sqrt(jnp.mean(cosh * cosh, axis=along, keepdims=True))
            divisor = (r + e_rms).astype(y.dtype)
            return ((x if normalize else y) / divisor).astype(u.dtype)

        return map_named(leaf, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
