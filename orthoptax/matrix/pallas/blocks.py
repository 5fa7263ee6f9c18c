# SPDX-License-Identifier: Apache-2.0
"""How a symmetric product is cut into blocks that fit the memory beside the core."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from orthoptax._check import count

LANES = 128
"""Sides of arrays are filled up to this: the width of a TPU's registers."""
WHOLE = 1024
"""Up to here the whole result stays in VMEM; above it is cut into tiles."""
DEEPEST = 1024
"""Bytes of a row of an operand that are fetched at a time; for tiles twice as many."""
LEAST_SIDE, MOST_SIDE = 1024, 2048
"""Bytes of a row of a tile. With fewer it takes longer to fetch than to multiply."""
SPARE = 2**20
"""Bytes of VMEM that nobody has counted."""


class Blocks(NamedTuple):
    """How x y^T of (m, k) matrices is cut; see `blocks`.

    rows, depth: what m and k are filled up to with zeros, of operands. side: of the
    square blocks of the result. deep: columns of an operand that are fetched at a time.
    whole: whether the result stays in VMEM, else block by block. vmem: bytes of it.
    """

    rows: int
    depth: int
    side: int
    deep: int
    whole: bool
    vmem: int

    @property
    def across(self) -> int:
        """Blocks along a side of the result."""
        return -(-self.rows // self.side)

    @property
    def steps(self) -> int:
        """Fetches of an operand a block takes."""
        return self.depth // self.deep

    @property
    def cells(self) -> int:
        """Blocks on and below the diagonal."""
        return self.across * (self.across + 1) // 2

    @property
    def flops(self) -> int:
        """Of those blocks, two a multiplication."""
        if not self.whole:
            return 2 * self.cells * self.side**2 * self.depth
        starts = range(0, self.rows, self.side)
        area = sum((self.rows - j) * min(self.side, self.rows - j) for j in starts)
        return 2 * area * self.depth

    @property
    def reads(self) -> float:
        """How often an operand of as many rows is read from memory."""
        return 1.0 if self.whole else self.cells * self.side / self.rows


def blocks(m: int, k: int, dtype: DTypeLike) -> Blocks:
    """The blocks of a symmetric product of (m, k) matrices on a TPU.

    The result is kept whole in VMEM up to m = 1024, where an operand is then read once;
    above, it is cut into square tiles, of a side for which the tiles on and below the
    diagonal cover least, and wide enough that the core does not wait for memory.

    Args:
      m: rows, and columns of the result. Static.
      k: columns, over which the product sums. Static.
      dtype: of the operands, float32 or bfloat16. Static.
    Returns: a `Blocks`, whose `vmem` is below 40 MiB: v5p has 64 MiB a core, v5e 128.
    Example:
      >>> cut = blocks(8192, 8192, "bfloat16")
      >>> cut.side, cut.across, cut.flops / (2 * 8192**3)
      (1024, 8, 0.5625)

    Source: derived.
    """
    count("blocks", "m", m)
    count("blocks", "k", k)
    size = jnp.dtype(dtype).itemsize
    rows = _up(m, LANES)
    whole = rows <= WHOLE
    steps = -(-k * size // (DEEPEST if whole else 2 * DEEPEST))
    deep = _up(-(-k // steps), LANES)
    if whole:
        side = LANES if rows <= 2 * LANES else 2 * LANES
    else:
        sides = range(LEAST_SIDE // size, MOST_SIDE // size + 1, LANES)
        side = min(sides, key=lambda side: (_covered(rows, side), -side))
    vmem = _bytes(rows if whole else side, deep, size)
    return Blocks(rows, steps * deep, side, deep, whole, vmem)


def _covered(rows: int, side: int) -> float:
    """Area of the tiles on and below the diagonal, and what each costs besides.

    By the compiler's schedule, to finish a tile and to turn it takes about as long as
    64 more columns of it, where an operand has 2048.
    """
    across = -(-rows // side)
    return across * (across + 1) / 2 * (side**2 + 64 * side)


def _bytes(side: int, deep: int, size: int) -> int:
    """Of both operands, a third matrix and the result, each twice, and of the sum.

    What is fetched next and written last needs room beside what is worked on. Products
    of float32 have operands in three parts, and a block of results passes through.
    """
    operands, squares = 2 * side * deep, 4 * side * side
    parts = 3 * 2 * operands if size == 4 else 0
    return 2 * size * operands + parts + (2 + 2 + 1 + 2) * squares + SPARE


def _up(n: int, step: int) -> int:
    """The next multiple of step."""
    return -(-n // step) * step
