# SPDX-License-Identifier: Apache-2.0
"""One power step toward the leading singular directions: Dion's compressor."""

import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Compressed, Compressor, PartCompressor, Qr, matrix_link
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.matrix.norms import near_one
from orthoptax.matrix.part import Part, whole
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
    _check_rank(rank_fraction, rank, multiple_of, steps)
    _check.in_range("low_rank", "eps", eps)
    qr = randomized_cholesky_qr() if qr is None else qr
    _check.is_callable("low_rank", "qr", qr, "householder_qr()")
    size = functools.partial(_rank, fraction=rank_fraction, rank=rank, unit=multiple_of)
    fixed = {"steps": steps, "qr": qr, "eps": eps, "precision": precision}
    step = functools.partial(_power_step, **fixed)

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
        *,
        parts: Mapping[str, Part] | None = None,
        **extra: Any,
    ) -> tuple[Compressed, LowRankState]:
        del params, extra
        basis = named_leaves(state.basis)
        groups, turned = _groups(named_leaves(updates), basis, parts, tall)
        found: dict[str, tuple[jax.Array, ...]] = {}
        for part, members in groups:
            width = size(next(iter(members)), part.shape)
            found |= _stacked(functools.partial(step, part=part, rank=width), members)
        back = lambda name, x: x.mT if turned[name] else x
        out, kept = (
            map_named(lambda n, u, i=i: back(n, found[n][i]).astype(u.dtype), updates)
            for i in (0, 1)
        )
        new = lambda name, q: found[name][2].astype(q.dtype)
        return Compressed(out, kept), LowRankState(map_named(new, state.basis))

    return PartCompressor(init, update)


def _check_rank(
    fraction: float | None, rank: int | None, unit: int, steps: int
) -> None:
    """Raises unless exactly one of fraction and rank is given, and all make sense."""
    _check.count("low_rank", "multiple_of", unit)
    _check.count("low_rank", "steps", steps)
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


def _groups(
    leaves: dict[str, jax.Array],
    basis: dict[str, jax.Array],
    parts: Mapping[str, Part] | None,
    tall: bool,
) -> tuple[list[tuple[Part, dict[str, tuple[jax.Array, jax.Array]]]], dict[str, bool]]:
    """([(part, {name: (B, Q)})] of matrices that are alike, {name: transposed}).

    Alike only where parts are given: their sums then travel together.
    """
    groups: dict[Any, tuple[Part, dict[str, tuple[jax.Array, jax.Array]]]] = {}
    turned: dict[str, bool] = {}
    for name, u in leaves.items():
        part = whole(u) if parts is None else parts[name]
        turned[name] = tall and part.shape[0] < part.shape[1]
        b, part = (u.mT, part.turned()) if turned[name] else (u, part)
        b = b.astype(work_dtype(wider(u.dtype, basis[name].dtype)))
        alike = part, b.shape[-2:], b.dtype, name if parts is None else None
        members = groups.setdefault(alike, (part, {}))[1]
        members[name] = b, basis[name].astype(b.dtype)
    return list(groups.values()), turned


def _stacked(fn: Any, members: dict[str, tuple[jax.Array, jax.Array]]) -> Any:
    """{name: fn(b, q)} of (..., m, n) and (..., n, r) leaves, one stack for all."""
    if len(members) == 1:
        ((name, pair),) = members.items()
        return {name: fn(*pair)}
    flat = {n: [x.reshape(-1, *x.shape[-2:]) for x in p] for n, p in members.items()}
    results = fn(*(jnp.concatenate(xs) for xs in zip(*flat.values(), strict=True)))
    found, start = {}, 0
    for name, (b, _) in flat.items():
        rows = [x[start : start + b.shape[0]] for x in results]
        lead = members[name][0].shape[:-2]
        found[name] = tuple(x.reshape(*lead, *x.shape[-2:]) for x in rows)
        start += b.shape[0]
    return found


def _power_step(
    b: jax.Array,
    q: jax.Array,
    *,
    part: Part,
    rank: int,
    steps: int,
    qr: Qr,
    eps: ArrayLike,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(P Q^T, P R^T, Q) of (..., m, n) and its (..., n, rank) basis, or parts of them.

    Where the matrix is cut, the basis has the rows that belong to its columns here, and
    all of its own columns or, as rows are cut, a part of them.
    """
    precision = lax.Precision.HIGHEST if precision is None else precision
    product = functools.partial(jnp.matmul, precision=precision)
    if sum(part.shape) * rank >= math.prod(part.shape):  # the factors are no smaller
        b, part = part.average(b)
    cols, own = part.over_cols(), q.shape[-1]
    if own != rank:
        q = lax.all_gather(q, part.rows, axis=q.ndim - 1, tiled=True)
    r, p = q, b
    for _ in range(steps):
        near = near_one(r, cols)  # a power of two, no digit moves
        p = _orthonormal(product(b, near), part, qr)
        r = part.total(product(b.mT, p), part.rows)
    scaled = near_one(r, cols)
    norms = jnp.sqrt(cols.columns(scaled))
    noise = max(part.shape) * jnp.finfo(b.dtype).eps
    dead = norms <= noise * jnp.max(norms, axis=-1, keepdims=True, initial=0)
    unit = cols.largest(r) / jnp.where(dead, 1, cols.largest(scaled))
    lengths = norms + jnp.asarray(eps).astype(b.dtype) / jnp.where(dead, 1, unit)
    fresh = scaled / jnp.where(dead, 1, lengths)
    out = product(p, jnp.where(dead, 0, fresh).mT)
    new = jnp.where(dead, q, fresh)
    if own != rank:
        start = lax.axis_index(part.rows) * own
        new = lax.dynamic_slice_in_dim(new, start, own, axis=-1)
    return out, product(p, r.mT), new


def _orthonormal(p: jax.Array, part: Part, qr: Qr) -> jax.Array:
    """Orthonormal columns of the sum of everyone's P; stacks are shared out."""
    stack = p.reshape(-1, *p.shape[-2:])
    rows = {"inner": part.over_rows()} if part.rows else {}
    shared = part.share(stack, part.cols)
    if shared is None:
        return qr(part.total(p, part.cols), **rows)
    own, short = shared
    return part.unshare(qr(own, **rows), part.cols, short).reshape(p.shape)
