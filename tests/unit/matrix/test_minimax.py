# SPDX-License-Identifier: Apache-2.0
"""The exchange against equioscillation, which alone makes a polynomial the best one."""

import math

import numpy as np
import pytest

from orthoptax.matrix import minimax

CASES = [
    *[(degree, 1e-3, 1.0) for degree in range(3, 18, 2)],
    (5, 1e-8, 1.0), (17, 1e-6, 1.0), (5, 0.3, 1.7), (3, 0.9, 1.1), (9, 0.05, 1.0),
    (5, 0.999, 1.0), (17, 0.9, 1.0), (7, 9e-4, 2e-2), (9, 50.0, 900.0),
]  # fmt: skip
PUBLISHED = {  # first polynomials of the specification's generator check, and CANS's
    (7, 0.01): (
        (11.053755603922182, -63.853178952182006),
        (117.48542785374295, -64.57553079087496),
    ),
    (9, 0.01): (
        (13.910040144252502, -132.77817719849398),
        (438.51990213605427, -561.6087616895325, 243.81802894060792),
    ),
}


def values(p, x):
    """p(x) in extended precision: the sums of degree 17 cancel five digits."""
    x = np.asarray(x, np.longdouble)
    return sum(np.longdouble(c) * x ** (2 * j + 1) for j, c in enumerate(p))


@pytest.mark.parametrize(("degree", "lower", "upper"), CASES)
def test_error_alternates_over_the_interval(degree, lower, upper):
    p, error = minimax(degree, lower, upper)
    terms = (degree + 1) // 2
    assert len(p) == terms
    x = np.union1d(np.geomspace(lower, upper, 8001), np.linspace(lower, upper, 8001))
    x = np.clip(x, lower, upper)
    off = values(p, x) - 1
    # 1e-15 of the sums that p(x) is made of, and what a grid misses of an extremum
    slack = 2e-15 * sum(abs(c) * upper ** (2 * j + 1) for j, c in enumerate(p))
    assert np.abs(off).max() <= error + slack
    near = np.abs(off) >= error * (1 - 1e-4) - slack
    signs = np.sign(off[near])
    runs = 1 + int(np.sum(signs[1:] != signs[:-1]))
    if error > 10 * slack:  # else the extrema are below rounding
        assert runs >= terms + 1  # k + 1 alternations: the best of its degree
        assert signs[0] == -1  # p(lower) = 1 - E


def test_that_the_alternation_test_sees_most_cases():
    assert sum(minimax(*case).error > 1e-9 for case in CASES) >= len(CASES) - 2


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_coefficients(key):
    got = minimax(*key).coefficients
    np.testing.assert_allclose(got, sum(PUBLISHED[key], ()), rtol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(1e-3, 1.0), (0.1, 2.0), (0.9, 1.1)])
def test_cubic_against_its_closed_form(low, high):
    w = math.sqrt((low**2 + low * high + high**2) / 3)
    d = 2 * w**3 + low**2 * high + low * high**2
    p, error = minimax(3, low, high)
    want = 2 * (low**2 + low * high + high**2) / d, -2 / d
    np.testing.assert_allclose(p, want, rtol=1e-12)
    np.testing.assert_allclose(
        error, (2 * w**3 - low**2 * high - low * high**2) / d, rtol=1e-12
    )


@pytest.mark.parametrize("upper", [1.0, 2.0])
def test_a_point_gives_the_taylor_polynomials_of_newton_schulz(upper):
    known = {3: (3, -1), 5: (15, -10, 3), 9: (315, -420, 378, -180, 35)}
    over = {3: 2, 5: 8, 9: 128}
    for degree, c in known.items():
        p = minimax(degree, upper * (1 - 1e-9), upper)
        scaled = [v * upper ** (2 * j + 1) for j, v in enumerate(p.coefficients)]
        np.testing.assert_allclose(np.multiply(scaled, over[degree]), c, rtol=1e-7)


def test_interval_scales_with_the_variable():
    one, other = minimax(7, 0.02, 1.0), minimax(7, 0.06, 3.0)
    scaled = [c / 3 ** (2 * j + 1) for j, c in enumerate(one.coefficients)]
    np.testing.assert_allclose(other.coefficients, scaled, rtol=1e-12)
    np.testing.assert_allclose(other.error, one.error, rtol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 4, 19, -3, 5.5])
def test_degrees_without_a_polynomial(degree):
    with pytest.raises(
        ValueError,
        match=r"minimax: degree=.* has no polynomial\. Expected an odd .*\. C",
    ):
        minimax(degree, 0.1)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (1e-12, 1.0), (2.0, 1.0), (0.0, 0.0)])
def test_intervals_that_are_none(interval):
    with pytest.raises(
        ValueError,
        match=r"minimax: the interval .* is not usable\. Expected .*\. Change",
    ):
        minimax(5, *interval)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_numbers_out_of_range(bad):
    with pytest.raises(
        ValueError, match=r"minimax: lower=.* is out of range\. Expected"
    ):
        minimax(5, bad)
