# SPDX-License-Identifier: Apache-2.0
"""How a stage is evaluated: few products, and no terms that cancel; on the host.

A stage x q(x^2) is a polynomial q of the Gram matrix A. In powers of A the coefficients
of the best q of degree 4 or more are hundreds of times its values. Here the variable is
y = (A - t I) / h, which runs from -1 to 1, and every operand of a product is centred,
so that the terms are no larger than q(0): operands may then be rounded to 16 bits.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev, polynomial

from orthoptax.matrix.inner import Inner

_POINTS = 65  # of [-1, 1], where sizes and errors are measured
_WRONG = 1e-9  # relative error of a conversion that is not used
_MIDDLES = np.linspace(0.9, 1.1, 21)  # t / h that are tried
_CENTRES = 13  # of each factor, between its least and greatest value


class Form(NamedTuple):
    """q(A) = alpha I + Z. Numbers, or arrays of equal length for stages in a loop.

    base: (offset, slope), Y_1 = offset I + slope A; empty: Z = out_0 A + out_1 A^2 +
    ... by Horner. Else Y_0 = I, and for i = 0, 1, ... the i + 2 coefficients of the two
    factors of Y_(i+2) = (sum_j left_ij Y_j) (sum_j right_ij Y_j); Z = sum_j out_j Y_j.
    """

    alpha: Any
    out: tuple[Any, ...]
    base: tuple[Any, ...] = ()
    left: tuple[tuple[Any, ...], ...] = ()
    right: tuple[tuple[Any, ...], ...] = ()


def forms(schedule: Sequence[Sequence[float]]) -> list[Form]:
    """The form of each stage, for singular values that start in [0, 1].

    Degrees 7 and 9 take two products, 11 and 13 three, 17 three where its coefficients
    allow; all others Horner's rule.
    """
    found, upper = [], 1.0
    for stage in schedule:
        found.append(_form(tuple(stage), upper))
        x = np.linspace(0, upper, 2001)
        top = float(np.max(np.abs(x * polynomial.polyval(x * x, np.asarray(stage)))))
        upper = top if 1e-3 < top < 1e3 else 1.0
    return found


def inner_products(form: Form) -> int:
    """How many products of (m, m) matrices Z takes, from A."""
    return len(form.left) if form.base else len(form.out) - 1


def runs(stages: Sequence[Form], dtype: Any) -> list[tuple[int, Form]]:
    """(how many, their forms with arrays for numbers) of each run of equal forms."""
    alike = (list(run) for _, run in itertools.groupby(stages, jax.tree.structure))
    stack = lambda *c: jnp.asarray(c).astype(dtype)
    return [(len(run), jax.tree.map(stack, *run)) for run in alike]


def cut(run: Form, which: int | slice) -> Form:
    """One stage of a run, or several."""
    return jax.tree.map(lambda c: c[which], run)


def evaluate(
    form: Form,
    gram: jax.Array,
    inner: Inner,
    square: jax.Array | None = None,
    *,
    whole: bool = False,
) -> jax.Array:
    """Z of a stage, as wide as A; `whole`: q(A) = alpha I + Z.

    `square` is A^2, where something has formed it.
    """
    if not form.base:
        z = _horner(form.out, gram, inner, square)
        return plus_identity(z, form.alpha) if whole else z
    offset, slope = form.base
    powers = [plus_identity(slope * gram, offset)]
    if square is not None:  # y^2, from A^2: elementwise
        y2 = slope * slope * square + 2 * slope * offset * gram
        powers.append(plus_identity(y2, offset * offset))
    for a, b in list(zip(form.left, form.right, strict=True))[len(powers) - 1 :]:
        powers.append(inner.commuting(_sum(a, powers), _sum(b, powers)))
    out = form.out
    return _sum((form.alpha + out[0], *out[1:]) if whole else out, powers)


def plus_identity(z: jax.Array, c: jax.Array) -> jax.Array:
    """Z + c I."""
    ones = jnp.broadcast_to(jnp.eye(z.shape[-1], dtype=bool), z.shape)
    return z + jnp.where(ones, jnp.asarray(c, z.dtype), 0)


def value(form: Form, a: np.ndarray) -> np.ndarray:
    """q at numbers instead of a matrix, on the host."""
    if not form.base:
        return form.alpha + a * polynomial.polyval(a, np.asarray(form.out))
    powers = [np.ones_like(a), form.base[0] + form.base[1] * a]
    total = lambda c: sum(k * p for k, p in zip(c, powers, strict=True))
    for left, right in zip(form.left, form.right, strict=True):
        powers.append(total(left) * total(right))
    return form.alpha + total(form.out)


def _sum(c: Sequence[jax.Array], powers: list[jax.Array]) -> jax.Array:
    """c_0 I + c_1 Y_1 + c_2 Y_2 + ..."""
    total = c[1] * powers[0]
    for ck, y in zip(c[2:], powers[1:], strict=True):
        total = total + ck * y
    return plus_identity(total, c[0])


def _horner(
    c: Sequence[jax.Array], gram: jax.Array, inner: Inner, square: jax.Array | None
) -> jax.Array:
    """c_0 G + c_1 G^2 + ..., as wide as G."""
    total, rest = c[-1] * gram, c[:-1]
    if square is not None and rest:
        total, rest = c[-2] * gram + c[-1] * square, c[:-2]
    for k in rest[::-1]:
        total = inner.combined(total, gram, gram, k)
    return total


@functools.lru_cache(maxsize=1024)
def _form(stage: tuple[float, ...], upper: float) -> Form:
    """The form of one stage, for singular values in [0, upper]."""
    plain = Form(stage[0], stage[1:])
    h = upper * upper / 2
    form = None
    if len(stage) in (4, 5, 6, 7):
        form = _chebyshev(_about(stage, h, h), h)
    if len(stage) == 9:
        form = _best_factored(stage, h)
    if form is None:
        return plain
    a = np.linspace(0, 2 * h, _POINTS)
    want = polynomial.polyval(a, np.asarray(stage))
    error = np.max(np.abs(value(form, a) - want)) / np.max(np.abs(want))
    return form if error < _WRONG else plain


def _about(stage: Sequence[float], t: float, h: float) -> np.ndarray:
    """Coefficients of q(t + h y) in y."""
    c = np.zeros(1)
    for k in stage[::-1]:
        c = polynomial.polyadd(polynomial.polymul(c, [t, h]), [k])
    return np.asarray(c)


def _chebyshev(b: np.ndarray, h: float) -> Form:
    """Degrees 7 to 13 in Chebyshev polynomials, 2 T_i T_j = T_(i+j) + T_|i-j|."""
    a = np.zeros(7)
    a[: len(b)] = chebyshev.poly2cheb(b)
    base, y = (-1.0, 1 / h), (0.0, 1.0)
    a = a.tolist()
    if len(b) <= 5:  # + T_2 (2 a_3 T_1 + 2 a_4 T_2)
        t2 = (-1.0, 0.0, 2.0)
        other = (-2 * a[4], 2 * a[3], 4 * a[4])
        out = (-a[2], a[1] - a[3], 2 * a[2], 1.0)
        return Form(a[0] - a[4], out, base, (y, t2), (y, other))
    # T_3 = Y_3 - y, Y_3 = T_2 2y; + T_3 (2 a_4 T_1 + 2 a_5 T_2 + 2 a_6 T_3)
    t2, t3 = (-1.0, 0.0, 2.0), (0.0, -1.0, 0.0, 1.0)
    other = (-2 * a[5], 2 * a[4] - 2 * a[6], 4 * a[5], 2 * a[6])
    low = a[2] - a[4]
    out = (-low, a[1] - a[5] - a[3], 2 * low, a[3], 1.0)
    return Form(a[0] - a[6], out, base, (y, t2, t3), (y, (0.0, 2.0, 0.0), other))


def _best_factored(stage: tuple[float, ...], h: float) -> Form | None:
    """Degree 17 from three products: the real form that rounding changes least."""
    best, least = None, np.inf
    for middle in _MIDDLES:
        b = _about(stage, middle * h, h).tolist()
        y = np.linspace(-middle, 2 - middle, _POINTS)
        for d in _factors(b):
            noise, centres = _calmest(d, b, y)
            if noise < least:
                best, least = _factored(d, b, (-middle, 1 / h), centres), noise
    return best


def _factors(b: list[float]) -> list[tuple[float, ...]]:
    """d_1 ... d_6 of both real solutions, z = y^2 (d_1 y^2 + d_2 y).

    q = (z + d_3 y^2 + d_4 y)(z + d_5 y^2) + d_6 z + b_2 y^2 + b_1 y + b_0.
    """
    if len(b) < 9 or b[8] <= 0 or b[7] == 0:
        return []
    d1 = b[8] ** 0.5
    d2 = b[7] / (2 * d1)
    total = (b[6] - d2**2) / d1  # d_3 + d_5
    d4 = (b[5] - d2 * total) / d1
    linear = total - d1 * d4 / d2
    inside = linear**2 + 4 * (d1 * b[3] / d2 - b[4] + d4 * d2)
    if inside < 0:
        return []
    roots = [(linear + sign * inside**0.5) / 2 for sign in (1, -1)]
    return [(d1, d2, total - d5, d4, d5, (b[3] - d4 * d5) / d2) for d5 in roots]


def _parts(d: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The two factors in 1, y, v, w: v = y^2 - 1/2, w = v (d_1 v + d_2 y).

    z = w + d_1 v + d_2 y / 2 + d_1 / 4.
    """
    d1, d2, d3, d4, d5, _ = d
    first = (d1 / 4 + d3 / 2, d2 / 2 + d4, d1 + d3, 1.0)
    return first, (d1 / 4 + d5 / 2, d2 / 2, d1 + d5, 1.0)


