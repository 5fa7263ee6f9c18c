# SPDX-License-Identifier: Apache-2.0
"""Generated schedules against the committed tables and against what they promise."""

import numpy as np
import pytest

from orthoptax import matrix
from orthoptax.matrix import cans, cans_schedule, composition, minimax, polar_express

REACH = {  # (degree, lower): error after 1, 2, ... stages, two digits, as published
    (3, 0.1): (0.61, 0.31, 0.072, 0.0039, 1e-5),
    (3, 1e-3): (0.99, 0.99, 0.97, 0.91, 0.80, 0.57, 0.27, 0.054),
    (5, 0.1): (0.45, 0.063, 1.5e-4),
    (5, 1e-3): (0.99, 0.96, 0.86, 0.55, 0.11, 9e-4, 5e-10),
    (7, 0.01): (0.89, 0.52, 0.046, 2e-6),
    (9, 1e-3): (0.98, 0.89, 0.45, 0.0098, 5e-11),
    (17, 1e-4): (1, 0.96, 0.58, 0.003),
}
DELTA = {  # (degree, stages, delta): left end
    (3, 1, 0.3): 0.249108,
    (3, 4, 0.3): 0.015586,
    (3, 4, 0.99): 1.10455e-4,
    (5, 1, 0.99): 0.00118170,
    (5, 1, 0.3): 0.156508,
    (5, 2, 0.3): 0.038295,
    (5, 3, 0.1): 0.019285,
}


def mapped(schedule, x):
    for stage in schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    return x


def with_safety(schedule, factor):
    return [[c / factor ** (2 * j + 1) for j, c in enumerate(p)] for p in schedule]


@pytest.mark.parametrize("key", REACH)
def test_what_so_many_stages_reach(key):
    degree, lower = key
    x = np.geomspace(lower, 1, 8001)
    schedule = composition((degree,) * len(REACH[key]), lower=lower)
    for count, want in enumerate(REACH[key], 1):
        off = np.abs(mapped(schedule[:count], x) - 1).max()
        digits = 1 if want < 0.01 or want == 1 else 2
        np.testing.assert_allclose(
            off, want, rtol=0, atol=0.51 * 10 ** (np.floor(np.log10(want)) + 1 - digits)
        )


RAW = polar_express(8, cushion=0.02407327424182761)
REGENERATED = {  # committed table: (generated, absolute tolerance)
    # The last triples are ill-determined: only their values near 1 matter.
    "POLAR_EXPRESS": (RAW, 1e-6),
    "POLAR_EXPRESS_101": ([*with_safety(RAW[:7], 1.01), RAW[7]], 1e-6),
    "POLAR_EXPRESS_105": (with_safety(RAW[:5], 1.05), 1e-9),
    # Four decimals, where 8.20516 was cut and not rounded.
    "POLAR_EXPRESS_8": ([*with_safety(RAW[:7], 1.01), RAW[7]], 0.7e-4),
    "POLAR_EXPRESS_102": (polar_express(5, safety=0.02, cushion=0.02), 1e-12),
    "NEMO_CANS": (composition((5,) * 5), 0.51e-4),
}


@pytest.mark.parametrize("name", REGENERATED)
def test_committed_tables_are_what_the_generator_makes(name):
    generated, atol = REGENERATED[name]
    np.testing.assert_allclose(generated, getattr(matrix, name), rtol=0, atol=atol)


def test_mixed_degrees_with_headroom_against_the_published_table():
    got = composition((3, 5, 9), lower=1.5e-2, widen=1.005)
    want = (
        (4.9414413, -4.8193902),
        (3.666545, -2.7168497, 0.52762897),
        (3.6921552, -7.1840653, 6.5452199, -2.5234207, 0.34219641),
    )
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    x = np.geomspace(1.5e-2, 1, 9999)
    np.testing.assert_allclose(np.abs(mapped(got, x) - 1).max(), 0.134006, atol=1e-6)


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
@pytest.mark.parametrize("cushion", [0.0, 0.05, 0.2])
def test_recentring_brings_the_ends_of_each_stage_around_one(degree, cushion):
    schedule = polar_express(6, degree=degree, lower=1e-2, cushion=cushion)
    x = np.geomspace(1e-2, 1, 8001)
    for stage in schedule:
        x = mapped([stage], x)
        np.testing.assert_allclose(x.min() + x.max(), 2, atol=2e-5)


