# SPDX-License-Identifier: Apache-2.0
"""Where the Gram form restarts, by how much rounding it would amplify; on the host."""

import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import numpy as np

from orthoptax._check import in_range, message
from orthoptax._types import Schedule

_POINTS = 10000
_FLOAT32 = -1e-7  # most negative eigenvalue that rounding leaves in X X^H of norm 1
_CALM = 100.0  # times the rounding of float32, this amplification is some 1e-5
_USELESS = 1e8  # nothing of a 24-bit result survives


def restart_metric(
    schedule: Schedule, restarts: Iterable[int] = (), eta: float = -4e-4
) -> float:
    """How much the Gram form of this schedule amplifies a negative eigenvalue.

        x = 10000 points from 1 to 1e-10
        x <- x q;  rho <- x^2 + eta;  q <- 1             at the start and every restart
        z <- c_0 + c_1 rho + c_2 rho^2 + ...             stage by stage
        q <- q z;  rho <- rho z^2;  metric <- max(metric, max|q| / min|q|)

    Args:
      schedule: one tuple of coefficients a stage.
      restarts: the stages, counted from 0, before which a block begins; 0 is ignored.
      eta: most negative eigenvalue that rounding leaves in the Gram matrix: -4e-4 where
        it is stored in float16, -1e-7 in float32.
    Returns: the largest spread of the factor Q over the stages; infinite if Q overflows
      or vanishes somewhere.
    Raises: ValueError for a restart that is not inside the schedule.
    Example:
      >>> from orthoptax.matrix.schedules import QUINTIC
      >>> round(restart_metric(QUINTIC, (2,)), 1)
      53.2

    Source: Dao-AILab/gram-newton-schulz@f08f25e, restart_autotune.py.
    """
    starts = inside("restart_metric", schedule, restarts)
    x, q, worst = np.logspace(0, -10, _POINTS), np.ones(_POINTS), 0.0
    rho = x**2 + eta
    with np.errstate(all="ignore"):
        for i, stage in enumerate(schedule):
            if i in starts:
                x, q = x * q, np.ones(_POINTS)
                rho = x**2 + eta
            z = np.polynomial.polynomial.polyval(rho, np.asarray(stage))
            q, rho = q * z, rho * z**2
            spread = np.max(np.abs(q)) / np.min(np.abs(q))
            worst = max(worst, math.inf if np.isnan(spread) else float(spread))
    return worst


def best_restarts(
    schedule: Schedule, count: int = 1, eta: float = -4e-4
) -> tuple[int, ...]:
    """The `count` restarts of least metric, of all there are.

    Args:
      schedule: one tuple of coefficients a stage.
      count: how many restarts.
      eta: see `restart_metric`.
    Returns: the stages, counted from 0, before which a block begins.
    Raises: ValueError if `count` is negative or not below the number of stages, or if
      the least metric is 1e8 or more.
    Example:
      >>> from orthoptax.matrix.schedules import JORDAN
      >>> best_restarts(JORDAN, 1)
      (3,)

    Source: Dao-AILab/gram-newton-schulz@f08f25e, restart_autotune.py.
    """
    in_range("best_restarts", "count", operator.index(count), 0, max(len(schedule), 1))
    metric, restarts = _best(schedule, count, eta)
    if metric >= _USELESS:
        raise ValueError(
            message(
                "best_restarts",
                f"count={count} leaves the metric at {metric:.3g}",
                f"a metric below {_USELESS:g}",
                "Allow more restarts, or use newton_schulz",
            )
        )
    return restarts


def fewest_restarts(schedule: Schedule, eta: float = _FLOAT32) -> tuple[int, ...]:
    """The fewest restarts, best placed, that keep the metric at 100 or below.

    Args:
      schedule: one tuple of coefficients a stage.
      eta: see `restart_metric`; the default is for a small side in float32.
    Returns: the stages, counted from 0, before which a block begins. If a restart
      before every stage leaves more than 100, the fewest that leave no more than that.
    Example:
      >>> from orthoptax.matrix.schedules import POLAR_EXPRESS_105
      >>> fewest_restarts(POLAR_EXPRESS_105)
      (2,)

    Source: ours, on the metric of Dao-AILab/gram-newton-schulz@f08f25e.
    """
    every = tuple(range(1, len(schedule)))
    bound = max(_CALM, restart_metric(schedule, every, eta))
    for count in range(len(every)):
        metric, restarts = _best(schedule, count, eta)
        if metric <= bound:
            return restarts
    return every


def quiet_restarts(
    schedule: Schedule,
    *,
    long: float = 2.0**-24,
    small: float = 2.0**-24,
    allowed: float = 0.125,
) -> tuple[int, ...]:
    """The fewest restarts for which no block amplifies rounding above `allowed`.

    A block of stages with slopes q_1 ... q_k at 0 multiplies X by a Q of that product
    on the smallest directions, about 1 on the largest. Rounding Q adds `long` of the
    former to the latter, so their error is long q_1 ... q_k. A stage multiplies R from
    both sides: after k - 1 of them rounding has left it with eigenvalues of
    small (q_1 ... q_(k-1))^2 where it has none, of either sign.

    Args:
      schedule: one tuple of coefficients a stage.
      long: rounding of the products with X: 2^-24 for float32, 2^-8 for bfloat16.
      small: rounding of the (m, m) side, float32 in `gram_newton_schulz`.
      allowed: largest amplified rounding.
    Returns: the stages, counted from 0, before which a block begins; of equally many
      the quietest. Before every stage, if nothing less will do.
    Example:
      >>> from orthoptax.matrix.chosen import OURS_16_BITS
      >>> quiet_restarts(OURS_16_BITS), quiet_restarts(OURS_16_BITS, long=2.0**-8)
      ((), (2,))

    Source: ours.
    """
    slopes = [abs(float(stage[0])) for stage in schedule]
    every = tuple(range(1, len(slopes)))

    def noise(starts: tuple[int, ...]) -> float:
        blocks = itertools.pairwise([0, *starts, len(slopes)])
        return max(
            max(long * math.prod(q), small * math.prod(q[:-1]) ** 2 * (len(q) > 1))
            for q in (slopes[a:b] for a, b in blocks)
        )

    for count in range(len(every)):
        found = min(itertools.combinations(every, count), key=noise)
        if noise(found) <= allowed:
            return found
    return every


def _best(
    schedule: Sequence[Sequence[float]], count: int, eta: float
) -> tuple[float, tuple[int, ...]]:
    return min(
        (restart_metric(schedule, chosen, eta), chosen)
        for chosen in itertools.combinations(range(1, len(schedule)), count)
    )


def inside(where: str, schedule: Schedule, restarts: Iterable[int]) -> tuple[int, ...]:
    """The restarts but for 0, which begins a block anyway."""
    starts = tuple(operator.index(i) for i in restarts)
    if any(not 0 <= i < len(schedule) for i in starts):
        raise ValueError(
            message(
                where,
                f"restarts={starts} are not all inside the schedule",
                f"stages from 1 to {len(schedule) - 1}, counted from 0",
                "Leave the others out",
            )
        )
    return tuple(i for i in starts if i)
