# SPDX-License-Identifier: Apache-2.0
"""Which kernel for which shape: a table, read where shapes are known."""

from collections.abc import Callable, Mapping

import jax

from orthoptax._check import is_callable
from orthoptax._types import Polar, Schedule
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.schedules import JORDAN, ROOT_BY_SHAPE


def by_shape(
    table: Mapping[tuple[int, int], Schedule] | None = None,
    *,
    otherwise: Schedule | None = None,
    kernel: Callable[..., Polar] | None = None,
) -> Polar:
    """Takes the schedule from the shape of the matrix.

    Coefficients may be tuned to the spectra that matrices of a shape have. Wide and
    tall matrices of the same two sides share an entry.

    Args:
      table: {(short side, long side): schedule}; None: `ROOT_BY_SHAPE`. Static.
      otherwise: the schedule of all other shapes; None: `JORDAN`. Static.
      kernel: makes a `Polar` of a schedule, such as
        `functools.partial(newton_schulz, scale=aol())`; None: `newton_schulz`. Static.
    Returns: a `Polar`.
    Raises: TypeError if `kernel` is not a function; and what `kernel` raises.
    Example:
      >>> import jax.numpy as jnp
      >>> polar = by_shape({(1, 2): [(2.0, -1.0)]}, otherwise=[(3.0, -1.0)])
      >>> polar(jnp.asarray([[0.0, 5.0]])).tolist()
      [[0.0, 1.0]]
      >>> polar(jnp.asarray([[0.0, 5.0, 0.0]])).tolist()
      [[0.0, 2.0, 0.0]]

    Source: He et al., ROOT, arXiv:2511.20626; code huawei-noah/noah-research@aa0f80c,
      ROOT/examples/example_train.py.
    """
    kernel = newton_schulz if kernel is None else kernel
    is_callable("by_shape", "kernel", kernel, "orthoptax.matrix.newton_schulz")
    table = ROOT_BY_SHAPE if table is None else table
    polars = {shape: kernel(schedule) for shape, schedule in table.items()}
    rest = kernel(JORDAN if otherwise is None else otherwise)

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        short, long = sorted(inner.shape(x))
        chosen = polars.get((short, long), rest)
        return chosen(x, inner=inner)  # type: ignore[call-arg]

    return polar