@pytest.mark.parametrize("degree", [3, 5, 7])
def test_safety_leaves_headroom_above_one(degree):
    x = np.geomspace(1e-2, 1.05, 8001)
    options = {"degree": degree, "lower": 1e-2, "cushion": 0.05}
    safe = mapped(polar_express(6, safety=0.05, **options), x)
    with np.errstate(over="ignore", invalid="ignore"):
        bare = mapped(polar_express(6, **options), x)
    assert np.abs(safe - 1).max() < 0.1
    assert not np.abs(bare - 1).max() < 1


def test_the_authors_centring_diverges_at_degree_three_and_ours_does_not():
    options = {"degree": 3, "lower": 0.01, "safety": 0.01, "cushion": 0.05}
    x = np.geomspace(0.01, 1, 9999)
    theirs = polar_express(6, end_is_largest=True, **options)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.abs(mapped(theirs, x)).max() < 1e100
    assert np.abs(mapped(polar_express(6, **options), x) - 1).max() < 0.05


@pytest.mark.parametrize("degree", [5, 9])
def test_the_two_centrings_agree_where_the_end_is_largest(degree):
    options = {"degree": degree, "cushion": 0.05, "safety": 0.01}
    np.testing.assert_allclose(
        polar_express(4, **options),
        polar_express(4, end_is_largest=True, **options),
        rtol=1e-9,
    )


@pytest.mark.parametrize("key", DELTA)
def test_delta_schedules(key):
    degree, steps, delta = key
    schedule = cans_schedule(steps, degree, delta)
    np.testing.assert_allclose(schedule.lower, DELTA[key], rtol=5e-5)
    x = np.geomspace(schedule.lower, 1, 8001)
    off = np.abs(mapped(schedule.stages, x) - 1).max()
    np.testing.assert_allclose(off, delta, atol=1e-5)
    below = mapped(schedule.stages, np.asarray([schedule.lower * 0.98]))
    assert abs(below[0] - 1) > delta  # the least left end


def test_cans_follows_its_first_stages_with_the_interval_they_leave():
    whole = cans(3, first=1, delta=0.99)
    assert len(whole) == 4
    assert whole[0] == cans_schedule(1, 5, 0.99).stages[0]
    low, high = 0.01, 1.99
    for stage in whole[1:]:
        want, error = minimax(5, low, high)
        np.testing.assert_allclose(stage, want, rtol=1e-9)
        low, high = 1 - error, 1.01 * (1 + error)
    # three quintics take [0.01, 1.99] no nearer than 0.50
    x = np.geomspace(cans_schedule(1, 5, 0.99).lower, 1, 9999)
    np.testing.assert_allclose(np.abs(mapped(whole, x) - 1).max(), 0.50, atol=0.005)


def test_cans_without_first_stages_starts_at_lower_and_cubics_have_no_headroom():
    for got, want in zip(
        cans(4, degree=3, lower=0.05), composition((3,) * 4, lower=0.05), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(
        cans(2, lower=0.05)[0], minimax(5, 0.05).coefficients, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: composition(()), "composition: len.degrees.=0"),
        (lambda: composition((5,), widen=0.9), "composition: widen=0.9"),
        (lambda: polar_express(0), "polar_express: steps=0"),
        (lambda: polar_express(3, cushion=1.0), "polar_express: cushion=1.0"),
        (lambda: polar_express(3, safety=-0.1), "polar_express: safety=-0.1"),
        (lambda: cans_schedule(0), "cans_schedule: steps=0"),
        (lambda: cans_schedule(2, 5, 1.0), "cans_schedule: delta=1.0"),
        (lambda: cans(3, first=-1), "cans: first=-1"),
        (lambda: cans(0), "cans: steps=0"),
    ],
)
def test_bad_numbers(make, name):
    with pytest.raises(ValueError, match=rf"{name} is out of range\. Expected .*\. Ch"):
        make()


def test_counts_are_integers():
    with pytest.raises(
        TypeError, match=r"polar_express: steps=2\.5 is not a Python int"
    ):
        polar_express(2.5)  # type: ignore[arg-type]
