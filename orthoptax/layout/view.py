# SPDX-License-Identifier: Apache-2.0
"""One leaf seen as a stack of matrices, and back."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from orthoptax._check import message


@dataclasses.dataclass(frozen=True)
class MatrixView:
    """Which axes of a leaf are rows (outputs) and which are columns (inputs).

    The axes in neither tuple are batch, kept in order. Several axes of one side merge
    in the order given. Static and hashable; holds no array.

    Args:
      rows: axes of the outputs, negative ones counted from the end.
      cols: axes of the inputs.
      blocks: sizes that cut the merged rows of a fused projection (query, key, value;
        gate, up) into matrices of their own; they may differ. Empty: one matrix.
      groups: the rows are this many repetitions of the blocks (interleaved storage, one
        repetition a query group); block i gathers its rows from all of them.
    Example:
      >>> import jax.numpy as jnp
      >>> view = MatrixView(rows=(-1,), cols=(-2,), blocks=(8, 4, 4))
      >>> [m.shape for m in view.split(jnp.zeros((6, 16)))]
      [(8, 6), (4, 6), (4, 6)]
      >>> MatrixView(rows=(3,), cols=(0, 1, 2)).shapes((3, 3, 16, 32))
      [(32, 144)]

    Raises: ValueError from `axes`, which every other member calls.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    blocks: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        for field in ("rows", "cols", "blocks"):  # lists are welcome, tuples are kept
            object.__setattr__(self, field, tuple(getattr(self, field)))

    def axes(
        self, shape: Sequence[int], name: str = "leaf"
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(batch, rows, cols) as axes >= 0 of a leaf of this shape, checked."""
        n = len(shape)
        rows = tuple(a + n if a < 0 else a for a in self.rows)
        cols = tuple(a + n if a < 0 else a for a in self.cols)
        used = rows + cols
        if (
            not rows
            or not cols
            or len(set(used)) < len(used)
            or not all(0 <= a < n for a in used)
        ):
            raise ValueError(
                message(
                    "MatrixView",
                    f"{self} does not fit {name!r} of shape {tuple(shape)}",
                    "different axes of the leaf in rows and in cols, one each or more",
                    "Correct rows= and cols=",
                )
            )
        height = math.prod(shape[a] for a in rows)
        if self.blocks and sum(self.blocks) * self.groups != height:
            raise ValueError(
                message(
                    "MatrixView",
                    f"blocks {self.blocks} times {self.groups} groups sum to "
                    f"{sum(self.blocks) * self.groups}, but {name!r} of shape "
                    f"{tuple(shape)} has {height} rows",
                    "equal sums",
                    "Check the sizes (the key/value head count, perhaps)",
                )
            )
        if not self.blocks and self.groups != 1:
            raise ValueError(
                message(
                    "MatrixView",
                    f"groups={self.groups} without blocks in {name!r}",
                    "blocks that repeat once a group",
                    "Pass blocks=",
                )
            )
        batch = tuple(a for a in range(n) if a not in used)
        return batch, rows, cols

    def shapes(self, shape: Sequence[int], name: str = "leaf") -> list[tuple[int, ...]]:
        """The shape (*batch, rows, cols) of each matrix stack of a leaf."""
        batch, rows, cols = self.axes(shape, name)
        lead = tuple(shape[a] for a in batch)
        width = math.prod(shape[a] for a in cols)
        heights = [b * self.groups for b in self.blocks] or [
            math.prod(shape[a] for a in rows)
        ]
        return [(*lead, height, width) for height in heights]

    def split(self, x: jax.Array, name: str = "leaf") -> list[jax.Array]:
        """The leaf as its matrices, (*batch, rows, cols) each, one a block."""
        batch, rows, cols = self.axes(x.shape, name)
        x = jnp.transpose(x, batch + rows + cols)
        lead, width = x.shape[: len(batch)], math.prod(x.shape[len(batch + rows) :])
        if not self.blocks:
            return [
                x.reshape(*lead, math.prod(x.shape[len(batch) : -len(cols)]), width)
            ]
        x = x.reshape(*lead, self.groups, sum(self.blocks), width)
        ends = [sum(self.blocks[: i + 1]) for i in range(len(self.blocks))]
        parts = [
            x[..., end - size : end, :]
            for size, end in zip(self.blocks, ends, strict=True)
        ]
        return [p.reshape(*lead, self.groups * p.shape[-2], width) for p in parts]

    def join(self, parts: Sequence[jax.Array], shape: Sequence[int]) -> Any:
        """The inverse of `split`, for a leaf of this shape."""
        batch, rows, cols = self.axes(shape)
        order = batch + rows + cols
        if self.blocks:
            lead = tuple(shape[a] for a in batch)
            parts = [
                p.reshape(*lead, self.groups, size, p.shape[-1])
                for p, size in zip(parts, self.blocks, strict=True)
            ]
            x = jnp.concatenate(parts, axis=-2)
        else:
            (x,) = parts
        x = x.reshape([shape[a] for a in order])
        return jnp.transpose(x, sorted(range(len(order)), key=order.__getitem__))