def _rest(
    d: tuple[float, ...], b: list[float], f: Any, g: Any
) -> tuple[Any, Any, Any, Any]:
    """q - (F - f)(G - g) in 1, y, v, w."""
    d1, d2, d6 = d[0], d[1], d[5]
    first, second = _parts(d)
    constant = -f * g + d6 * d1 / 4 + b[2] / 2 + b[0]
    one = constant + g * first[0] + f * second[0]
    y = g * first[1] + f * second[1] + d6 * d2 / 2 + b[1]
    v = g * first[2] + f * second[2] + d6 * d1 + b[2]
    return one, y, v, g + f + d6


def _calmest(
    d: tuple[float, ...], b: list[float], y: np.ndarray
) -> tuple[float, tuple[float, float]]:
    """What rounding the operands does to q, and the centres that make it least.

    In units of a rounding, at worst; carried through y^2, w and the last product.
    """
    d1, d2, d6 = d[0], d[1], d[5]
    v = y * y - 0.5
    w = v * (d1 * v + d2 * y)
    basis = np.stack([np.ones_like(y), y, v, w])
    first, second = (np.asarray(p) @ basis for p in _parts(d))
    by_w = first + second + d6  # dq/dw, which does not depend on the centres
    by_v = (d1 + d[2]) * second + (d1 + d[4]) * first + d6 * d1 + b[2]
    before = 2 * np.abs(by_w * w) + 2 * y * y * np.abs(
        by_w * (2 * d1 * v + d2 * y) + by_v
    )
    f = np.linspace(first.min(), first.max(), _CENTRES)[:, None, None]
    g = np.linspace(second.min(), second.max(), _CENTRES)[None, :, None]
    noise = np.max(2 * np.abs((first - f) * (second - g)) + before, axis=-1)
    i, j = np.unravel_index(np.argmin(noise), noise.shape)
    return float(noise[i, j]), (float(f[i, 0, 0]), float(g[0, j, 0]))


def _factored(
    d: tuple[float, ...],
    b: list[float],
    base: tuple[float, float],
    centres: tuple[float, float],
) -> Form:
    """The form from its numbers; Y_2 is y^2, and v is y^2 - 1/2."""
    in_powers = lambda c: (c[0] - c[2] / 2, c[1], c[2], *c[3:])
    first, second = _parts(d)
    f, g = centres
    one, *rest = _rest(d, b, f, g)
    factors = ((first[0] - f, *first[1:]), (second[0] - g, *second[1:]))
    y, v = (0.0, 1.0), (-0.5, 0.0, 1.0)
    left = (y, v, in_powers(factors[0]))
    right = (y, in_powers((0.0, d[1], d[0])), in_powers(factors[1]))
    return Form(one, (*in_powers((0.0, *rest)), 1.0), base, left, right)
