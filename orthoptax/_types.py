# SPDX-License-Identifier: Apache-2.0
"""The callable types that parts are passed as, a sentence each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import optax

Schedule = Sequence[Sequence[float]]
"""Coefficients (c_0, c_1, ...) of one odd polynomial x(c_0 + c_1 x^2 + ...) a stage."""


class Scaled(NamedTuple):
    """What a scale makes of a matrix.

    x: the matrix, divided. gram: x x^H of the divided matrix, where the scale had to
    form it anyway, so that the first stage need not; else None. square: gram gram, the
    same.
    """

    x: jax.Array
    gram: jax.Array | None = None
    square: jax.Array | None = None


Scale = Callable[..., Scaled]
"""scale(x, inner): x divided so that its singular values fit the schedule."""


class Products(NamedTuple):
    """Products whose results are Hermitian, so that one triangle of them is enough.

    gram: (x, precision) -> x x^H of (..., m, n) arrays. commuting: (a, b, precision) ->
    a b of Hermitian (..., m, m) arrays that commute. combined: (a, b, plus, weights,
    precision) -> weights_0 a b + weights_1 plus + weights_2 I of such, where one pass
    makes it; None: by `commuting` and sums. Operands come in the dtype to multiply in;
    results are exactly Hermitian, in float32 or wider.
    """

    gram: Callable[..., jax.Array]
    commuting: Callable[..., jax.Array]
    combined: Callable[..., jax.Array] | None = None


class Polar(Protocol):
    """Maps (..., m, n) matrices, meant for m <= n, to polar factors; same dtype."""

    def __call__(self, x: jax.Array, /) -> jax.Array: ...


class Root(Protocol):
    """Maps symmetric positive semidefinite (..., d, d) matrices V to V^(-1/2)."""

    def __call__(self, v: jax.Array, /) -> jax.Array: ...


Qr = Callable[..., jax.Array]
"""qr(x): tall (..., p, q) matrices to orthonormal columns of equal span and order."""

Ball = Callable[[jax.Array], jax.Array]
"""ball(m): (..., rows, cols) matrices to the D of unit norm with the largest <M, D>."""

Projection = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""projection(new, old, start): weights after a step, before it, and the Frobenius norm
they began with, (..., 1, 1), to the weights that are allowed."""

Layout = Callable[[str, Any], Any]
"""layout(leaf name, leaf): a `MatrixView`, or None for "not a matrix"."""

ShapeRule = Callable[[int, int, tuple[int, ...]], float]
"""rule(rows, columns, shape of the whole leaf): a factor of the update."""


class Place(Protocol):
    """Where the links of `on_matrices` run; they do not know of it.

    `links` is a `MatrixLinks`, `leaves` {name: array} in a leaf's own shape, or that of
    its part inside `shard_map`; `about` {name: `Leaf`} says view and whole shape.
    """

    def whole(self, name: str, leaf: Any, /) -> Any:
        """Shape and dtype of the whole leaf of which `leaf` may be a part."""
        ...

    def init(self, links: Any, leaves: Any, about: Any, /) -> Any:
        """The links' state."""
        ...

    def update(
        self,
        links: Any,
        leaves: Any,
        about: Any,
        state: Any,
        params: Any,
        trees: Any,
        extra: Any,
        /,
    ) -> tuple[Any, Any]:
        """(leaves, or `Compressed` of two, and new state), see `MatrixLinks.update`."""
        ...


class Compressed(NamedTuple):
    """What a compressor makes of a tree: two trees of the same structure.

    out: what goes on down the chain. kept: the part of the input that `out` stands for,
    in the input's own scale.
    """

    out: Any
    kept: Any


class Compressor(optax.GradientTransformationExtraArgs):
    """A transform whose `update` returns a `Compressed` where others return a tree."""


class Estimator(NamedTuple):
    """Estimates the diagonal of a curvature matrix; see `orthoptax.curvature`.

    init: params -> its state. estimate: (state, params, gradients, count, key, **extra)
    -> (diagonal, state); the diagonal like the parameters, in float32 or wider, and
    `extra` what the caller gave `update`, with `axis_name`. clocked: whether
    `with_curvature` decides when to ask it; else it answers at every step.
    """

    init: Callable[[Any], Any]
    estimate: Callable[..., tuple[Any, Any]]
    clocked: bool = True


class OnParts(optax.GradientTransformationExtraArgs):
    """A matrix transform that also works where only parts of the matrices are here.

    Its `update` then takes the extra argument `parts`, {matrix name: `Part`}.
    """


class KernelOnParts(OnParts):
    """One that moves more than a few numbers a matrix where it works on parts."""


class PartCompressor(Compressor, OnParts):
    """A compressor that also works on parts."""


Constructor = TypeVar("Constructor", bound=Callable[..., Any])


def matrix_link(constructor: Constructor) -> Constructor:
    """Marks a transform that works on matrices, and so belongs in `on_matrices`."""
    constructor.coordinates = "matrix"  # pyright: ignore[reportFunctionMemberAccess]
    return constructor


def step_link(constructor: Constructor) -> Constructor:
    """Marks a transform whose results are steps, which no learning rate may scale.

    The rate stands before it, or within the links that it is made of.
    """
    constructor.makes_steps = True  # pyright: ignore[reportFunctionMemberAccess]
    return constructor


def needs(*names: str) -> Callable[[Constructor], Constructor]:
    """Marks a constructor whose `update` cannot do without these extra arguments."""

    def mark(constructor: Constructor) -> Constructor:
        constructor.needs = names  # pyright: ignore[reportFunctionMemberAccess]
        return constructor

    return mark
