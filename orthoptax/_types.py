# SPDX-License-Identifier: Apache-2.0
"""The callable types that parts are passed as, a sentence each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import optax

Schedule = Sequence[Sequence[float]]
"""Coefficients (c_0, c_1, ...) of one odd polynomial x(c_0 + c_1 x^2 + ...) a stage."""

Scale = Callable[..., jax.Array]
"""scale(x, inner): x divided so that its singular values fit the schedule."""


class Polar(Protocol):
    """Maps (..., m, n) matrices, meant for m <= n, to polar factors; same dtype."""

    def __call__(self, x: jax.Array, /) -> jax.Array: ...


Layout = Callable[[str, Any], Any]
"""layout(leaf name, leaf): a `MatrixView`, or None for "not a matrix"."""

ShapeRule = Callable[[int, int, tuple[int, ...]], float]
"""rule(rows, columns, shape of the whole leaf): a factor of the update."""

Place = Callable[[Callable[..., Any]], Callable[..., Any]]
"""place(update): the update of the matrix links, run where the place decides."""


class Compressed(NamedTuple):
    """What a compressor makes of a tree: two trees of the same structure.

    out: what goes on down the chain. kept: the part of the input that `out` stands for,
    in the input's own scale.
    """

    out: Any
    kept: Any


class Compressor(optax.GradientTransformationExtraArgs):
    """A transform whose `update` returns a `Compressed` where others return a tree."""


Constructor = TypeVar("Constructor", bound=Callable[..., Any])


def matrix_link(constructor: Constructor) -> Constructor:
    """Marks a transform that works on matrices, and so belongs in `on_matrices`."""
    constructor.coordinates = "matrix"  # pyright: ignore[reportFunctionMemberAccess]
    return constructor
