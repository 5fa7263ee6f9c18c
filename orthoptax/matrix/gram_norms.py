# SPDX-License-Identifier: Apache-2.0
"""Scales that read the Gram matrix, which the first stage then has for nothing.

Each comes in two forms. Without an epsilon, the library's: entries are first brought
near 1 by a power of two, so that the result does not depend on the scale of the input.
With one, the authors': the epsilon is absolute, and small matrices are shrunk.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from orthoptax._check import in_range, message
from orthoptax._types import Scale, Scaled
from orthoptax.matrix.inner import Inner
from orthoptax.matrix.norms import near_one


@dataclasses.dataclass(frozen=True)
class ByGram:
    """A `Scale` that divides by a number which it reads from the Gram matrix.

    read: (X X^H, inner) -> `Scaled`, the number (..., 1, 1) in the place of X, beside
    X X^H divided by its square. So an iteration that works on X X^H alone can divide
    its result, and X is never touched. near: whether X is first brought near 1, by a
    power of two that leaves eighth powers of its norm as far from the largest number
    as from the least.
    """

    read: Callable[[jax.Array, Inner], Scaled]
    near: bool = True

    def __call__(self, x: jax.Array, inner: Inner) -> Scaled:
        """X divided, beside what `read` made of its Gram matrix."""
        x = self.raw(x, inner)
        norm, gram, square = self.read(inner.gram(x), inner)
        return Scaled(x / norm.astype(x.dtype), gram, square)

    def raw(self, x: jax.Array, inner: Inner) -> jax.Array:
        """What the Gram matrix is to be formed of."""
        if not self.near:
            return x
        # An entry is 2 at most, the norm between 1 and 2 sqrt(mn): to its middle.
        halves = math.frexp(4 * math.prod(inner.shape(x)))[1] // 4
        return near_one(x, inner) * 2.0**-halves


def aol(eps: float | None = None) -> Scale:
    """Divides every row so that no singular value exceeds 1 (almost orthogonal layers).

        A <- X X^H;   d_i <- sum_j |A_ij|
        X_i <- X_i / sqrt(d_i);   A_ij <- A_ij / sqrt(d_i d_j)

    On flat spectra it leaves larger singular values than a norm does, which saves a
    stage. But rows are divided by different numbers, so the polar factor is that of
    D X, not of X, and square matrices and their transposes have different ones.

    Args:
      eps: least d_i, in squared units, absolute: rows of norm below sqrt(eps) are
        shrunk. None: no floor; zero rows stay zero. Traceable.
    Returns: a `Scale` that hands on A.
    Raises: ValueError if `eps` is a negative or NaN Python number.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> aol()(jnp.asarray([[2.0, 0.0], [0.0, 5.0]]), local).x.tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Source: Prach and Lampert, 2022; Boissin et al., Turbo-Muon, arXiv:2512.04632; code
      thib-s/flash-newton-schulz@145260f (eps 1e-7); optax 0.2.8 `aol` (1e-8).
    """
    _floor_in_range("aol", eps)

    def scale(x: jax.Array, inner: Inner) -> Scaled:
        x = near_one(x, inner) if eps is None else x
        gram = inner.gram(x)
        d = jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)
        root = jnp.sqrt(_at_least(d, eps))
        wide = root.astype(gram.dtype)
        return Scaled(x / root.astype(x.dtype), gram / wide / wide.mT)

    return scale


def schatten(eps: float | None = None) -> Scale:
    """Divides by the Schatten-4 norm, ||X X^H||_F^(1/2).

    Between the largest singular value and m^(1/4) times it, where the Frobenius norm
    may be m^(1/2) times it.

    Args:
      eps: least ||X X^H||_F, absolute: a matrix of norm below sqrt(eps) is shrunk.
        None: no floor; zero stays zero. Traceable.
    Returns: a `Scale` that hands on the Gram matrix.
    Raises: ValueError if `eps` is a negative or NaN Python number.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> schatten()(jnp.asarray([[3.0, 0.0]]), local).x.tolist()
      [[1.0, 0.0]]

    Deviations: optax 0.2.8 forms X X^T, which for complex X is no Gram matrix and gives
      NaN; ours conjugates.
    Source: optax 0.2.8, contrib/_muon.py, `schatten` (eps 1e-8).
    """
    _floor_in_range("schatten", eps)

    def read(gram: jax.Array, inner: Inner) -> Scaled:
        del inner
        square = _at_least(_frobenius(gram), eps)
        return Scaled(jnp.sqrt(square), gram / square.astype(gram.dtype))

    return ByGram(read, near=eps is None)


def schatten_8() -> Scale:
    """Divides by the Schatten-8 norm, ||A^2||_F^(1/4), A = X X^H; hands on A and A^2.

        A <- X X^H;   B <- A A;   u <- ||B||_F^(1/2)
        X <- X / sqrt(u);   A <- A/u;   B <- B/u^2

    Between the largest singular value and m^(1/8) times it. A first stage of degree 5
    or more forms A and A^2 in any case, so it costs no product there: the matrix only
    comes out larger than after `frobenius`, by a gain known when the program runs. A
    first stage of degree 3 does not use A^2: take `schatten` for it.

    Returns: a `Scale` that hands on A and A^2. Zero stays zero.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> schatten_8()(jnp.asarray([[3.0, 0.0]]), local).x.tolist()
      [[1.0, 0.0]]

    Source: ours; ||X|| <= ||X||_S8 <= ||X||_F.
    """

    def read(gram: jax.Array, inner: Inner) -> Scaled:
        second = inner.commuting(gram, gram)
        square = _at_least(jnp.sqrt(_frobenius(second)), None)
        wide = square.astype(gram.dtype)
        return Scaled(jnp.sqrt(square), gram / wide, second / wide / wide)

    return ByGram(read)


def spectral(eps: float | None = None) -> Scale:
    """Divides by the largest singular value.

    The smallest divisor that keeps all singular values at 1 or below; it costs the
    eigenvalues of the Gram matrix. A schedule without headroom above 1 needs products
    in float32 here.

    Args:
      eps: added to the norm, absolute. None: nothing is; zero stays zero. Traceable.
    Returns: a `Scale` that hands on the Gram matrix.
    Raises: ValueError if `eps` is a negative or NaN Python number.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> spectral()(jnp.asarray([[4.0, 0.0], [0.0, 1.0]]), local).x.tolist()
      [[1.0, 0.0], [0.0, 0.25]]

    Deviations: optax takes the norm from a singular value decomposition of X, ours is
      the root of the largest eigenvalue of X X^H: equal to rounding, and the columns of
      X may be cut over a mesh.
    Source: optax 0.2.8, contrib/_muon.py, `spectral` (eps 1e-8).
    """
    _floor_in_range("spectral", eps)

    def read(gram: jax.Array, inner: Inner) -> Scaled:
        del inner
        square = jnp.linalg.eigvalsh(gram)[..., -1:, None]
        return _divided(gram, jnp.sqrt(jnp.maximum(square, 0)), eps)

    return ByGram(read, near=eps is None)


def gelfand(degree: int = 5, eps: float | None = None) -> Scale:
    """Divides by the Schatten norm of twice this degree: ||X (X^H X)^k||_F^(1/(2k+1)).

    Between the largest singular value and m^(1/(2 degree)) times it. Costs one (m, m)
    product for degree 3, two for degree 5. CANS is this scale and its schedule:
    `newton_schulz(cans(3, first=1), scale=gelfand())`.

    Args:
      degree: 2k + 1, 3 or 5. Static.
      eps: added to the norm, absolute. None: nothing is; zero stays zero. Traceable.
    Returns: a `Scale` that hands on the Gram matrix.
    Raises: ValueError for another degree, or if `eps` is a negative or NaN number.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> gelfand()(jnp.asarray([[0.0, 3.0]]), local).x.tolist()
      [[0.0, 1.0]]

    Deviations: the authors form X (X^H X)^k, whose square overflows float32 from
      singular values of 5e3 on; ours divides by the Frobenius norm before.
    Source: Grishina et al., CANS, arXiv:2506.10935; code
      GrishKate/accelerating_orthogonalization, polynomials.py (eps 1e-7).
    """
    _floor_in_range("gelfand", eps)
    if degree not in (3, 5):
        raise ValueError(
            message(
                "gelfand",
                f"degree={degree!r} is no power it can take",
                "3 or 5",
                "Pass that of the first stage, or 5",
            )
        )

    def read(gram: jax.Array, inner: Inner) -> Scaled:
        square = _trace(gram)
        unit = gram / _at_least(square, None).astype(gram.dtype)  # of trace 1
        second = inner.matmul(unit, unit)
        # trace(G^3) = <G, G^2>, trace(G^5) = <G^2 G, G^2>
        other = unit if degree == 3 else inner.matmul(second, unit)
        power = jnp.sum((second * jnp.conj(other)).real, (-2, -1), keepdims=True)
        norm = jnp.sqrt(square) * jnp.maximum(power, 0) ** (0.5 / degree)
        return _divided(gram, norm, eps)

    return ByGram(read, near=eps is None)


def _divided(gram: jax.Array, norm: jax.Array, eps: float | None) -> Scaled:
    """The norm with its epsilon, and what it leaves of the Gram matrix."""
    norm = _at_least(norm, None) if eps is None else norm + _like(eps, norm)
    wide = norm.astype(gram.dtype)
    return Scaled(norm, gram / wide / wide)


def _trace(gram: jax.Array) -> jax.Array:
    return jnp.trace(gram, axis1=-2, axis2=-1).real[..., None, None]


def _frobenius(gram: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(gram)), (-2, -1), keepdims=True))


def _at_least(d: jax.Array, eps: float | None) -> jax.Array:
    """d with its floor, or with 1 for 0."""
    return jnp.where(d == 0, 1, d) if eps is None else jnp.maximum(d, _like(eps, d))


def _like(eps: float, d: jax.Array) -> jax.Array:
    return jnp.asarray(eps).astype(d.dtype)


def _floor_in_range(where: str, eps: float | None) -> None:
    if eps is not None:
        in_range(where, "eps", eps)
