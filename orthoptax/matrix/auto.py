# SPDX-License-Identifier: Apache-2.0
"""Form, schedule and products by shape: the cheapest that is as good as the classic."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import count, in_range, message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Polar, Products, Schedule
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.choose import cost
from orthoptax.matrix.chosen import OURS, OURS_16_BITS, OURS_16_BITS_ERROR, OURS_ERROR
from orthoptax.matrix.gram import gram_newton_schulz
from orthoptax.matrix.gram_norms import schatten_8
from orthoptax.matrix.minimax import minimax
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.restarts import quiet_restarts
from orthoptax.matrix.schedules import JORDAN
from orthoptax.matrix.symmetric import block_products, multiplications

_WIDEN = 1.005  # as in `choose`
_LEAST = 1e-6  # error that float32 can keep


class Hardware(NamedTuple):
    """What multiplies on a platform.

    halve: the least number of rows for which products with a Hermitian result are
    halved once; twice from double that on. products: who computes them from `halve` on
    instead, such as a kernel. price: what those cost, compared with a plain product.
    """

    halve: int = 256
    products: Products | None = None
    price: float = 0.5


class Candidate(NamedTuple):
    """form: "plain" or "Gram". levels: how often products are halved; -1: by a kernel.

    flops: of the products of one matrix. error: how far from 1 singular values end that
    the schedule reaches, in exact arithmetic.
    """

    form: str
    degrees: tuple[int, ...]
    schedule: Schedule
    restarts: tuple[int, ...]
    levels: int
    flops: float
    error: float


class Explanation(NamedTuple):
    """What `auto` weighs for a matrix; `str` makes a table of it.

    chosen: one of the candidates. classic: FLOPs of five plain classic stages.
    """

    rows: int
    cols: int
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    classic: float

    def __str__(self) -> str:
        head = ("form", "degrees", "restarts", "halved", "FLOPs", "of classic", "error")
        rows: list[tuple[str, ...]] = [head]
        for c in self.candidates:
            rows.append(
                (
                    c.form + (" *" if c is self.chosen else ""),
                    " ".join(map(str, c.degrees)),
                    " ".join(map(str, c.restarts)) or "none",
                    "kernel" if c.levels < 0 else str(c.levels),
                    f"{c.flops:.3g}",
                    f"{c.flops / self.classic:.3f}",
                    f"{c.error:.2g}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(
                cell.ljust(w) for cell, w in zip(row, widths, strict=True)
            ).rstrip()
            for row in rows
        )
        return "\n".join([f"{self.rows} x {self.cols}, * chosen", *lines])


def explain(
    rows: int,
    cols: int,
    *,
    error: float | None = None,
    compute_dtype: DTypeLike | None = None,
    hardware: Hardware | None = None,
) -> Explanation:
    """Says what `auto` would do with a (rows, cols) matrix, and why.

    Args:
      rows: of the matrix.
      cols: of the matrix.
      error: see `auto`.
      compute_dtype: dtype of the products; None: float32.
      hardware: None: `Hardware()`.
    Returns: an `Explanation`.
    Raises: ValueError for an error or a shape that cannot be.
    Example:
      >>> explain(1024, 4096).chosen.form
      'Gram'

    Source: ours; `choose.cost`.
    """
    count("explain", "rows", rows)
    count("explain", "cols", cols)
    m, n = sorted((rows, cols))
    hardware = Hardware() if hardware is None else hardware
    short = jnp.dtype(compute_dtype or jnp.float32).itemsize < 4
    schedule, reached = _schedule(error, short)
    levels = (m >= hardware.halve) + (m >= 2 * hardware.halve)
    price = multiplications(m, 1, levels) / m**2
    if levels and hardware.products is not None:
        levels, price = -1, hardware.price
    rounding = float(jnp.finfo(compute_dtype or jnp.float32).eps) / 2
    starts = quiet_restarts(schedule, long=rounding)
    degrees = tuple(2 * len(stage) - 1 for stage in schedule)
    flops = [
        cost(schedule, m, n, price=price),
        cost(schedule, m, n, gram=True, price=price, restarts=starts),
    ]
    candidates = (
        Candidate("plain", degrees, schedule, (), levels, flops[0], reached),
        Candidate("Gram", degrees, schedule, starts, levels, flops[1], reached),
    )
    chosen = min(candidates, key=lambda c: c.flops)  # the first of equals
    return Explanation(rows, cols, candidates, chosen, cost(JORDAN, m, n))


def auto(
    error: float | None = None,
    *,
    hardware: Hardware | Mapping[str, Hardware] | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Polar:
    """The cheapest iteration for each shape that is as good as the classic one.

    By FLOPs it takes the plain or the Gram form, restarts where rounding asks for them,
    and products of which one triangle is computed. The schedule is `OURS`, or for
    16-bit products `OURS_16_BITS`, which satisfy the rule of `satisfies` against five
    stages of `JORDAN`; the scale is `schatten_8`. See `explain`.

    Args:
      error: how far from 1 singular values may end, those not very small; None: as
        `OURS` or `OURS_16_BITS`, 0.06 or 0.16. For less, stages are added. Static.
      hardware: what multiplies, for all platforms or {platform: `Hardware`} with the
        keys "cpu", "cuda", "rocm", "tpu" and "default"; None: `Hardware()`. Which holds
        is decided where the program is lowered. Static.
      compute_dtype: dtype of the products, which accumulate in float32 or wider; None:
        float32 for 16-bit input, else the input's. Static.
      precision: of every product; None means HIGHEST. With less for float32, pass the
        `compute_dtype` it amounts to. Static.
    Returns: a `Polar`; each matrix of a batch is its own. 0 goes to 0.
    Raises: ValueError if `error` is not in [1e-6, 1), or a mapping has no "default".
    Example:
      >>> import jax.numpy as jnp
      >>> o = auto(error=1e-4)(jnp.asarray([[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]]))
      >>> o.round(3).tolist()
      [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]

    Source: ours.
    """
    _schedule(error, False)  # raises now
    table = hardware if isinstance(hardware, Mapping) else {"default": hardware}
    if "default" not in table:
        raise ValueError(
            message(
                "auto",
                f"hardware for {sorted(table)} leaves other platforms without",
                "an entry 'default'",
                "Add it",
            )
        )

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        work = work_dtype(x.dtype, compute_dtype)
        rows, cols = inner.shape(x)
        kernels: dict[Any, Polar] = {}
        branches = {}
        for platform, entry in table.items():
            entry = Hardware() if entry is None else entry
            about = explain(
                max(rows, 1),
                max(cols, 1),
                error=error,
                compute_dtype=jnp.finfo(work).dtype,
                hardware=entry,
            ).chosen
            key = (about, entry.products if about.levels < 0 else None)
            if key not in kernels:
                kernels[key] = _kernel(about, key[1], compute_dtype, precision)
            branches[platform] = _on(kernels[key], inner)
        if len(kernels) == 1:
            return branches["default"](x)
        return lax.platform_dependent(x, **branches)

    return polar


def _on(kernel: Any, inner: _inner.Inner) -> Any:
    return lambda x: kernel(x, inner=inner)


def _kernel(
    about: Candidate, products: Products | None, compute_dtype: Any, precision: Any
) -> Polar:
    """The iteration that a candidate stands for."""
    if about.levels > 0:
        products = block_products(about.levels)
    options: dict[str, Any] = {
        "scale": schatten_8(),
        "compute_dtype": compute_dtype,
        "precision": precision,
        "products": products,
    }
    if about.form == "Gram":
        return gram_newton_schulz(about.schedule, restarts=about.restarts, **options)
    return newton_schulz(about.schedule, **options)


def _schedule(error: float | None, short: bool) -> tuple[Schedule, float]:
    """(schedule, what it leaves) of at most this error."""
    stages, left = (OURS_16_BITS, OURS_16_BITS_ERROR) if short else (OURS, OURS_ERROR)
    if error is None:
        return stages, left
    in_range("auto", "error", error, _LEAST, 1.0)
    while left > error:
        found = [minimax(d, 1 - left, _WIDEN * (1 + left)) for d in (3, 5, 9)]
        best = next((f for f in found if f.error <= error), found[-1])
        stages, left = (*stages, best.coefficients), best.error
    return stages, left
