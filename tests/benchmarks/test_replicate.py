# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/replicate.py`: grids that grow, intervals, and what the document says."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
RATES = (1.0, 2.0, 4.0)


@pytest.fixture
def replicate(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("replicate")


def losses(*means):
    """Three seeds a rate, a tenth apart."""
    return [[m - 0.1, m, m + 0.1] for m in means]


@pytest.mark.parametrize(
    ("means", "most", "expected"),
    [
        ((3, 1, 2), 9, None),
        ((1, 2, 3), 9, (0.5, *RATES)),
        ((3, 2, 1), 9, (*RATES, 8.0)),
        ((math.inf, 2, 1), 9, (*RATES, 8.0)),
        ((3, 2, 1), 3, None),
    ],
)
def test_a_grid_grows_where_its_best_is_at_the_end(replicate, means, most, expected):
    assert replicate.grown(replicate.Curve(RATES, losses(*means)), most) == expected


def test_a_difference_is_paired_by_seed_at_the_best_rate_of_each(replicate):
    # The seeds differ by far more than the optimizers do.
    finals = {"a": [[9.0, 9, 9], [1.0, 2.0, 3.0]], "b": [[1.5, 2.4, 3.6], [9.0, 9, 9]]}
    curves = {n: replicate.Curve(RATES[:2], f) for n, f in finals.items()}
    gap, half = replicate.compare(curves, "b", "a")
    gaps = np.array([0.5, 0.4, 0.6])
    assert gap == pytest.approx(0.5)
    # t(0.975, 2) = 4.3026527 from a table
    assert half == pytest.approx(4.3026527 * gaps.std(ddof=1) / np.sqrt(3), rel=1e-6)
    assert replicate.verdict(gap, half) == "higher"
    assert replicate.verdict(-gap, half) == "lower"
    assert replicate.verdict(gap, 2 * gap) == "no difference seen"
    assert replicate.verdict(gap, math.inf) == "no difference seen"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ((3.0, 1.0), "Does not replicate"),
        ((1.0, 1.0), "Replicates in part"),
        ((1.0, 3.0), "Replicates at"),
    ],
)
def test_the_document_says_what_was_published_and_seen(replicate, other, words):
    claim = replicate.CLAIMS[0]._replace(
        rows={"base": None, "x": None, "y": None},
        against="base",
        expected={"x": "lower", "y": "higher"},
        seeds=3,
    )
    means = {"base": 2.0, "x": other[0], "y": other[1]}
    curves = {
        name: replicate.Curve(RATES, [[9.0 + i for i in range(3)], row, [9.0] * 3])
        for name, mean in means.items()
        for row in [[mean - 0.1, mean, mean + 0.1]]
    }
    text = replicate.section(claim, curves)
    assert f"**{words}" in text
    assert f"| `x` | 2 | {other[0]:.4g} | {other[0] - 2:+.2g} ± " in text
    assert "(edge)" not in text
