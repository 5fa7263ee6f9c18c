# SPDX-License-Identifier: Apache-2.0
"""What `auto` may choose from, what each would cost, and what would be chosen."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import count, in_range, message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Polar, Schedule
from orthoptax.matrix.choose import cost
from orthoptax.matrix.chosen import OURS, OURS_16_BITS, OURS_16_BITS_ERROR, OURS_ERROR
from orthoptax.matrix.eigen import eigh
from orthoptax.matrix.gram import gram_newton_schulz
from orthoptax.matrix.gram_norms import schatten_8
from orthoptax.matrix.hardware import HARDWARE, Eigen, Hardware, rounding
from orthoptax.matrix.minimax import minimax
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.restarts import quiet_restarts
from orthoptax.matrix.schedules import JORDAN

_WIDEN = 1.005  # as in `choose`
_LEAST = 1e-6  # error that float32 can keep
# Roundings that degree 17 stands in each form, and the small side of the Gram form
# whatever the degree, on the spectra of tests/unit/matrix/test_validation.py.
PLAIN_BOUND, GRAM_BOUND, SMALL_BOUND = 2.0**-11, 2.0**-16, 2.0**-11


class Candidate(NamedTuple):
    """A way to the polar factor, and what speaks for it.

    form: its name. build: (schedule, restarts, compute_dtype, precision, products) ->
    `Polar`. levels: how often products are halved; -1: by a kernel. flops: of the
    products of one matrix, or as many as take the time; infinite: not known. error: how
    far from 1 singular values end that it reaches, in exact arithmetic. offered:
    whether it was weighed. note: why not, or what to know of its price.
    """

    form: str
    build: Callable[..., Polar]
    degrees: tuple[int, ...]
    schedule: Schedule
    restarts: tuple[int, ...]
    levels: int
    flops: float
    error: float
    offered: bool = True
    note: str = ""


class Explanation(NamedTuple):
    """What `auto` weighs for a matrix; `str` makes a table of it.

    chosen: of the candidates that were weighed the first of least FLOPs.
    classic: FLOPs of five plain classic stages. rounding: unit of rounding of the
    products.
    """

    rows: int
    cols: int
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    classic: float
    rounding: float

    def __str__(self) -> str:
        head = ("form", "degrees", "restarts", "halved", "FLOPs", "of classic", "error")
        rows: list[tuple[str, ...]] = [(*head, "why")]
        for c in self.candidates:
            known = c.flops < math.inf
            rows.append(
                (
                    c.form + (" *" if c is self.chosen else ""),
                    " ".join(map(str, c.degrees)) or "-",
                    " ".join(map(str, c.restarts)) or "none",
                    "kernel" if c.levels < 0 else str(c.levels),
                    f"{c.flops:.3g}" if known else "unknown",
                    f"{c.flops / self.classic:.3f}" if known else "",
                    f"{c.error:.2g}",
                    self._why(c),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(
                cell.ljust(w) for cell, w in zip(row, widths, strict=True)
            ).rstrip()
            for row in rows
        )
        size = f"{self.rows} x {self.cols}"
        unit = f"products rounded to 2^{math.log2(self.rounding):.0f}"
        return "\n".join([f"{size}, {unit}, * chosen", *lines])

    def _why(self, c: Candidate) -> str:
        if not c.offered:
            return f"left out: {c.note}"
        times = f"{c.flops / self.chosen.flops:.2f} of the chosen"
        words = ("least FLOPs" if c is self.chosen else times, c.note)
        return ": ".join(filter(None, words))


def explain(
    rows: int,
    cols: int,
    *,
    error: float | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    platform: str = "default",
    hardware: Hardware | Mapping[str, Hardware] | None = None,
) -> Explanation:
    """Says what `auto` would do with a (rows, cols) matrix, and why.

    Args:
      rows: of the matrix.
      cols: of the matrix.
      error: see `auto`.
      compute_dtype: dtype of the products; None: float32.
      precision: see `auto`.
      platform: which the program is for: "cpu", "cuda", "rocm", "tpu", or "default" for
        any other.
      hardware: see `auto`.
    Returns: an `Explanation`.
    Raises: ValueError for an error, a precision or a shape that cannot be.
    Example:
      >>> explain(1024, 4096).chosen.form
      'Gram'

    Source: ours; `choose.cost`.
    """
    count("explain", "rows", rows)
    count("explain", "cols", cols)
    m, n = sorted((rows, cols))
    table = table_of("explain", hardware)
    entry = table.get(platform, table["default"])
    dtype = jnp.dtype(compute_dtype or jnp.float32)
    unit = lambda of: rounding(of, precision, platform=platform, hardware=entry)
    long, small = unit(dtype), unit(work_dtype(dtype))
    coarse = max(long, small)
    candidates = []
    for form, build, bound in (
        ("plain", _plain, PLAIN_BOUND),
        ("Gram", _gram, GRAM_BOUND),
    ):
        gram = build is _gram
        price, levels = entry.hermitian(m, gram=gram), entry.levels(m, gram=gram)
        fine = dtype.itemsize >= 4 and coarse <= bound
        schedule, own, left = schedule_for(error, fine)
        starts = _restarts(schedule, own, long, small) if gram else ()
        flops = cost(schedule, m, n, gram=gram, price=price, restarts=starts)
        degrees = tuple(2 * len(stage) - 1 for stage in schedule)
        fine = not gram or small <= SMALL_BOUND
        note = "" if fine else "its small side rounds too much"
        made = (form, build, degrees, schedule, starts, levels, flops, left, fine, note)
        candidates.append(Candidate(*made))
    fine = coarse <= float(jnp.finfo(dtype).eps) / 2 and dtype.itemsize >= 4
    candidates.append(_eigen_candidate(m, n, entry.eigen(), fine))
    weighed = [c for c in candidates if c.offered]
    chosen = min(weighed, key=lambda c: c.flops)  # the first of equals
    every = tuple(candidates)
    return Explanation(rows, cols, every, chosen, cost(JORDAN, m, n), coarse)


def _restarts(
    schedule: Schedule, own: int, long: float, small: float
) -> tuple[int, ...]:
    """Where rounding asks for one, and before the stages that were added.

    They bring values nearer to 1 if they see the Gram matrix of what is there, not one
    that carries the rounding of the first.
    """
    starts = quiet_restarts(schedule[:own], long=long, small=small)
    if len(schedule) == own:
        return starts
    later = quiet_restarts(schedule[own:], long=long, small=small)
    return (*starts, own, *(own + i for i in later))


def _plain(schedule: Schedule, restarts: Any, **options: Any) -> Polar:
    del restarts
    return newton_schulz(schedule, scale=schatten_8(), **options)


def _gram(schedule: Schedule, restarts: Any, **options: Any) -> Polar:
    scale = schatten_8()
    return gram_newton_schulz(schedule, restarts=restarts, scale=scale, **options)


def _eigen(schedule: Any, restarts: Any, products: Any, **options: Any) -> Polar:
    del schedule, restarts, products
    return eigh(**options)


def _eigen_candidate(m: int, n: int, prices: Eigen, fine: bool) -> Candidate:
    """The eigendecomposition, weighed by what it takes on a machine that is shared."""
    alone, loaded = prices
    price = alone if loaded is None else loaded
    known = [(alone, "alone"), (loaded, "beside other programs")]
    said = [f"{number:.3g} products {when}" for number, when in known if number]
    if loaded is None:
        said.append("not timed beside other programs")
    note = ", ".join(said) if fine else "products round too much"
    flops = 4 * m * m * n + (math.inf if price is None else 1 + price) * 2 * m**3
    offered = loaded is not None and fine
    return Candidate("eigen", _eigen, (), (), (), 0, flops, 0.0, offered, note)


def table_of(
    where: str, hardware: Hardware | Mapping[str, Hardware] | None
) -> Mapping[str, Hardware]:
    """{platform: what multiplies there}."""
    if hardware is None:
        return HARDWARE
    table = hardware if isinstance(hardware, Mapping) else {"default": hardware}
    if "default" not in table:
        raise ValueError(
            message(
                where,
                f"hardware for {sorted(table)} leaves other platforms without",
                "an entry 'default'",
                "Add it",
            )
        )
    return table


@functools.lru_cache
def schedule_for(error: float | None, fine: bool) -> tuple[Schedule, int, float]:
    """(schedule, how many stages of it are ours, what it leaves: at most the error)."""
    stages, left = (OURS, OURS_ERROR) if fine else (OURS_16_BITS, OURS_16_BITS_ERROR)
    own = len(stages)
    if error is None:
        return stages, own, left
    in_range("auto", "error", error, _LEAST, 1.0)
    while left > error:
        lower, upper = (1 - left) / _WIDEN, (1 + left) * _WIDEN
        found = [minimax(d, lower, upper) for d in (3, 5, 9)]
        best = next((f for f in found if f.error <= error), found[-1])
        stages, left = (*stages, best.coefficients), best.error
    return stages, own, left
