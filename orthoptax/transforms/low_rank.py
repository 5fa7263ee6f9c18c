# SPDX-License-Identifier: Apache-2.0
"""One power step toward the leading singular directions: Dion's compressor."""

import functools
import math
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Compressed, Compressor, Qr, matrix_link
from orthoptax.layout.names import map_named
from orthoptax.matrix.inner import local
from orthoptax.matrix.norms import near_one
from orthoptax.matrix.qr import randomized_cholesky_qr


class LowRankState(NamedTuple):
    """basis: Q, {matrix name: (..., columns of the tall matrix, rank)}."""

    basis: Any


@matrix_link
def low_rank(
    rank_fraction: float | None = None,
    *,
    rank: int | None = None,
    multiple_of: int = 1,
    steps: int = 1,
    qr: Qr | None = None,
    eps: ArrayLike = 0.0,
    tall: bool = True,
    key: jax.Array | None = None,
    basis_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Compressor:
    """Follows the leading singular directions of each matrix by a power iteration.

    Matrices with fewer rows than columns are transposed around it, so B is tall.

        P <- orthonormal columns of B Q            repeated `steps` times,
        R <- B^T P;  Q <- R                        each from the last R
        Q <- R / (||R_column|| + eps)              kept for the next update
        out = P Q^T,  kept = P R^T                 kept = P P^T B

    A column of R at the rounding level of the largest says nothing of B: it adds
    nothing to `out` and leaves its column of Q as it was. So zero goes to zero, with Q
    unchanged. NaN is not repaired.

    Args:
      rank_fraction: rank over min(rows, cols), in (0, 1]; None: 1. Static.
      rank: the rank itself, instead of the fraction. Static.
      multiple_of: the rank that a fraction gives is rounded up to a multiple of this,
        at most min(rows, cols). Static.
      steps: power iterations an update. Static.
      qr: orthonormal columns of B Q, see `orthoptax.matrix`; their signs cancel. None:
        `randomized_cholesky_qr()`. Static.
      eps: added to the column norms, absolute; for parity. Traceable.
      tall: False never transposes: P then has as many rows as the matrix. Static.
      key: of the first Q; None: `jax.random.key(0)`. Each matrix folds in its name.
      basis_dtype: dtype of Q; None: the parameter's. Static.
      precision: of every product; None means HIGHEST. Static.
    State:
      basis: Q, normal at first, {matrix name: (..., columns of B, rank)}.
    Returns: a `Compressor`, for `error_feedback(b1, on_matrices(low_rank(...)))`;
      products are in float32 or wider.
    Raises: ValueError for a fraction outside (0, 1], a fraction and a rank, in `init`
      for a rank larger than a matrix or a leaf with fewer than two axes; TypeError for
      a traced fraction or count.
    Example:
      >>> tx, b = low_rank(rank=1), {"w": jnp.diag(jnp.asarray([3.0, 0.0]))}
      >>> pair, _ = tx.update(b, tx.init(b))
      >>> [round(float(x["w"][0, 0]), 3) for x in pair]
      [1.0, 3.0]

    Deviations: the authors add 1e-8 to the column norms, which shrinks the update of
      small gradients; they test the whole B for zero where we test columns of R, and
      replace NaN by 0. dion_simple.py never transposes: `tall=False`.
    Source: Ahn et al., Dion, arXiv:2504.05295, Algorithm 1; code
      microsoft/dion@0a059a4, dion_reference.py, dion_simple.py.
    """
    if rank is None:
        rank_fraction = 1.0 if rank_fraction is None else rank_fraction
    _check_rank(rank_fraction, rank, multiple_of)
    _check.count("low_rank", "steps", steps)
    _check.in_range("low_rank", "eps", eps)
    qr = randomized_cholesky_qr() if qr is None else qr
    _check.is_callable("low_rank", "qr", qr, "householder_qr()")
    precision = lax.Precision.HIGHEST if precision is None else precision
    size = functools.partial(_rank, fraction=rank_fraction, rank=rank, unit=multiple_of)
    step = functools.partial(_power_step, steps=steps, qr=qr, precision=precision)

    def init(params: optax.Params) -> LowRankState:
        first = jax.random.key(0) if key is None else key

        def basis(name: str, p: jax.Array) -> jax.Array:
            _check.is_matrix("low_rank", name, p.shape)
            own = jax.random.fold_in(first, zlib.crc32(name.encode()))
            cols = min(p.shape[-2:]) if tall else p.shape[-1]
            shape = (*p.shape[:-2], cols, size(name, p.shape))
            draw = jax.random.normal(own, shape, work_dtype(p.dtype))
            return draw.astype(basis_dtype or p.dtype)

        return LowRankState(map_named(basis, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[Compressed, LowRankState]:
        del params, extra

        def leaf(u: jax.Array, q: jax.Array) -> tuple[jax.Array, ...]:
            work = work_dtype(wider(u.dtype, q.dtype))
            turned = tall and u.shape[-2] < u.shape[-1]
            turn = lambda x: x.mT if turned else x
            out, kept, new = step(turn(u).astype(work), q.astype(work), eps=eps)
            back = lambda x: turn(x).astype(u.dtype)
            return back(out), back(kept), new.astype(q.dtype)

        triples = jax.tree.map(leaf, updates, state.basis)
        pick = lambda i: jax.tree.map(lambda _, t: t[i], updates, triples)
        return Compressed(pick(0), pick(1)), LowRankState(pick(2))

    return Compressor(init, update)


def _check_rank(fraction: float | None, rank: int | None, unit: int) -> None:
    """Raises unless exactly one of fraction and rank is given, and both make sense."""
    _check.count("low_rank", "multiple_of", unit)
    if fraction is not None:
        _check.fraction("low_rank", "rank_fraction", fraction)
    if rank is not None:
        _check.count("low_rank", "rank", rank)
    if None not in (fraction, rank):
        raise ValueError(
            _check.message(
                "low_rank",
                f"rank_fraction={fraction} and rank={rank} are both given",
                "one of them",
                "Leave one out",
            )
        )


def _rank(
    name: str,
    shape: tuple[int, ...],
    *,
    fraction: float | None,
    rank: int | None,
    unit: int,
) -> int:
    """The rank for a matrix of this shape."""
    short = min(shape[-2:])
    if rank is None:
        return min(short, unit * math.ceil((fraction or 1.0) * short / unit))
    if rank > short:
        raise ValueError(
            _check.message(
                "low_rank",
                f"rank={rank} is larger than {name!r} of shape {tuple(shape)}",
                f"at most {short}",
                "Change rank, or pass rank_fraction=",
            )
        )
    return rank


def _power_step(
    b: jax.Array,
    q: jax.Array,
    *,
    steps: int,
    qr: Qr,
    eps: ArrayLike,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(P Q^T, P R^T, Q) of (..., m, n) and its (..., n, rank) basis."""
    product = functools.partial(jnp.matmul, precision=precision)
    r, p = q, b
    for _ in range(steps):
        p = qr(product(b, near_one(r, local)))  # a power of two, no digit moves
        r = product(b.mT, p)
    scaled = near_one(r, local)
    norms = jnp.linalg.norm(scaled, axis=-2, keepdims=True)
    noise = max(b.shape[-2:]) * jnp.finfo(b.dtype).eps
    dead = norms <= noise * jnp.max(norms, axis=-1, keepdims=True, initial=0)
    unit = local.largest(r) / jnp.where(dead, 1, local.largest(scaled))
    lengths = norms + jnp.asarray(eps).astype(b.dtype) / jnp.where(dead, 1, unit)
    fresh = scaled / jnp.where(dead, 1, lengths)
    out = product(p, jnp.where(dead, 0, fresh).mT)
    return out, product(p, r.mT), jnp.where(dead, q, fresh)
