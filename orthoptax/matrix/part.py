# SPDX-License-Identifier: Apache-2.0
"""The part of a matrix that is here, where rows or columns are cut over mesh axes."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax.matrix.inner import Inner
from orthoptax.matrix.running import norm, power_of_two

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """How a matrix of which a part is here lies on a mesh. Static and hashable.

    Args:
      shape: rows and columns of the whole matrix.
      rows: the mesh axes that cut its rows, outermost first.
      cols: those that cut its columns.
      replicas: those over which copies differ and stand for their mean.
      scatter: whether sums may be scattered over devices and gathered again; not where
        `shard_map` must know that the result is equal everywhere.
      groups: the teams of devices, by their numbers along `rows` or `cols`, each with
        its own matrix; None: all devices have one.
    Example:
      >>> Part((4, 6)).turned().shape
      (6, 4)
    """

    shape: tuple[int, int]
    rows: Axes = ()
    cols: Axes = ()
    replicas: Axes = ()
    scatter: bool = True
    groups: tuple[tuple[int, ...], ...] | None = None

    def turned(self) -> "Part":
        """The same of the transpose."""
        rows, cols = self.shape
        return dataclasses.replace(
            self, shape=(cols, rows), rows=self.cols, cols=self.rows
        )

    def over_rows(self) -> Inner:
        """Sums over an axis that is cut as the rows are."""
        return self._inner(self.rows)

    def over_cols(self) -> Inner:
        """Sums over an axis that is cut as the columns are."""
        return self._inner(self.cols)

    def total(self, x: jax.Array, axes: Axes) -> jax.Array:
        """The sum over some axes of the mean over the replicas."""
        summed = axes + self.replicas
        if not summed:
            return x
        return self._mean(lax.psum(x, summed, axis_index_groups=self.groups))

    def average(self, x: jax.Array) -> tuple[jax.Array, "Part"]:
        """The mean over the replicas, and the part of it: there are none any more."""
        if not self.replicas:
            return x, self
        mean = self._mean(lax.psum(x, self.replicas))
        return mean, dataclasses.replace(self, replicas=())

    def share(self, x: jax.Array, axes: Axes) -> tuple[jax.Array, int] | None:
        """`total` of a (batch, ...) stack, each device a share of the batch.

        Returns: (its share, zeros behind the batch), to be put together by `unshare`;
          None where that does not pay.
        """
        summed = axes + self.replicas
        if not summed or not self.scatter or self.groups:
            return None
        devices = math.prod(lax.axis_size(name) for name in summed)
        if x.shape[0] < devices:
            return None
        short = -x.shape[0] % devices
        x = lax.pad(x, x.dtype.type(0), [(0, short, 0)] + [(0, 0, 0)] * (x.ndim - 1))
        return self._mean(lax.psum_scatter(x, summed, tiled=True)), short

    def unshare(self, x: jax.Array, axes: Axes, short: int) -> jax.Array:
        """The whole stack, from everyone's share."""
        x = lax.all_gather(x, axes + self.replicas, tiled=True)
        return x[: x.shape[0] - short]

    def _inner(self, axes: Axes) -> Inner:
        return Inner(axis_name=axes, groups=self.groups) if axes else Inner()

    def _mean(self, x: jax.Array) -> jax.Array:
        return x / math.prod(lax.axis_size(name) for name in self.replicas)


def norms(
    xs: Mapping[Any, jax.Array], parts: Mapping[Any, Part] | None = None
) -> dict[Any, jax.Array]:
    """The Frobenius norm of each matrix, (..., 1, 1), real.

    Of matrices that are cut, all norms together cost two reductions a set of mesh axes.

    Args:
      xs: {name: (..., rows, cols)}, or parts of them.
      parts: {name: how it lies}; None: all are whole.
    """
    if parts is None:
        return {name: norm(x) for name, x in xs.items()}
    largest = lambda x: jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
    tops = _reduced(lax.pmax, {n: largest(x) for n, x in xs.items()}, parts)
    units = {n: power_of_two(x) for n, x in tops.items()}
    total = lambda x: jnp.sum(jnp.square(jnp.abs(x)), axis=(-2, -1), keepdims=True)
    squares = {n: total(x / units[n].astype(x.dtype)) for n, x in xs.items()}
    sums = _reduced(lax.psum, squares, parts)
    return {n: units[n] * jnp.sqrt(x) for n, x in sums.items()}


def row_sums(
    xs: Mapping[Any, jax.Array], parts: Mapping[Any, Part] | None = None
) -> dict[Any, jax.Array]:
    """Sums over columns of which each device has its share, one reduction in all.

    Args:
      xs: {name: (..., rows, numbers)}, the sums over the columns that are here.
      parts: {name: how the matrix lies}; None: all are whole.
    """
    if parts is None:
        return dict(xs)
    along = {name: dataclasses.replace(parts[name], rows=()) for name in xs}
    return _reduced(lax.psum, xs, along)


def _reduced(
    op: Callable[..., jax.Array],
    xs: Mapping[Any, jax.Array],
    parts: Mapping[Any, Part],
) -> dict[Any, jax.Array]:
    """Each array reduced over the axes that cut its matrix, once a set of axes."""
    result = dict(xs)
    groups: dict[Any, list[Any]] = {}
    for name, x in xs.items():
        axes, teams = parts[name].rows + parts[name].cols, parts[name].groups
        axes = axes if teams else tuple(sorted(axes))  # teams count in their order
        if axes:
            groups.setdefault((axes, teams, x.dtype), []).append(name)
    for (axes, teams, _), names in groups.items():
        flat = jnp.concatenate([xs[n].reshape(-1) for n in names])
        flat = op(flat, axes, axis_index_groups=teams)
        start = 0
        for n in names:
            size = xs[n].size
            result[n] = flat[start : start + size].reshape(xs[n].shape)
            start += size
    return result


def whole(x: jax.Array) -> Part:
    """The part that is all of a (..., rows, cols) matrix."""
    return Part((x.shape[-2], x.shape[-1]))
