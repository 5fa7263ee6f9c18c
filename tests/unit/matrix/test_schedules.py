# SPDX-License-Identifier: Apache-2.0
"""What the docstrings of the schedules say, on the scalar recurrence in float64."""

import ast
import inspect
import itertools
import re

import numpy as np
import pytest

from orthoptax import matrix
from orthoptax.matrix import schedules

X = np.geomspace(0.01, 1, 20001)
BAND = re.compile(r"(-?\d[\d.]*\d|\d)-(-?\d[\d.]*\d|\d)")


def documented():
    """{name: docstring} of every constant of the module."""
    body = ast.parse(inspect.getsource(schedules)).body
    return {
        node.targets[0].id: ast.literal_eval(text.value)
        for node, text in itertools.pairwise(body)
        if isinstance(node, ast.Assign) and isinstance(text, ast.Expr)
    }


DOCS = documented()
LISTS = {n: s for n in DOCS if isinstance(s := getattr(schedules, n), tuple)}


def scalar(schedule, x):
    """The composition of the polynomials at singular values, in float64."""
    for stage in schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    return x


def is_band(schedule, low, high, factor=1.0):
    """Whether [0.01, 1]/factor ends in low to high, to the digits written."""
    y = scalar(schedule, X / factor)
    for got, words in ((y.min(), low), (y.max(), high)):
        digits = len(words.partition(".")[2]) or 4  # "1" is one, to four digits
        assert abs(got - float(words)) <= 0.5001 * 10**-digits, (got, words)


def test_every_schedule_is_public_and_says_band_and_source():
    assert DOCS.keys() <= set(matrix.__all__)
    for name, text in DOCS.items():
        assert "band " in text, name
        assert "Source: " in text, name


@pytest.mark.parametrize("name", LISTS)
def test_band(name):
    low, high = BAND.search(DOCS[name].split("band ")[1]).groups()
    factor = re.search(r"frobenius\(factor=([\d.]+)\)", DOCS[name])
    is_band(LISTS[name], low, high, float(factor[1]) if factor else 1.0)


def test_bands_by_shape():
    words = DOCS["ROOT_BY_SHAPE"].split("band ")[1].split(". ")[0]
    bands = BAND.findall(words)
    assert len(bands) == len(schedules.ROOT_BY_SHAPE)
    for schedule, band in zip(schedules.ROOT_BY_SHAPE.values(), bands, strict=True):
        is_band(schedule, *band)


def test_the_first_triple_of_root_overshoots_its_fixed_point():
    (a, b, c), *_ = schedules.ROOT_BY_SHAPE[2048, 2048]
    fixed = np.sqrt(max(np.roots([c, b, a - 1]).real))
    assert scalar([(a, b, c)], np.linspace(0, 1, 10001)).max() > fixed


@pytest.mark.parametrize("name", [n for n in DOCS if "last may" in DOCS[n]])
def test_a_last_stage_that_may_repeat_converges_to_1(name):
    schedule = LISTS[name]
    longer = scalar((*schedule, *schedule[-1:] * 4), X)
    np.testing.assert_allclose(longer, 1, atol=1e-9)


def test_a_last_stage_that_may_not_repeat():
    last = schedules.NEMO_CANS[-1:]
    y = scalar((*schedules.NEMO_CANS, *last * 3), X)
    assert np.abs(y - 1).max() > 0.05


def test_other_claims():
    assert abs(scalar(schedules.QUINTIC[:1], 1.0) - 0.12) < 0.005
    assert scalar(schedules.NEMO_AOL[:1], 1.0) < 0
    for count in (6, 7, 10):
        y = scalar(schedules.JORDAN[:1] * count, X)
        assert y.min() > 0.6
        assert y.max() < 1.21
    is_band(schedules.POLAR_EXPRESS_101[:5], "0.870", "1.124", 1.01)
    for count in (1, 2, 3):  # singular values that `aol` leaves, near 1
        y = scalar(schedules.TURBO[-count:], np.linspace(0.5, 1, 1001))
        assert np.abs(y - 1).max() < 0.2


def test_safety_and_shares():
    assert schedules.QUINTIC[1:] == schedules.TURBO
    x = np.linspace(0.01, 1.05, 101)
    np.testing.assert_allclose(
        scalar(schedules.POLAR_EXPRESS_105[:1], x),
        scalar(schedules.POLAR_EXPRESS[:1], x / 1.05),
    )
    assert schedules.POLAR_EXPRESS_101[7] == schedules.POLAR_EXPRESS[7]
    for ours, rounded in zip(
        schedules.POLAR_EXPRESS_101, schedules.POLAR_EXPRESS_8, strict=True
    ):
        np.testing.assert_allclose(ours, rounded, atol=6e-5)


@pytest.mark.parametrize(
    ("name", "made", "places"),
    [
        ("NEMO_CANS", lambda: matrix.composition((5,) * 5), 4),
        ("POLAR_EXPRESS_102",
         lambda: matrix.polar_express(5, safety=0.02, cushion=0.02), 9),
        ("POLAR_EXPRESS",
         lambda: matrix.polar_express(8, cushion=0.02407327424182761), 4),
    ],
)  # fmt: skip
def test_generated_lists(name, made, places):
    np.testing.assert_allclose(made(), LISTS[name], rtol=0, atol=0.51 * 10**-places)
