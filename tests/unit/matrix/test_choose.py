# SPDX-License-Identifier: Apache-2.0
"""The rule, the costs and the committed schedules, regenerated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    BY_GAIN,
    CUBIC5,
    DEEPSEEK_V4,
    JORDAN,
    OURS,
    OURS_16_BITS,
    POLAR_EXPRESS_105,
    cheapest,
    composition,
    cost,
    gram_newton_schulz,
    margin,
    newton_schulz,
    satisfies,
)
from orthoptax.matrix.chosen import (
    BY_GAIN_16_BITS,
    OURS_16_BITS_ERROR,
    OURS_ERROR,
)

CHOSEN = {  # gain: degrees and lower end, as `cheapest` finds them
    1.0: ((5, 17, 17), 0.0024247595973990294),
    1.3: ((5, 17, 9), 0.002193766630448407),
    1.6: ((5, 17, 9), 0.0032741869228276126),
    3.0: ((9, 17, 3), 0.006598592296392085),
    4.0: ((5, 17, 3), 0.006937299207089857),
    8.0: ((5, 3, 9), 0.014698647762946755),
}
IN_16_BITS = {
    1.0: ((5, 3, 9, 9), 0.0017957005032874435),
    1.5: ((9, 9, 9), 0.0025492229367795926),
    1.7: ((9, 9, 9), 0.0032741869228276126),
    3.0: ((9, 5, 9), 0.005969982180207318),
    4.4: ((9, 3, 9), 0.007667763106133825),
    8.0: ((5, 3, 9), 0.0139810005307019),
}
TABLES = {"any": (CHOSEN, BY_GAIN), "16 bits": (IN_16_BITS, BY_GAIN_16_BITS)}


def widen(name, gain):
    """Headroom of a committed schedule."""
    return 1.03 if name == "16 bits" and gain > 1 else 1.005


EVERY = [(name, gain) for name, (chosen, _) in TABLES.items() for gain in chosen]


def no_steep_ends(degrees):
    """What the committed tables were made with."""
    return 5 <= degrees[0] <= 9 >= degrees[-1]


def free_scale(degrees):
    """What `OURS` was made with."""
    return 5 <= degrees[0] <= 9


def values(schedule, x):
    for stage in schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    return x


@pytest.mark.parametrize(
    ("degrees", "lower", "error", "slope"),
    [
        ((3, 5, 9, 9), 1.8e-3, 0.157259, 532.20),
        ((9, 9, 9), 2.8e-3, 0.139341, 354.49),
        ((3, 5, 9), 1.5e-2, 0.134006, 66.89),
    ],
)
def test_check_values_of_compositions(degrees, lower, error, slope):
    schedule = composition(degrees, lower=lower, widen=1.005)
    x = np.geomspace(lower, 1, 20001)
    assert np.abs(values(schedule, x) - 1).max() == pytest.approx(error, abs=2e-6)
    assert np.prod([s[0] for s in schedule]) == pytest.approx(slope, abs=6e-3)


@pytest.mark.parametrize(
    ("degrees", "lower", "gain", "square", "wide"),
    [  # prices 1/2 and 5/8 of five classic stages, square plain and 4:1 Gram
        ((3, 5, 9, 9), 1.8e-3, 1, (0.567, 0.642), (0.289, 0.339)),
        ((9, 9, 9), 2.8e-3, 1.5, (0.500, 0.575), (0.267, 0.311)),
        ((5, 9, 9), 6.1e-3, 3, (0.467, 0.533), (0.256, 0.297)),
        ((3, 9, 9), 6.7e-3, 4, (0.433, 0.492), (0.244, 0.283)),
        ((3, 5, 9), 1.5e-2, 8, (0.400, 0.450), (0.233, 0.269)),
        ((9, 17, 9), 1.8e-3, 1, (0.533, 0.617), (0.278, 0.325)),
    ],
)
def test_costs_and_rule_of_known_sequences(degrees, lower, gain, square, wide):
    schedule = composition(degrees, lower=lower, widen=1.005)
    assert satisfies(schedule, gain=gain)
    assert not satisfies(schedule, gain=0.5 * gain)
    for price, at_1, at_4 in zip((0.5, 0.625), square, wide, strict=True):
        got = cost(schedule, 8, 8, price=price) / cost(JORDAN, 8, 8)
        assert got == pytest.approx(at_1, abs=6e-4)
        got = cost(schedule, 8, 32, gram=True, price=price) / cost(JORDAN, 8, 32)
        assert got == pytest.approx(at_4, abs=6e-4)


@pytest.mark.parametrize("restarts", [(), (1,), (1, 2)])
@pytest.mark.parametrize("gram", [False, True])
def test_costs_by_count(gram, restarts):
    m, n = 96, 384
    if gram:
        polar = gram_newton_schulz(OURS, restarts=restarts, unroll=True)
    else:
        polar = newton_schulz(OURS, unroll=True)
    flops = jax.jit(polar).lower(jnp.ones((m, n))).cost_analysis()["flops"]
    want = cost(OURS, n, m, gram=gram, restarts=restarts)
    assert want <= flops <= want + 40 * m * m * 3 + 16 * m * n


def test_the_rule_knows_better_from_worse():
    assert margin(JORDAN) == 1
    assert satisfies(POLAR_EXPRESS_105)
    assert satisfies(DEEPSEEK_V4)
    assert not satisfies(CUBIC5)
    assert not satisfies(JORDAN[:4])
    slow = composition((9, 17, 9), lower=2.5e-3, widen=1.005)  # its band is no worse
    assert np.prod([stage[0] for stage in slow]) > np.prod([s[0] for s in JORDAN])
    assert not satisfies(slow)  # but beside its plateau, nearer 1, its slope is
    flat = (*JORDAN[:4], (3.4445 / 2, -4.775 / 2, 2.0315 / 2))  # half as long
    assert not satisfies(flat)


@pytest.mark.parametrize(("name", "gain"), EVERY)
def test_committed_schedules_are_regenerated_and_satisfy_the_rule(name, gain):
    chosen, table = TABLES[name]
    (degrees, lower), schedule = chosen[gain], table[gain]
    made = composition(degrees, lower=lower, widen=widen(name, gain))
    for ours, theirs in zip(schedule, made, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert margin(schedule, gain=gain) >= 1.01
    x = np.geomspace(1e-5, 1, 4001)  # the rule, from its words
    ours = np.abs(values(schedule, np.minimum(gain * x, 1)) - 1)
    classic = np.abs(values(JORDAN, x) - 1)
    onward = lambda v: np.maximum.accumulate(v[::-1])[::-1]
    assert np.all(onward(ours) <= onward(classic) + 1e-12)
    assert set(chosen) == set(table)


def test_stated_errors():
    x = np.geomspace(CHOSEN[1.0][1], 1, 20001)
    assert 0.99 * OURS_ERROR < np.abs(values(OURS, x) - 1).max() <= OURS_ERROR
    x = np.geomspace(IN_16_BITS[1.0][1], 1, 20001)
    found = np.abs(values(OURS_16_BITS, x) - 1).max()
    assert 0.99 * OURS_16_BITS_ERROR < found <= OURS_16_BITS_ERROR


def test_the_targets_by_formula():
    plain = lambda p: cost(OURS, 1, 1, price=p) / cost(JORDAN, 1, 1)
    gram = lambda p, r: (
        cost(OURS, 1, 4, gram=True, price=p, restarts=r) / cost(JORDAN, 1, 4)
    )
    assert plain(5 / 8) <= 0.65
    assert plain(1 / 2) <= 0.57
    assert gram(5 / 8, ()) <= 0.34
    assert gram(1 / 2, ()) <= 0.29
    assert gram(5 / 8, (2,)) <= 0.45
    assert gram(1 / 2, (2,)) <= 0.39


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gain"), EVERY)
def test_the_search_finds_what_is_committed(name, gain):
    degrees = (3, 5, 7, 9) if name == "16 bits" else (3, 5, 7, 9, 17)
    head = widen(name, gain)
    allowed = free_scale if TABLES[name][1][gain] is OURS else no_steep_ends
    found = cheapest(gain=gain, degrees=degrees, allowed=allowed, widen=head)
    assert found.degrees == TABLES[name][0][gain][0]
    assert found.lower == pytest.approx(TABLES[name][0][gain][1], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gain", "degrees", "widen"),
    [
        (1.3, (3, 5, 7, 9, 17), 1.005),
        (4.0, (3, 5, 7, 9, 17), 1.005),
        (1.5, (3, 5, 7, 9), 1.03),
    ],
)
def test_below_its_gain_no_schedule_of_that_cost_will_do(gain, degrees, widen):
    search = functools.partial(
        cheapest, degrees=degrees, allowed=no_steep_ends, widen=widen
    )
    price = lambda g: cost(search(gain=g).schedule, 1, 1, price=5 / 8)
    assert price(gain) < price(0.95 * gain)


def test_a_short_search():
    found = cheapest(gain=8, degrees=(3, 5, 9), stages=3)
    assert len(found.degrees) == 3
    assert cost(found.schedule, 1, 1, price=5 / 8) / cost(JORDAN, 1, 1) == 0.45
    assert margin(found.schedule, gain=8) >= 1.01
    with pytest.raises(ValueError, match=r"cheapest: no composition of 1 stages"):
        cheapest(degrees=(3, 5), stages=1)
