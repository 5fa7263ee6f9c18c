# SPDX-License-Identifier: Apache-2.0
"""Which schedule may stand for which, and what it costs; on the host.

A schedule that is tuned to spectra fails on others. The rule here knows none: the new
schedule must bring every singular value at least as near to 1 as the old one does, and
lift small ones as steeply.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import polynomial

from orthoptax._check import in_range, message
from orthoptax._types import Schedule
from orthoptax.matrix.forms import forms, inner_products
from orthoptax.matrix.generate import composition
from orthoptax.matrix.restarts import inside
from orthoptax.matrix.schedules import JORDAN

_GRID = np.geomspace(1e-5, 1, 1001)  # of relative singular values
_PLATEAU = np.linspace(0.02, 1, 1000)
_LOWER = np.geomspace(4e-4, 4e-2, 93)  # 5 % apart
_SPARE = 1.01  # margin: rounding is not in the rule
_WIDEN = 1.005  # headroom for rounding
_PRODUCTS = {3: 0, 5: 1, 7: 2, 9: 2, 11: 3, 13: 3, 17: 3}  # see `forms`


class Measures(NamedTuple):
    """band: for every x of a log grid from 1e-5 to 1, the largest |F - 1| on [x, 1].

    slope: F'(0) over the root mean square of F on [0.02, 1]. At equal slopes directions
    that do not arrive have equal weight in the cosine to the polar factor.
    """

    band: np.ndarray
    slope: float


class Chosen(NamedTuple):
    """degrees, lower: arguments of `composition`. schedule: its result.

    error: how far from 1 it leaves singular values from `lower` on.
    """

    degrees: tuple[int, ...]
    lower: float
    schedule: Schedule
    error: float


def measures(schedule: Schedule, gain: float = 1.0) -> Measures:
    """Band and slope of a schedule, for matrices that enter it `gain` times larger.

    Args:
      schedule: one tuple of coefficients a stage.
      gain: at least 1; singular values enter as min(1, gain x).
    Returns: `Measures`.
    Example:
      >>> from orthoptax.matrix.schedules import JORDAN
      >>> round(measures(JORDAN).slope)
      522

    Source: ours.
    """
    apart = np.abs(_values(schedule, np.minimum(gain * _GRID, 1)) - 1)
    band = np.maximum.accumulate(apart[::-1])[::-1]
    plateau = _values(schedule, _PLATEAU)
    first = np.prod([stage[0] for stage in schedule])
    return Measures(band, float(gain * first / np.sqrt(np.mean(plateau**2))))


def margin(
    schedule: Schedule, baseline: Schedule | None = None, *, gain: float = 1.0
) -> float:
    """How far a schedule is inside the rule of `satisfies`: 1 is on its border.

    That many times smaller a singular value may be, and still be brought as near to 1
    as by the old schedule, and be lifted as steeply.

    Args:
      schedule: the new one.
      baseline: the old one, at gain 1; None: `JORDAN`.
      gain: see `measures`.
    Returns: the least, over all x, of x over the value from which on the new band is no
      wider than the old one at x; or the quotient of the slopes, if that is less. 0
      where the new band is nowhere as narrow.
    Example:
      >>> from orthoptax.matrix.schedules import JORDAN
      >>> margin(JORDAN)
      1.0

    Source: ours.
    """
    old = _baseline(_numbers(JORDAN if baseline is None else baseline))
    new = measures(schedule, gain)
    first = np.searchsorted(-new.band, -old.band)  # bands fall with x
    start = np.append(_GRID, np.inf)[first]
    start[first == 0] = 0  # below the grid slopes decide
    with np.errstate(divide="ignore"):
        return float(min(np.min(_GRID / start), new.slope / old.slope))


def satisfies(
    schedule: Schedule, baseline: Schedule | None = None, *, gain: float = 1.0
) -> bool:
    """Whether a schedule may stand for another, whatever the spectrum.

        max_(y in [x, 1]) |F(y) - 1|  <=  that of the old one, for every x in (0, 1]
        F'(0) / rms_[0.02, 1](F)      >=  that of the old one

    In exact arithmetic: what rounding does is to be tested in the precision of use.

    Args:
      schedule: the new one.
      baseline: the old one, at gain 1; None: `JORDAN`.
      gain: what a scale is certain to enlarge the matrix by, compared with the
        Frobenius norm that the old one is used with.
    Returns: True or False.
    Example:
      >>> from orthoptax.matrix.schedules import CUBIC5, JORDAN
      >>> satisfies(JORDAN), satisfies(CUBIC5)
      (True, False)

    Source: ours.
    """
    return margin(schedule, baseline, gain=gain) >= 1


def cost(
    schedule: Schedule,
    rows: int,
    cols: int,
    *,
    gram: bool = False,
    price: float = 1.0,
    restarts: Iterable[int] = (),
) -> float:
    """FLOPs of the products of one matrix, m = min(rows, cols), n the other side.

        plain   sum over stages of  p 2 m^2 n + p c 2 m^3 + 2 m^2 n
        Gram    B (1 + p) 2 m^2 n + p (sum of c + 3 (K - B)) 2 m^3

    with c products of the polynomial in X X^H, K stages in B blocks.

    Args:
      schedule: one tuple of coefficients a stage.
      rows: of the matrix.
      cols: of the matrix.
      gram: of `gram_newton_schulz`, else of `newton_schulz`.
      price: p, of a product with a Hermitian result compared with another.
      restarts: of the Gram form.
    Returns: FLOPs, elementwise work left out.
    Example:
      >>> from orthoptax.matrix.schedules import JORDAN
      >>> cost(JORDAN, 10, 40) / 2e3, cost(JORDAN, 10, 40, gram=True) / 2e3
      (45.0, 25.0)

    Source: ours.
    """
    in_range("cost", "price", price)
    m, n = sorted((rows, cols))
    stages, inner = len(schedule), sum(map(inner_products, forms(schedule)))
    blocks = 1 + len(inside("cost", schedule, restarts)) if gram else stages
    small = inner + 3 * (stages - blocks)
    return blocks * (1 + price) * 2 * m * m * n + price * small * 2 * m**3


def cheapest(
    *,
    gain: float = 1.0,
    degrees: Sequence[int] = (3, 5, 7, 9, 17),
    baseline: Schedule | None = None,
    allowed: Callable[[tuple[int, ...]], bool] | None = None,
    stages: int = 4,
    price: float = 0.625,
    widen: float = _WIDEN,
) -> Chosen:
    """The cheapest composition that satisfies the rule.

    Of every sequence of degrees, from the cheapest on, the compositions are found that
    satisfy it with 1 % to spare (`margin`), and leave no more than E beyond their lower
    end: even if all singular values came out at 1 - E and 1 + E, the cosine to the
    polar factor, 1/sqrt(1 + E^2), would be the mean of the baseline over its root mean
    square on [0.02, 1]. Of those of one sequence, and of sequences of equal cost, the
    one is taken that comes nearest to 1: what a wider band saves at the bottom of a
    spectrum, it loses on all that has arrived.

    Args:
      gain: see `satisfies`.
      degrees: those that a stage may have.
      allowed: which sequences of degrees may be taken; None: all.
      baseline: None: `JORDAN`.
      stages: the most there may be.
      price: see `cost`; of square matrices in the plain form.
      widen: see `composition`: headroom for rounding, which a steep end enlarges. 1.03
        for products of 16 bits where no stage of degree 3 or 5 stands first.
    Returns: a `Chosen`.
    Raises: ValueError if nothing satisfies the rule.
    Example:
      >>> cheapest(gain=8, degrees=(3, 5, 9)).degrees
      (3, 5, 9)

    Source: ours.
    """
    every = range(1, stages + 1)
    sequences = [
        s
        for k in every
        for s in itertools.product(degrees, repeat=k)
        if allowed is None or allowed(s)
    ]
    total = lambda s: _units(s, price)
    for _, alike in itertools.groupby(sorted(sequences, key=total), total):
        found = [_best_end(s, baseline, gain, widen) for s in alike]
        best = min(found, key=lambda chosen: chosen.error)
        if best.schedule:
            return best
    raise ValueError(
        message(
            "cheapest",
            f"no composition of {stages} stages is as good as the baseline",
            "one that is",
            "Allow more stages or higher degrees",
        )
    )


def _units(degrees: tuple[int, ...], price: float) -> float:
    """Products of a square matrix in the plain form, rounded so that sums compare."""
    small = sum(_PRODUCTS[d] for d in degrees)
    return round(len(degrees) * (1 + price) + price * small, 9)


def _best_end(
    degrees: tuple[int, ...], baseline: Schedule | None, gain: float, widen: float
) -> Chosen:
    """The composition with the largest lower end that will do; an empty one if none."""
    baseline = JORDAN if baseline is None else baseline
    old, arrived = measures(baseline), _values(baseline, _PLATEAU)
    widest = np.std(arrived) / np.mean(arrived)  # so that 1/sqrt(1 + E^2) = mean/rms
    for lower in _LOWER[::-1].tolist():
        schedule = composition(degrees, lower=lower, widen=widen)
        top = float(_values(schedule, np.asarray(lower)))
        if 1 - top > widest:
            break  # a smaller end leaves a wider band
        steep = gain * np.prod([stage[0] for stage in schedule])
        if 2 * steep < old.slope:  # F is 2 at most
            continue
        if margin(schedule, baseline, gain=gain) >= _SPARE:
            return Chosen(degrees, lower, schedule, 1 - top)
    return Chosen(degrees, 1.0, (), np.inf)


def _values(schedule: Schedule, x: np.ndarray) -> np.ndarray:
    for stage in schedule:
        x = x * polynomial.polyval(x * x, np.asarray(stage))
    return x


def _numbers(schedule: Schedule) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(c) for c in stage) for stage in schedule)


@functools.lru_cache
def _baseline(schedule: tuple[tuple[float, ...], ...]) -> Measures:
    return measures(schedule)
