# SPDX-License-Identifier: Apache-2.0
"""The gradient times the inverse Fisher matrix of a window of gradients."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from orthoptax._check import count as is_count
from orthoptax._check import in_range, message
from orthoptax._dtypes import work_dtype, zeros_beside
from orthoptax.layout.names import named_leaves
from orthoptax.matrix.running import divide, power_of_two
from orthoptax.transforms import _tree

WINDOW = 32
MAX_BYTES = 2**33
_LIFT = 8  # roundings, times sqrt(m), that keep the small matrix positive definite


class InverseFisherState(NamedTuple):
    """State of `inverse_fisher`.

    count: int32, calls. skipped: int32, gradients that were not finite. cosines:
    (m, m), between the gradients of the window. norms: (m,). window: {leaf name:
    (m, *shape)}; where a tree has no leaves, one int32 zero.
    """

    count: jax.Array
    skipped: jax.Array
    cosines: jax.Array
    norms: jax.Array
    window: Any


def inverse_fisher(
    window: int | None = None,
    *,
    damping: ArrayLike = 1e-5,
    max_bytes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the gradient by the inverse of the Fisher matrix of the last ones.

        G <- the last m gradients, one a row, g at its place p       zeros at first
        F = damping I + G^T G / m                    over all leaves, never formed
        U <- F^-1 g = m G^T (m damping I + G G^T)^-1 e_p

    The gradient is in its own window, so the product needs one m x m system and no
    difference of large numbers. m counts while the window still fills.

    Args:
      window: m; more is better and costs m gradients of memory, 2 m products with
        vectors a step and an m x m factorization; the authors use 1024. None: 32.
        Static.
      damping: of F, absolute. Traceable.
      max_bytes: most bytes for the window; more is refused in `init`, before anything
        is allocated. None: 2^33. Static.
    State:
      count: int32 scalar, number of calls.
      skipped: int32 scalar, gradients that were not finite: their update is zero and
        the window stays as it was.
      cosines: (m, m), between the gradients of the window, float32 or wider.
      norms: (m,), their norms.
      window: the gradients, {leaf name: (m, *shape)}, in the parameter's dtype.
    Returns: a `GradientTransformationExtraArgs`. Sums are in float32 or wider, over the
      leaves of the group it is in.
    Raises: ValueError for a number out of range, and in `init` for a window of more
      than `max_bytes`.
    Example:
      >>> tx, g = inverse_fisher(1, damping=1.0), {"w": jnp.asarray([4.0, 0.0])}
      >>> (17 * tx.update(g, tx.init(g))[0]["w"]).round(3).tolist()
      [4.0, 0.0]

    Deviations: the authors recurse over the window, which equals this; their float32
      loses digits to a difference where |g|^2 is far above m damping. The system is
      solved at unit diagonal, of which damping is 8 sqrt(m) roundings at least, so that
      gradients of any scale, and equal ones, have an answer. Blocks of parameters are
      groups here.
    Source: Frantar et al., M-FAC, arXiv:2107.03356; code IST-DASLab/M-FAC@8116367,
      optim.py.
    """
    window = WINDOW if window is None else window
    max_bytes = MAX_BYTES if max_bytes is None else max_bytes
    is_count("inverse_fisher", "window", window)
    is_count("inverse_fisher", "max_bytes", max_bytes)
    in_range("inverse_fisher", "damping", damping)

    def init(params: optax.Params) -> InverseFisherState:
        leaves = named_leaves(params)
        _affordable(leaves, window, max_bytes)
        real = _tree.real_dtype(params)
        wide = lambda p: jnp.broadcast_to(zeros_beside(p)[None], (window, *p.shape))
        return InverseFisherState(
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((window, window), real),
            jnp.zeros(window, real),
            {n: wide(p) for n, p in leaves.items()} or jnp.zeros((), jnp.int32),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, InverseFisherState]:
        del params, extra
        if not (leaves := named_leaves(updates)):
            return updates, state
        now = {n: g.astype(state.window[n].dtype) for n, g in leaves.items()}
        size = _tree.norm(now, state.norms.dtype)
        good = jnp.isfinite(size)
        place = (state.count - state.skipped) % window

        def put(rows: jax.Array, g: jax.Array) -> jax.Array:
            g = jnp.where(good, g, jnp.take(rows, place, axis=0))
            return lax.dynamic_update_index_in_dim(rows, g, place, 0)

        rows = jax.tree.map(put, state.window, now)
        norms = jnp.where(good, state.norms.at[place].set(size), state.norms)
        row = _cosines(rows, now, size, norms)
        cosines = state.cosines.at[place, :].set(row).at[:, place].set(row)
        cosines = jnp.where(good, cosines, state.cosines)
        weights = _weights(cosines, norms, place, damping)

        found = [_product(rows[n], *weights, good, u) for n, u in leaves.items()]
        updates = jax.tree.unflatten(jax.tree.structure(updates), found)
        skipped = state.skipped + jnp.where(good, 0, 1).astype(jnp.int32)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, InverseFisherState(count, skipped, cosines, norms, rows)

    return optax.GradientTransformationExtraArgs(init, update)


