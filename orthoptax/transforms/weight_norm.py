# SPDX-License-Identifier: Apache-2.0
"""Wrapper: one optimizer for the directions of the rows, another for their lengths."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Layout, Place, step_link
from orthoptax.layout.wrap import on_matrices
from orthoptax.matrix.running import norm as euclidean
from orthoptax.transforms.learning_rate import scale_by_learning_rate

FLOOR = 1e-12  # of a row's length, so that a zero row has a direction to grow in


class WeightNormRowsState(NamedTuple):
    """What is kept of the rows.

    norm: {matrix: (..., rows, 1)}, lengths of the rows of V, 0 before the first step.
    magnitude: the state of the optimizer of the lengths, on arrays of that shape.
    """

    norm: Any
    magnitude: Any


class WeightNormState(NamedTuple):
    """rows: a `WeightNormRowsState`, on matrices. direction: the state of its chain."""

    rows: Any
    direction: Any


@step_link
def weight_norm(
    direction: optax.GradientTransformation | None = None,
    magnitude: optax.GradientTransformation | None = None,
    *,
    layout: Layout | None = None,
    place: Place | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Optimizes each row of a matrix as a length g times a direction v / |v|.

    The weights themselves stay the parameters of the model; v lives in its length
    alone, v = |v| w / |w|. Its gradient is orthogonal to it, so that steps of v turn
    the row and lengthen v, which slows the turning.

        grad_g <- <G, w / g>,   grad_v <- g / |v| (G - grad_g w / g),   g = |w|
        v <- v + direction(grad_v);   g <- g + magnitude(grad_g);   w <- g v / |v|

    Args:
      direction: the optimizer of V, learning rate and all, in parameter coordinates;
        it sees the weights as `params`. None: `scale_by_learning_rate()`. Static.
      magnitude: the optimizer of the lengths, on {matrix: (..., rows, 1)}; None:
        `scale_by_learning_rate()`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
      place: where the work on rows runs; None: here. Static.
    State:
      rows: lengths of the rows of V, float32 or wider, and the state of `magnitude`.
      direction: the state of `direction`.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and is a whole
      optimizer; leaves that are not matrices go through `direction` alone. Rows with
      no step at all stay as they are, bit for bit.
    Raises: ValueError in `init` for a leaf the layout cannot decide, in `update` for an
      empty tree or if `params` is missing; TypeError for integer matrices.
    Example:
      >>> tx = weight_norm(optax.sgd(0.0), optax.sgd(1.0))
      >>> w = {"dense": {"kernel": jnp.asarray([[3.0], [4.0]])}}
      >>> g = {"dense": {"kernel": jnp.asarray([[0.0], [1.0]])}}
      >>> u, _ = tx.update(g, tx.init(w), w)  # 0.8 off a length of 5
      >>> [round(float(x), 3) for x in u["dense"]["kernel"][:, 0]]
      [-0.48, -0.64]

    Source: Salimans and Kingma, Weight Normalization, arXiv:1602.07868; inside an
      optimizer: Muown, arXiv:2605.10797, code Emerging-Optimizers@fd77292, muown.py.
    """
    default = scale_by_learning_rate()
    turn = optax.with_extra_args_support(default if direction is None else direction)
    grow = optax.with_extra_args_support(default if magnitude is None else magnitude)

    def init_rows(params: optax.Params) -> WeightNormRowsState:
        # Zeros, until the first step: weights may be loaded after this.
        zeros = jax.tree.map(lambda w: jnp.zeros_like(_length(w)), params)
        return WeightNormRowsState(zeros, grow.init(zeros))

    def tangent(u: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del extra
        return jax.tree.map(_tangent, u, params, state.norm), state

    def arrive(u: Any, state: Any, params: Any, *, grad: Any, **extra: Any) -> Any:
        lengths = jax.tree.map(_length, params)
        along = jax.tree.map(lambda g, w: _along(g, w)[1], grad, params)
        steps, magnitude = grow.update(along, state.magnitude, lengths, **extra)
        pairs = jax.tree.map(_arrive, u, params, state.norm, steps)
        pick = lambda i: jax.tree.map(lambda _, pair: pair[i], u, pairs)
        return pick(0), WeightNormRowsState(pick(1), magnitude)

    lift = lambda update: on_matrices(
        optax.GradientTransformationExtraArgs(init_rows, update),
        layout=layout,
        place=place,
    )
    first, last = lift(tangent), lift(arrive)

    def init(params: optax.Params) -> WeightNormState:
        return WeightNormState(last.init(params), turn.init(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, WeightNormState]:
        _check.has_params("weight_norm", params)
        gradient, _ = first.update(updates, state.rows, params)
        steps, turned = turn.update(gradient, state.direction, params, **extra)
        extra = {**extra, "grad": updates}
        results, rows = last.update(steps, state.rows, params, **extra)
        return results, WeightNormState(rows, turned)

    return optax.GradientTransformationExtraArgs(init, update)


def _length(w: jax.Array) -> jax.Array:
    """|w| of each row, (..., rows, 1), at least `FLOOR`; float32 or wider."""
    length = euclidean(w.astype(work_dtype(w.dtype)), -1)
    return jnp.maximum(length, jnp.asarray(FLOOR, length.dtype))


def _along(g: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(w / |w|, <G, w / |w|>) of each row, in the wider of the dtypes."""
    work = work_dtype(wider(g.dtype, w.dtype))
    unit = w.astype(work) / _length(w).astype(work)
    along = jnp.sum(g.astype(work) * jnp.conj(unit), axis=-1, keepdims=True)
    return unit, jnp.real(along)


def _began(w: jax.Array, norm: jax.Array) -> jax.Array:
    """|v|, which is |w| until the first step."""
    length = _length(w)
    return jnp.where(norm == 0, length, norm.astype(length.dtype))


def _tangent(g: jax.Array, w: jax.Array, norm: jax.Array) -> jax.Array:
    """The gradient by v, of the gradient by w."""
    unit, along = _along(g, w)
    factor = (_length(w) / _began(w, norm)).astype(unit.dtype)
    return (factor * (g.astype(unit.dtype) - unit * along)).astype(g.dtype)


def _arrive(
    u: jax.Array, w: jax.Array, norm: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(the change of w, the new |v|) for a step u of v and one of g.

    g' v' / |v'| - w, with v' = v + u and v = |v| w / g, is written without the
    difference of near numbers:

        (|v| / |v'| (1 + step / g) - 1) w + g' u / |v'|
        |v| / |v'| - 1 = -<2 v + u, u> / (|v'| (|v'| + |v|))
    """
    work = work_dtype(wider(u.dtype, w.dtype))
    real = jnp.finfo(work).dtype
    length, was = _length(w).astype(real), _began(w, norm).astype(real)
    v = (was / length).astype(work) * w.astype(work)
    now = _length(v + u.astype(work)).astype(real)
    v, u_ = v / now.astype(work), u.astype(work) / now.astype(work)
    more = jnp.real(jnp.sum((2 * v + u_) * jnp.conj(u_), axis=-1, keepdims=True))
    turned = -more / (1 + was / now)
    grown = step.astype(real) / length
    share = turned + grown * (1 + turned)
    change = share.astype(work) * w.astype(work)
    change = change + (length * (1 + grown)).astype(work) * u_
    return change.astype(u.dtype), now.astype(norm.dtype)
