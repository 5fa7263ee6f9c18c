# SPDX-License-Identifier: Apache-2.0
"""Form, schedule and products by shape: the cheapest that is as good as the classic."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from orthoptax._dtypes import work_dtype
from orthoptax._types import Polar, Products, Schedule
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.explain import explain, schedule_for, table_of
from orthoptax.matrix.hardware import ROUNDINGS, Hardware, rounding
from orthoptax.matrix.symmetric import block_products


def auto(
    error: float | None = None,
    *,
    hardware: Hardware | Mapping[str, Hardware] | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Polar:
    """The cheapest iteration for each shape that is as good as the classic one.

    By FLOPs, and prices that were timed, it takes the plain form, the Gram form or an
    eigendecomposition, restarts where rounding asks for them, and products of which one
    triangle is computed. The schedule is `OURS`, or `OURS_16_BITS` where products round
    too much for that, which satisfy the rule of `satisfies` against five stages of
    `JORDAN`; the scale is `schatten_8`. See `explain`.

    The Gram form rounds the Gram matrix: where singular values are 1/1000 of the
    largest, float32 leaves results 1e-3 of their largest entry apart from exact ones,
    and from those of programs that sum in another order, and
    `newton_schulz(OURS, scale=schatten_8())` 3e-5.

    Args:
      error: how far from 1 singular values may end, those not very small; None: as
        `OURS` or `OURS_16_BITS`, 0.04 or 0.16. For less, stages are added. Static.
      hardware: what multiplies, for all platforms or {platform: `Hardware`} with the
        keys "cpu", "cuda", "rocm", "tpu" and "default"; None: `HARDWARE`. Which holds
        is decided where the program is lowered. Static.
      compute_dtype: dtype of the products, which accumulate in float32 or wider; None:
        float32 for 16-bit input, else the input's. Static.
      precision: of every product; None means HIGHEST, whatever is set for the process.
        What it amounts to on the platform (`rounding`) decides schedule and restarts.
        Static.
    Returns: a `Polar`; each matrix of a batch is its own. 0 goes to 0.
    Raises: ValueError if `error` is not in [1e-6, 1), a mapping has no "default", or
      the precision is not known to `rounding`.
    Example:
      >>> import jax.numpy as jnp
      >>> o = auto(error=1e-4)(jnp.asarray([[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]]))
      >>> o.round(3).tolist()
      [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]

    Source: ours.
    """
    schedule_for(error, True)  # raises now, as do the next two
    table = table_of("auto", hardware)
    rounding(precision=precision)
    platforms = sorted({*ROUNDINGS, *table})

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        work = jnp.finfo(work_dtype(x.dtype, compute_dtype)).dtype
        rows, cols = inner.shape(x)
        made: dict[Any, Any] = {}
        branches = {}
        for platform in platforms:
            about = explain(
                max(rows, 1),
                max(cols, 1),
                error=error,
                compute_dtype=work,
                precision=precision,
                platform=platform,
                hardware=table,
            ).chosen
            entry = table.get(platform, table["default"])
            products = entry.products if about.levels < 0 else None
            # Not FLOPs: what is the same program is one branch.
            key = about.build, about.schedule, about.restarts, about.levels, products
            if key not in made:
                static = (*key, compute_dtype, precision, inner)
                made[key] = functools.partial(_kernel, *static)
            branches[platform] = made[key]
        default = branches["default"]
        others = {k: v for k, v in branches.items() if v is not default}
        if not others:
            return default(x)
        return lax.platform_dependent(x, default=default, **others)

    return polar


@functools.partial(jax.jit, static_argnums=range(8))
def _kernel(
    build: Callable[..., Any],  # makes a `Polar` that takes `inner`
    schedule: Schedule,
    restarts: tuple[int, ...],
    levels: int,
    products: Products | None,
    compute_dtype: Any,
    precision: Any,
    inner: _inner.Inner,
    x: jax.Array,
) -> jax.Array:
    """The iteration that a candidate stands for.

    Traced and lowered once for all stacks of matrices of a shape, and all platforms
    that take it, not once for each: hundreds of operations.
    """
    products = block_products(levels) if levels > 0 else products
    iterate = build(
        schedule,
        restarts,
        compute_dtype=compute_dtype,
        precision=precision,
        products=products,
    )
    return iterate(x, inner=inner)