def _cosines(rows: Any, now: Any, size: jax.Array, norms: jax.Array) -> jax.Array:
    """(m,): the cosines of the rows of a window and one more vector of this size."""
    unit = power_of_two(size)

    def leaf(rows: jax.Array, g: jax.Array) -> jax.Array:
        work = work_dtype(rows.dtype)
        products = (
            jnp.conj(rows.astype(work)) * (g.astype(work) / unit.astype(work))[None]
        )
        axes = tuple(range(1, rows.ndim))
        return jnp.real(jnp.sum(products, axis=axes)).astype(size.dtype)

    along = _tree.total(jax.tree.map(leaf, rows, now), size.dtype)
    return divide(divide(along, size / unit), norms)


def _weights(
    cosines: jax.Array, norms: jax.Array, place: jax.Array, damping: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """(w, c) with m (m damping I + S)^-1 e_p = c w, S the Gram matrix.

    With T = sqrt(m damping + diag S) it is m T^-1 (T^-1 (m damping I + S) T^-1)^-1
    T^-1 e_p. What is inverted has a unit diagonal and is formed without a square.
    """
    m, dtype = len(norms), norms.dtype
    least = jnp.sqrt(m * jnp.asarray(damping).astype(dtype))
    t = jnp.hypot(least, norms)
    t = jnp.where(t == 0, 1, t)
    share, rest = norms / t, least / t
    lift = _LIFT * math.sqrt(m) * float(jnp.finfo(dtype).eps)
    diagonal = jnp.maximum(rest * rest, lift)
    system = cosines * share[:, None] * share[None, :] + jnp.diag(diagonal)
    unit = jnp.zeros(m, dtype).at[place].set(1)
    factor = jax.scipy.linalg.cho_factor(system, lower=True)
    solved = jax.scipy.linalg.cho_solve(factor, unit)
    return solved / t, m / t[place]


def _product(
    rows: jax.Array, weights: jax.Array, factor: jax.Array, good: Any, like: jax.Array
) -> jax.Array:
    """factor times the weighted sum of the rows, or 0, in the dtype of `like`."""
    work = work_dtype(rows.dtype)
    w = weights.astype(work).reshape(-1, *[1] * (rows.ndim - 1))
    found = jnp.sum(rows.astype(work) * w, axis=0) * factor.astype(work)
    return jnp.where(good, found, 0).astype(like.dtype)


def _affordable(leaves: dict[str, Any], window: int, max_bytes: int) -> None:
    """Raises if a window of the leaves takes more than so many bytes."""
    sizes = [math.prod(p.shape) for p in leaves.values()]
    needed = window * sum(
        n * jnp.dtype(p.dtype).itemsize
        for n, p in zip(sizes, leaves.values(), strict=True)
    )
    if needed > max_bytes:
        raise ValueError(
            message(
                "inverse_fisher",
                f"a window of {window} gradients of {sum(sizes):,} parameters takes "
                f"{needed:,} bytes",
                f"at most max_bytes={max_bytes:,}",
                "Lower window, raise max_bytes, or leave large parameters to another "
                "optimizer",
            )
        )
