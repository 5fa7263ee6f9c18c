# SPDX-License-Identifier: Apache-2.0
"""The part of a matrix that is here, where rows or columns are cut over mesh axes."""

import dataclasses
import math

import jax
from jax import lax

from orthoptax.matrix.inner import Inner

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
    Example:
      >>> Part((4, 6)).turned().shape
      (6, 4)
    """

    shape: tuple[int, int]
    rows: Axes = ()
    cols: Axes = ()
    replicas: Axes = ()
    scatter: bool = True

    def turned(self) -> "Part":
        """The same of the transpose."""
        rows, cols = self.shape
        return dataclasses.replace(
            self, shape=(cols, rows), rows=self.cols, cols=self.rows
        )

    def over_rows(self) -> Inner:
        """Sums over an axis that is cut as the rows are."""
        return Inner(axis_name=self.rows or None)

    def over_cols(self) -> Inner:
        """Sums over an axis that is cut as the columns are."""
        return Inner(axis_name=self.cols or None)

    def total(self, x: jax.Array, axes: Axes) -> jax.Array:
        """The sum over some axes of the mean over the replicas."""
        summed = axes + self.replicas
        return self._mean(lax.psum(x, summed)) if summed else x

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
        if not summed or not self.scatter:
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

    def _mean(self, x: jax.Array) -> jax.Array:
        return x / math.prod(lax.axis_size(name) for name in self.replicas)


def whole(x: jax.Array) -> Part:
    """The part that is all of a (..., rows, cols) matrix."""
    return Part((x.shape[-2], x.shape[-1]))
