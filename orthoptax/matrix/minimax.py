# SPDX-License-Identifier: Apache-2.0
"""Remez exchange on the host: the odd polynomial nearest to 1 on an interval."""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from orthoptax._check import in_range, message

_ROUNDS = 100  # quadratic convergence: from 2 rounds (cubic) to about 15 (degree 17)
_EXACT = 1e-15  # a polynomial this close to 1 is the answer in float64


class Minimax(NamedTuple):
    """An odd polynomial p and how far it stays from 1.

    coefficients: of x, x^3, x^5, ... error: E, the largest |p(x) - 1| on the interval;
    p(lower) = 1 - E, and the largest value of p there is 1 + E.
    """

    coefficients: tuple[float, ...]
    error: float


def minimax(degree: int, lower: float, upper: float = 1.0) -> Minimax:
    """Finds the odd polynomial that stays nearest to 1 on [lower, upper].

        p(x_i) = 1 - (-1)^i E  at  lower = x_0 < ... < x_k = upper,   degree = 2k - 1

    The exchange: solve for p and E on k + 1 points, move the inner ones to the extrema
    of p, repeat. p is x R(z), R in Chebyshev polynomials of z, the variable x^2 carried
    to [-1, 1]: in powers of x the system is singular for narrow intervals.

    Args:
      degree: odd, 3 to 17. Static.
      lower: left end of the interval, at least 1e-10 of `upper`.
      upper: right end.
    Returns: a `Minimax`. Where the Taylor polynomial of 1/sqrt at `upper` is exact to
      rounding, it is returned (the Newton-Schulz triple of x/upper for degree 5).
    Raises: ValueError for another degree or interval.
    Example:
      >>> [round(c, 6) for c in minimax(5, 1e-3).coefficients]
      [8.470329, -25.108075, 18.629276]

    Source: Remez, 1934; Amsel et al., The Polar Express, arXiv:2505.16932;
      Grishina et al., CANS, arXiv:2506.10935.
    """
    _check(degree, lower, upper)
    return _minimax(degree, float(lower), float(upper))


@functools.lru_cache(maxsize=4096)  # a bisection meets the same intervals again
def _minimax(degree: int, lower: float, upper: float) -> Minimax:
    terms = (degree + 1) // 2
    gap = 1 - (lower / upper) ** 2
    taylor = math.comb(2 * terms, terms) / 4**terms * gap**terms  # its error at lower
    if taylor <= _EXACT:
        powers = upper ** np.arange(1, degree + 1, 2)
        return Minimax(tuple((_taylor(terms) / powers).tolist()), 0.0)
    middle, half = (upper**2 + lower**2) / 2, (upper**2 - lower**2) / 2
    x = (upper + lower) / 2 - (upper - lower) / 2 * np.cos(
        np.pi * np.arange(terms + 1) / terms
    )
    signs = (-1.0) ** np.arange(terms + 1)
    last = np.inf
    for _ in range(_ROUNDS):
        z = (x**2 - middle) / half
        system = np.column_stack(
            [x[:, None] * chebyshev.chebvander(z, terms - 1), signs]
        )
        *r, error = np.linalg.solve(system, np.ones(terms + 1))
        if abs(error) <= _EXACT or abs(error - last) <= _EXACT:
            break  # below rounding the extrema would be noise
        last = error
        # p'(x) = R + 2 x^2 R'(z)/half, and x^2 = middle + half z
        slope = chebyshev.chebder(r)
        extrema = chebyshev.chebadd(
            r,
            chebyshev.chebadd(
                2 * middle / half * slope, 2 * np.asarray(chebyshev.chebmulx(slope))
            ),
        )
        roots = np.sort(np.real(chebyshev.chebroots(extrema)))
        inside = np.sqrt(np.clip(middle + half * roots, lower**2, upper**2))
        x = np.concatenate([[lower], inside, [upper]])
    return Minimax(_monomials(r, middle, half), abs(float(error)))


def _monomials(r: list[float], middle: float, half: float) -> tuple[float, ...]:
    """Coefficients in x, x^3, ... of x R((x^2 - middle)/half)."""
    powers = chebyshev.cheb2poly(r)
    c = np.zeros(1)
    for power in powers[::-1]:  # Horner in the linear polynomial (y - middle)/half
        c = polynomial.polyadd(
            polynomial.polymul(c, [-middle / half, 1 / half]), [power]
        )
    return tuple(c[: len(r)].tolist())


def _taylor(terms: int) -> np.ndarray:
    """sum_(j < terms) binom(2j, j)/4^j (1 - x^2)^j, in powers of x^2."""
    c = np.zeros(1)
    for j in range(terms - 1, -1, -1):
        weight = math.comb(2 * j, j) / 4**j
        c = polynomial.polyadd(polynomial.polymul(c, [1.0, -1.0]), [weight])
    return c[:terms]


def _check(degree: int, lower: float, upper: float) -> None:
    if degree not in range(3, 18, 2):
        raise ValueError(
            message(
                "minimax",
                f"degree={degree!r} has no polynomial",
                "an odd degree from 3 to 17",
                "Compose several polynomials for a higher one",
            )
        )
    in_range("minimax", "upper", upper)
    in_range("minimax", "lower", lower)
    if not 1e-10 * upper <= lower <= upper or upper == 0:
        raise ValueError(
            message(
                "minimax",
                f"the interval [{lower}, {upper}] is not usable",
                "1e-10 * upper <= lower <= upper",
                "Change lower or upper",
            )
        )
