# SPDX-License-Identifier: Apache-2.0
"""Wrapper: one optimizer for the directions of the rows, another for their lengths."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Layout, OnParts, Place, step_link
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.layout.wrap import on_matrices
from orthoptax.matrix.part import Part, row_sums
from orthoptax.matrix.running import norm as euclidean
from orthoptax.matrix.running import power_of_two
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
      no step at all stay as they are, bit for bit. On a mesh, where columns are cut,
      a row of a step longer than 1e19 overflows.
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

    links = _row_links(grow)
    first, last = (on_matrices(x, layout=layout, place=place) for x in links)

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


def _row_links(grow: optax.GradientTransformationExtraArgs) -> tuple[OnParts, OnParts]:
    """Two links on matrices: to the gradient of V, and from a step of V to one of W.

    Args:
      grow: the optimizer of the lengths; its state is that of both.
    """

    def init_rows(params: optax.Params) -> WeightNormRowsState:
        # Zeros, until the first step: weights may be loaded after this.
        zeros = jax.tree.map(lambda w: jnp.zeros_like(_length(w)), params)
        return WeightNormRowsState(zeros, grow.init(zeros))

    def tangent(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        parts: Mapping[str, Part] | None = None,
        **extra: Any,
    ) -> Any:
        del extra
        rows = _rows(named_leaves(updates), named_leaves(params), parts)
        own = lambda n, g, w, norm: _tangent(g, w, norm, rows[n])
        return map_named(own, updates, params, state.norm), state

    def arrive(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        grad: Any = None,
        parts: Mapping[str, Part] | None = None,
        **extra: Any,
    ) -> Any:
        steps, weights = named_leaves(updates), named_leaves(params)
        rows = _rows(named_leaves(grad), weights, parts, steps)
        pick = lambda i: map_named(lambda n, _: rows[n][i], state.norm)
        grown, magnitude = grow.update(pick(1), state.magnitude, pick(0), **extra)
        grown, norms = named_leaves(grown), named_leaves(state.norm)
        after = {
            n: _arrive(steps[n], weights[n], norms[n], grown[n], rows[n]) for n in steps
        }
        own = lambda i: map_named(lambda n, _: after[n][i], updates)
        return own(0), WeightNormRowsState(own(1), magnitude)

    return OnParts(init_rows, tangent), OnParts(init_rows, arrive)


class _Rows(NamedTuple):
    """What a sum over columns says of the rows of one matrix, each (..., rows, 1).

    length: |w|. along: <G, w / |w|>. unit: what the steps were divided by, a power of
    two. beside: <w, u> / unit. step: <u, u> / unit^2.
    """

    length: jax.Array
    along: jax.Array
    unit: jax.Array
    beside: jax.Array
    step: jax.Array


def _length(w: jax.Array) -> jax.Array:
    """|w| of each row, (..., rows, 1), at least `FLOOR`; float32 or wider."""
    length = euclidean(w.astype(work_dtype(w.dtype)), -1)
    return jnp.maximum(length, jnp.asarray(FLOOR, length.dtype))


def _rows(
    grads: Mapping[str, jax.Array],
    weights: Mapping[str, jax.Array],
    parts: Mapping[str, Part] | None,
    steps: Mapping[str, jax.Array] | None = None,
) -> dict[str, _Rows]:
    """What is to be known of the rows; of cut matrices by one reduction.

    Where columns are cut, rows of a step longer than 1e19 overflow: a common unit would
    be another reduction.
    """
    dot = lambda x, y: jnp.real(jnp.sum(x * jnp.conj(y), axis=-1, keepdims=True))
    sums, units = {}, {}
    for name, w in weights.items():
        work = work_dtype(wider(grads[name].dtype, w.dtype))
        w, g = w.astype(work), grads[name].astype(work)
        found = [dot(w, w), dot(g, w)]
        if steps is not None:
            u = steps[name].astype(work)
            if parts is None:
                largest = jnp.max(jnp.abs(u), axis=-1, keepdims=True, initial=0)
                units[name] = power_of_two(jnp.maximum(largest, jnp.ones_like(largest)))
                u = u / units[name].astype(work)
            found += [dot(w, u), dot(u, u)]
        sums[name] = jnp.concatenate(found, axis=-1)
    result = {}
    for name, x in row_sums(sums, parts).items():
        square, product, *rest = jnp.split(x, x.shape[-1], axis=-1)
        length = jnp.maximum(jnp.sqrt(square), jnp.asarray(FLOOR, square.dtype))
        unit = units.get(name, jnp.ones_like(length))
        rest = rest or [jnp.zeros_like(length)] * 2
        result[name] = _Rows(length, product / length, unit, *rest)
    return result


def _began(norm: jax.Array, rows: _Rows) -> jax.Array:
    """|v|, which is |w| until the first step."""
    return jnp.where(norm == 0, rows.length, norm.astype(rows.length.dtype))


def _tangent(g: jax.Array, w: jax.Array, norm: jax.Array, rows: _Rows) -> jax.Array:
    """The gradient by v, of the gradient by w."""
    work = work_dtype(wider(g.dtype, w.dtype))
    unit = w.astype(work) / rows.length.astype(work)
    factor = (rows.length / _began(norm, rows)).astype(work)
    return (factor * (g.astype(work) - unit * rows.along.astype(work))).astype(g.dtype)


def _arrive(
    u: jax.Array, w: jax.Array, norm: jax.Array, step: jax.Array, rows: _Rows
) -> tuple[jax.Array, jax.Array]:
    """(the change of w, the new |v|) for a step u of v and one of g.

    g' v' / |v'| - w, with v' = v + u and v = |v| w / g, is written without the
    difference of near numbers:

        (|v| / |v'| (1 + step / g) - 1) w + g' u / |v'|
        |v| / |v'| - 1 = -<2 v + u, u> / (|v'| (|v'| + |v|))
    """
    work = work_dtype(wider(u.dtype, w.dtype))
    length, was = rows.length, _began(norm, rows)
    small = was / rows.unit
    more = 2 * small / length * rows.beside + rows.step  # <2 v + u, u> / unit^2
    now = rows.unit * jnp.sqrt(jnp.square(small) + more)
    now = jnp.maximum(now, jnp.asarray(FLOOR, now.dtype))
    turned = -more / jnp.square(now / rows.unit) / (1 + was / now)
    grown = step.astype(now.dtype) / length
    share = turned + grown * (1 + turned)
    change = share.astype(work) * w.astype(work)
    turn = u.astype(work) / now.astype(work)
    change = change + (length * (1 + grown)).astype(work) * turn
    return change.astype(u.dtype), now.astype(norm.dtype)
