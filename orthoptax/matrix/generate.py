# SPDX-License-Identifier: Apache-2.0
"""Schedules made on the host: minimax polynomials, one after another.

Taking for every stage the minimax polynomial of the interval that the one before left
is optimal among all compositions of these degrees (Amsel et al., arXiv:2505.16932).
"""

from collections.abc import Sequence
from typing import NamedTuple

from orthoptax._check import count, in_range
from orthoptax._types import Schedule
from orthoptax.matrix.minimax import minimax

_ON_DELTA = 1e-7  # the authors' bisection stops this close to delta
_HALVINGS = 200  # float64 has no point left between two neighbours long before


def composition(
    degrees: Sequence[int],
    *,
    lower: float = 1e-3,
    upper: float = 1.0,
    widen: float = 1.0,
) -> Schedule:
    """Best composition of odd polynomials that takes [lower, upper] near 1.

        p, E <- minimax on [l, widen u];   l, u <- 1 - E, 1 + E         stage by stage

    Args:
      degrees: one odd number from 3 to 17 a stage.
      lower: smallest singular value that must arrive; those below keep their order.
      upper: largest singular value, 1 after a scale by a norm.
      widen: headroom that every stage has above the largest value, for rounding; 1 for
        none.
    Returns: a `Schedule`.
    Raises: ValueError if there is no degree, or for a degree or interval that `minimax`
      cannot take.
    Example:
      >>> [len(stage) for stage in composition((3, 5, 9), lower=1.5e-2, widen=1.005)]
      [2, 3, 5]

    Source: Amsel et al., The Polar Express, arXiv:2505.16932; Grishina et al., CANS,
      arXiv:2506.10935 (widen 1.01 at degree 5).
    """
    count("composition", "len(degrees)", len(degrees))
    in_range("composition", "widen", widen, 1.0)
    stages = []
    for degree in degrees:
        coefficients, error = minimax(degree, lower, widen * upper)
        stages.append(coefficients)
        lower, upper = 1 - error, 1 + error
    return tuple(stages)


def polar_express(
    steps: int,
    *,
    degree: int = 5,
    lower: float = 1e-3,
    safety: float = 0.0,
    cushion: float = 0.0,
    end_is_largest: bool = False,
) -> Schedule:
    """The Polar Express generator: `composition` with room for rounding.

        e <- max(l, cushion u);   p <- minimax on [e, u]
        p <- 2 p / (p(l) + max p)             where e > l: [l, u] lands around 1
        p(x) <- p(x / (1 + safety))           in all stages but the last
        l <- p(l);   u <- 2 - l

    A cushion bounds the first slopes, a safety lets singular values exceed 1 a little.
    The last stage has no safety, so a list may not be cut.

    Args:
      steps: stages.
      degree: of each, odd, 3 to 17.
      lower: smallest singular value that must arrive.
      safety: headroom s: values up to 1 + s times the largest are mapped as designed.
      cushion: smallest l/u that a polynomial is designed for.
      end_is_largest: take p(u) for max p. The authors' form, for parity: the same for
        degrees 5, 9, 13, 17, but p(u) is the SMALLEST value for degrees 3, 7, 11, 15,
        and the list then diverges.
    Returns: a `Schedule`.
    Raises: ValueError if `steps` is below 1, or a number is out of range.
    Example:
      >>> [round(c, 4) for c in polar_express(5, safety=0.02, cushion=0.02)[0]]
      [8.1566, -22.4833, 15.8788]

    Deviations: where the cushion acts and the degree is 3, 7, 11 or 15, the authors'
      code centres with p(u), which is 1 - E; ours with the maximum, 1 + E.
    Source: Amsel et al., The Polar Express, arXiv:2505.16932; code
      NoahAmsel/PolarExpress@458c71b, polar_express/_core.py.
    """
    count("polar_express", "steps", steps)
    in_range("polar_express", "safety", safety)
    in_range("polar_express", "cushion", cushion, 0.0, 1.0)
    stages, upper, room = [], 1.0, 1 + safety
    for step in range(steps):
        p, error = minimax(degree, max(lower, cushion * upper), upper)
        if cushion * upper > lower:
            largest = _value(p, upper) if end_is_largest else 1 + error
            p = tuple(c * 2 / (_value(p, lower) + largest) for c in p)
        if step < steps - 1:
            p = tuple(c / room ** (2 * j + 1) for j, c in enumerate(p))
        stages.append(p)
        lower = _value(p, lower)
        upper = 2 - lower
        lower = min(lower, upper)
    return tuple(stages)


