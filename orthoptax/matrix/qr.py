# SPDX-License-Identifier: Apache-2.0
"""Orthonormal columns: from (..., p, q) tall matrices to Q with Q^H Q = I, P = Q R.

Each constructor returns a `Qr`, a function `qr(x, *, inner=local)`. Work is done in
float32 or wider, per matrix, on P over a power of two near its largest entry, so its
squares stay in range; the zero matrix maps to zero. With p <= q all are Householder's.

`inner` may sum over a mesh axis that cuts p. Then the randomized kernel exchanges
P^H P (q x q), S P (sketch x q) and the largest entry; a column that depends on earlier
ones becomes zero there. The others gather the matrix: whether they need to shows only
in the numbers, and no collective may stand in a branch.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax._check import count, in_range, message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Qr
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.norms import near_one

_NOISE = 10.0  # roundings of a column's squares that make a pivot worthless

_Made = tuple[jax.Array, jax.Array | None] | None
_Factor = Callable[[jax.Array, _inner.Inner], _Made]
"""Q and the pivots of its last R (None: it cannot fail); or None: use Householder."""


def householder_qr() -> Qr:
    """Q by Householder reflections: orthonormal whatever the matrix.

    Signs are LAPACK's (R may have a negative diagonal). Columns that depend on earlier
    ones become some orthonormal completion.

    Returns: a `Qr`; for p < q the p x p factor.
    Example:
      >>> import jax.numpy as jnp
      >>> q = householder_qr()(jnp.asarray([[3.0], [4.0]]))
      >>> [round(abs(float(v)), 3) for v in q[:, 0]]
      [0.6, 0.8]

    Source: Householder, 1958; microsoft/dion@0a059a4, dion_reference.py, `qr`.
    """
    return _qr(lambda x, inner: None)


def cholesky_qr() -> Qr:
    """Q from one Cholesky factorization: cheap, for well-conditioned matrices.

        R^H R <- P^H P;   Q <- P R^-1             R upper triangular, diag(R) > 0

    |Q^H Q - I| is about condition^2 times the rounding: in float32 near 1e-2 at 1e3.
    A matrix with a pivot at the rounding level of its column (a condition in the
    thousands in float32, a dependent column) gets Householder's Q; its neighbours in a
    batch do not.

    Returns: a `Qr`.
    Example:
      >>> import jax.numpy as jnp
      >>> cholesky_qr()(jnp.asarray([[3.0], [-4.0]])).round(3)[:, 0].tolist()
      [0.6000000238418579, -0.800000011920929]

    Deviations: the authors fall back only where the factorization breaks down, which it
      may survive with columns that are nowhere near orthogonal, and for p > q on the
      randomized form.
    Source: microsoft/dion@0a059a4, dion_reference.py, `cqr`.
    """
    return _qr(_cholesky)


def cholesky_qr2() -> Qr:
    """Q from `cholesky_qr` twice: orthonormal to rounding wherever the first succeeds.

        P <- P R_1^-1;   Q <- P R_2^-1

    Returns: a `Qr`.
    Example:
      >>> import jax.numpy as jnp
      >>> q = cholesky_qr2()(jnp.asarray([[1.0, 1.0], [1.0, 1.01], [1.0, 1.0]]))
      >>> bool(abs(q.T @ q - jnp.eye(2)).max() < 1e-5)
      True

    Source: Fukaya et al., CholeskyQR2, 2014.
    """
    return _qr(_twice)


def randomized_cholesky_qr(
    oversample: float = 1.25,
    *,
    multiple_of: int = 128,
    key: jax.Array | None = None,
    sketch: jax.Array | None = None,
) -> Qr:
    """Q by Cholesky after a sketch has made the matrix well-conditioned.

        d <- oversample q, rounded up to a multiple;   S (d, p) with entries N(0, 1/d)
        R_1 <- of the Householder QR of S P;     P <- P R_1^-1
        Q <- cholesky_qr(P)

    Orthonormal near rounding at any condition; S shows in the rounding only. A sketch
    with as many rows as P would cost more than it saves: without `sketch`, Householder
    is used there.

    Args:
      oversample: sketch rows a column, above 1. Static.
      multiple_of: sketch rows are rounded up to a multiple of it. Static.
      key: of the sketch, the same for every matrix and call; None:
        `jax.random.key(0)`. Devices that hold rows of P fold in their index.
      sketch: S itself, (d, rows of P that are here), for parity; d as it comes.
    Returns: a `Qr`.
    Raises: ValueError if `oversample` is below 1, or `multiple_of` is; in a call if
      `sketch` does not fit.
    Example:
      >>> import jax
      >>> qr = randomized_cholesky_qr(multiple_of=8)
      >>> qr(jax.random.normal(jax.random.key(1), (20, 3))).shape
      (20, 3)

    Source: Fan et al., arXiv:2111.11148; microsoft/dion@0a059a4, dion_reference.py,
      `rcqr`.
    """
    in_range("randomized_cholesky_qr", "oversample", oversample, 1.0)
    count("randomized_cholesky_qr", "multiple_of", multiple_of)

    def factor(x: jax.Array, inner: _inner.Inner) -> _Made:
        rows, cols = x.shape[-2:]
        real = x.real.dtype
        if sketch is None:
            d = multiple_of * math.ceil(oversample * cols / multiple_of)
            if d >= inner.shape(x.mT)[1]:
                return None
            own = jax.random.key(0) if key is None else key
            if inner.axis_name is not None:
                own = jax.random.fold_in(own, lax.axis_index(inner.axis_name))
            s = jax.random.normal(own, (d, rows), real) / math.sqrt(d)
        else:
            s = sketch.astype(real)
            if s.ndim != 2 or s.shape[1] != rows or s.shape[0] < cols:
                raise ValueError(_misfit(s.shape, rows, cols))
        s = jnp.broadcast_to(s.astype(x.dtype), (*x.shape[:-2], *s.shape))
        small = inner.product(s, _adjoint(x))  # S P
        r = each(lambda x: jnp.linalg.qr(x, mode="r"), small)
        if inner.axis_name is not None:
            return _independent(x, r, inner)
        return _cholesky(each(_over, r, x), inner)

    return _qr(factor)


def _misfit(shape: tuple[int, ...], rows: int, cols: int) -> str:
    return message(
        "randomized_cholesky_qr",
        f"sketch of shape {shape} does not fit a matrix of {rows} rows",
        f"(d, {rows}) with d of at least {cols}",
        "Pass another sketch, or none",
    )


def _qr(factor: _Factor) -> Qr:
    """The `Qr` that takes what `factor` makes, and Householder's Q where it fails."""

    def qr(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        y = near_one(x.astype(work_dtype(x.dtype)), inner)
        tall = inner.shape(y.mT)[1] > y.shape[-1]
        made = factor(y, inner) if tall else None
        q = _or_householder(made, y, inner)
        return jnp.where(inner.largest(y) == 0, 0, q).astype(x.dtype)

    return qr


def _cholesky(x: jax.Array, inner: _inner.Inner) -> tuple[jax.Array, jax.Array]:
    """P R^-1, and the pivots of R: NaN where they are noise or there are none."""
    h = _adjoint(x)
    gram = inner.product(h, h)
    # JAX's factor is the lower L = R^H; where it breaks down, all of that L is NaN.
    low = each(_lower, gram)
    q = each(_over_adjoint, low, x)
    pivots, squares = _diagonal(low), _diagonal(gram)
    # A pivot squared is what is left of its column's squares after subtractions.
    return q, jnp.where(pivots**2 > _noise(x) * squares, pivots, jnp.nan)


def _independent(
    x: jax.Array, r: jax.Array, inner: _inner.Inner
) -> tuple[jax.Array, None]:
    """P R^-1 made orthonormal, zero where R says that a column depends on others.

    For matrices whose rows are cut: it cannot fail, so nothing has to be gathered.
    """
    lengths = jnp.linalg.norm(r, axis=-2)
    noise = 2 * math.sqrt(r.shape[-1]) * float(jnp.finfo(x.dtype).eps)
    dead = jnp.abs(_diagonal(r)) <= noise * lengths
    one = jnp.where(dead, 1, 0).astype(x.dtype)
    eye = jnp.eye(r.shape[-1], dtype=x.dtype)
    r = jnp.where(eye * one[..., None, :] == 1, 1, r)
    x = each(_over, r, x)
    x = jnp.where(dead[..., None, :], 0, x)
    h = _adjoint(x)
    gram = inner.product(h, h) + eye * one[..., None, :]
    return each(_over_adjoint, each(_lower, gram), x), None


def _noise(x: jax.Array) -> float:
    """The squared pivot over its column's squares at which it is rounding alone."""
    return _NOISE * math.sqrt(x.shape[-1]) * float(jnp.finfo(x.dtype).eps)


def _twice(x: jax.Array, inner: _inner.Inner) -> tuple[jax.Array, jax.Array]:
    return _cholesky(_cholesky(x, inner)[0], inner)


def _or_householder(made: _Made, x: jax.Array, inner: _inner.Inner) -> jax.Array:
    """What was made, but Householder's Q for each matrix with a NaN pivot."""
    if made is None:
        return _householder(x, inner)
    q, pivots = made
    if pivots is None:
        return q
    failed = jnp.any(jnp.isnan(pivots), axis=-1)[..., None, None]
    if inner.axis_name is not None:
        return jnp.where(failed, _householder(x, inner), q)
    # One branch for the whole batch: no reflections at all where nothing failed.
    return lax.cond(
        jnp.any(failed),
        lambda q, x: jnp.where(failed, _householder(x, inner), q),
        lambda q, x: q,
        q,
        x,
    )


def _householder(x: jax.Array, inner: _inner.Inner) -> jax.Array:
    """Q of the reduced QR; of a matrix whose rows are cut, this device's rows."""
    if inner.axis_name is None:
        return each(_orthonormal, x)
    whole = lax.all_gather(x, inner.axis_name, axis=x.ndim - 2, tiled=True)
    rows = x.shape[-2]
    start = lax.axis_index(inner.axis_name) * rows
    q = each(_orthonormal, whole)
    return lax.dynamic_slice_in_dim(q, start, rows, axis=-2)


def _orthonormal(x: jax.Array) -> jax.Array:
    return jnp.linalg.qr(x)[0]


def _lower(x: jax.Array) -> jax.Array:
    return lax.linalg.cholesky(x, symmetrize_input=False)


def _over(r: jax.Array, x: jax.Array) -> jax.Array:
    """X R^-1, R upper triangular."""
    return lax.linalg.triangular_solve(r, x, left_side=False, lower=False)


def _over_adjoint(low: jax.Array, x: jax.Array) -> jax.Array:
    """X L^-H, L lower triangular."""
    return lax.linalg.triangular_solve(
        low, x, left_side=False, lower=True, transpose_a=True, conjugate_a=True
    )


def each(fn: Callable[..., jax.Array], *stacks: jax.Array) -> jax.Array:
    """fn of every matrix of (..., m, n) stacks, on CPU one after the other.

    There LAPACK calls of a batch that run at the same time (on several devices of one
    process, say) can wait for each other for ever, as of jaxlib 0.10.2.
    """
    lead = stacks[0].shape[:-2]
    if math.prod(lead) <= 1:
        return fn(*stacks)
    flat = [x.reshape(-1, *x.shape[-2:]) for x in stacks]
    y = lax.platform_dependent(
        *flat, cpu=lambda *xs: lax.map(lambda x: fn(*x), xs), default=fn
    )
    return y.reshape(*lead, *y.shape[-2:])


def _diagonal(x: jax.Array) -> jax.Array:
    return jnp.real(jnp.diagonal(x, axis1=-2, axis2=-1))


def _adjoint(x: jax.Array) -> jax.Array:
    return jnp.conj(x).mT