class CansSchedule(NamedTuple):
    """stages: a `Schedule`. lower: it takes [lower, 1] to [1 - delta, 1 + delta]."""

    stages: Schedule
    lower: float


def cans_schedule(
    steps: int, degree: int = 5, delta: float = 0.3, *, upper: float = 1.0
) -> CansSchedule:
    """The stages that lift the smallest singular values most while all stay near 1.

        find the least a such that `steps` minimax stages take [a, upper]
        to [1 - delta, 1 + delta]                                    by bisection

    Args:
      steps: stages.
      degree: of each, odd, 3 to 17.
      delta: how far from 1 the result may be, in (0, 1).
      upper: largest singular value.
    Returns: a `CansSchedule`.
    Raises: ValueError if `steps` is below 1, or a number is out of range.
    Example:
      >>> round(cans_schedule(4, 5, 0.3).lower, 5)
      0.00214

    Source: Grishina et al., CANS, arXiv:2506.10935; code
      GrishKate/accelerating_orthogonalization, polynomials.py.
    """
    count("cans_schedule", "steps", steps)
    in_range("cans_schedule", "delta", delta, _ON_DELTA, 1.0)
    low, high, stages = 0.0, float(upper), ()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        start, end, error, stages = middle, float(upper), 0.0, ()
        for _ in range(steps):
            p, error = minimax(degree, start, end)
            start, end, stages = 1 - error, 1 + error, (*stages, p)
        low, high = (low, middle) if error < delta else (middle, high)
        if abs(error - delta) <= _ON_DELTA:
            break
    return CansSchedule(stages, (low + high) / 2)


def cans(
    steps: int,
    *,
    degree: int = 5,
    first: int = 0,
    delta: float = 0.99,
    lower: float = 0.01,
    widen: float | None = None,
) -> Schedule:
    """CANS: `first` stages that reach [1 - delta, 1 + delta], then `steps` that finish.

    For inputs whose largest singular value is at most 1 and near it, as after a Gelfand
    (Schatten) scale. A compiled program holds all stages: the authors' test for early
    convergence fires only where the stages left change nothing.

    Args:
      steps: minimax stages after the first ones.
      degree: of each stage, odd, 3 to 17.
      first: stages of `cans_schedule(first, degree, delta)` in front; 0 for none.
      delta: what the first ones reach. Without effect where `first` is 0.
      lower: left end of the interval where `first` is 0.
      widen: see `composition`, here not of the first of the `steps`; None: 1.01 for
        degree 5, else 1, as in the authors' code.
    Returns: a `Schedule`.
    Raises: ValueError if `steps` or `first` is out of range.
    Example:
      >>> len(cans(3, first=1))
      4

    Source: Grishina et al., CANS, arXiv:2506.10935; code
      GrishKate/accelerating_orthogonalization, polynomials.py.
    """
    count("cans", "steps", steps)
    in_range("cans", "first", first)
    widen = (1.01 if degree == 5 else 1.0) if widen is None else widen
    degrees = (degree,) * steps
    if not first:
        return composition(degrees, lower=lower, upper=1 / widen, widen=widen)
    upper = (1 + delta) / widen  # so that the first of the steps has no headroom
    return (
        *cans_schedule(first, degree, delta).stages,
        *composition(degrees, lower=1 - delta, upper=upper, widen=widen),
    )


def _value(p: Sequence[float], x: float) -> float:
    """p(x), by Horner."""
    total = 0.0
    for c in reversed(p):
        total = total * x * x + c
    return total * x
