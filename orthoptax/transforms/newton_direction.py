# SPDX-License-Identifier: Apache-2.0
"""The Newton direction, by conjugate gradients with Hessian-vector products."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._axes import Axes, as_varying, mean_over, names_of, tracked
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import needs
from orthoptax.curvature.objective import required, scalar
from orthoptax.matrix.running import power_of_two
from orthoptax.transforms import _tree

MAX_PRODUCTS = 50


class NewtonDirectionState(NamedTuple):
    """State of `newton_direction`.

    count: int32, completed updates. products: int32, Hessian-vector products of the
    last.
    """

    count: jax.Array
    products: jax.Array


class _Solve(NamedTuple):
    """One iterate: x, residual, direction, <r, M^-1 r>, products, may it go on."""

    x: Any
    residual: Any
    direction: Any
    size: jax.Array
    products: jax.Array
    go: jax.Array


@needs("obj_fn")
def newton_direction(
    *,
    tolerance: ArrayLike = 1e-5,
    max_products: int | None = None,
    floor: ArrayLike = 1e-8,
    has_aux: bool = False,
    axis_name: Axes = None,
) -> optax.GradientTransformationExtraArgs:
    """Solves H S = G, H the Hessian of `obj_fn`, as far as its curvature is positive.

    Conjugate gradients from 0, each step one Hessian-vector product, about two
    gradients. They stop at the first direction P with <P, H P> <= 0, which a convex
    objective has not, and return what they have: there M^-1 G at the first.

        S <- CG(H, G; M) until <R, M^-1 R> <= tolerance <G, M^-1 G>
        M <- max(|hessian_diag|, floor) where one was handed down and is fresh, else I

    Args:
      tolerance: how much of <R, M^-1 R> may stay. Traceable.
      max_products: products at most; None: 50. Static.
      floor: least entry of M. Traceable.
      has_aux: `obj_fn` returns (loss, anything). Static.
      axis_name: mapped axes over which each device has a loss of its own, under `pmap`
        or `shard_map`: products are averaged over them. None: the loss is that of the
        whole batch, as under `jit`. Static.
    State:
      count: int32 scalar, number of completed updates.
      products: int32 scalar, products that the last update took.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and the extra
      argument `obj_fn`, the loss of the step as a function of the parameters. Inside a
      group it is one of the group's leaves, and H is that block.
    Raises: ValueError for a number out of range; while tracing, ValueError or TypeError
      for an `obj_fn` that is missing, returns more than one number or fails on masked
      leaves.
    Example:
      >>> tx, w = newton_direction(), {"w": jnp.asarray([1.0, 1.0])}
      >>> loss = lambda p: jnp.sum(jnp.asarray([2.0, 4.0]) * p["w"] ** 2) / 2
      >>> g = jax.grad(loss)(w)
      >>> tx.update(g, tx.init(w), w, obj_fn=loss)[0]["w"].round(3).tolist()
      [1.0, 1.0]

    Deviations: the authors' notebook stops at an absolute 1e-5, and at a direction of
      negative curvature mixes 0.7 of S with 0.3 of it.
    Source: Abdukhakimov et al., SANIA, arXiv:2312.17369; code fxrshed/SANIA@ce6662f,
      test_pcg.ipynb. Stopping: Steihaug, SIAM J. Numer. Anal. 20, 1983.
    """
    _check.in_range("newton_direction", "tolerance", tolerance)
    _check.in_range("newton_direction", "floor", floor)
    most = MAX_PRODUCTS if max_products is None else max_products
    _check.count("newton_direction", "max_products", most)

    def init(params: optax.Params) -> NewtonDirectionState:
        del params
        return NewtonDirectionState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, NewtonDirectionState]:
        _check.has_params("newton_direction", params)
        where = "newton_direction.update"
        objective = scalar(where, required(where, "obj_fn", extra), has_aux)
        # Each device's own loss is differentiated, as in `with_curvature`.
        local = lambda tree: as_varying(tree, tracked(names_of(axis_name)))
        along = jax.linearize(jax.grad(objective), local(params))[1]
        product = lambda v: mean_over(along(local(v)), axis_name)
        scale = _inverse(extra, updates, floor)
        solved = _solve(product, params, updates, scale, tolerance, most)
        updates = jax.tree.map(lambda u, x: x.astype(u.dtype), updates, solved.x)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, NewtonDirectionState(count, solved.products)

    return optax.GradientTransformationExtraArgs(init, update)


def _inverse(extra: dict[str, Any], updates: Any, floor: ArrayLike) -> Any:
    """The entries of M^-1, like the updates."""
    given = extra.get("hessian_diag")
    if given is None:
        return jax.tree.map(lambda u: jnp.ones_like(u, work_dtype(u.dtype)), updates)
    fresh = jnp.asarray(extra.get("hessian_fresh", True))

    def leaf(u: jax.Array, d: jax.Array) -> jax.Array:
        work = work_dtype(wider(u.dtype, d.dtype))
        least = jnp.asarray(floor).astype(jnp.finfo(work).dtype)
        return jnp.where(fresh, 1 / jnp.maximum(jnp.abs(d), least).astype(work), 1)

    return jax.tree.map(leaf, updates, given)


def _solve(
    product: Any,
    params: Any,
    gradient: Any,
    scale: Any,
    tolerance: ArrayLike,
    max_products: int,
) -> _Solve:
    """Conjugate gradients, up to the first direction without positive curvature."""
    widest = _tree.real_dtype((gradient, scale))

    def inner(a: Any, b: Any) -> jax.Array:
        d, s, t = _tree.dot(a, b, widest)
        return d * s * t

    def plus(a: Any, step: jax.Array, b: Any) -> Any:
        return jax.tree.map(lambda x, y: x + step.astype(x.dtype) * y, a, b)

    def divided(r: Any) -> Any:
        return jax.tree.map(jnp.multiply, r, scale)

    def hessian(v: Any) -> Any:
        # The product wants the dtypes of the parameters; the sums stay wide.
        narrow = jax.tree.map(lambda p, x: x.astype(p.dtype), params, v)
        return jax.tree.map(lambda x, h: h.astype(x.dtype), v, product(narrow))

    unit = power_of_two(_tree.norm(gradient, widest))  # the answer is linear in G
    start = jax.tree.map(
        lambda g, m: g.astype(m.dtype) / unit.astype(m.dtype), gradient, scale
    )
    first = divided(start)
    least = jnp.asarray(tolerance).astype(widest) * inner(start, first)

    def body(s: _Solve) -> _Solve:
        image = hessian(s.direction)
        curvature = inner(s.direction, image)
        good = curvature > 0
        step = jnp.where(good, s.size / jnp.where(good, curvature, 1), 0)
        nothing = s.products == 0  # then the divided gradient itself is the answer
        x = plus(s.x, jnp.where(nothing & ~good, 1, step), s.direction)
        residual = plus(s.residual, -step, image)
        divided_residual = divided(residual)
        size = inner(residual, divided_residual)
        ratio = size / jnp.where(s.size == 0, 1, s.size)
        direction = plus(divided_residual, ratio, s.direction)
        return _Solve(x, residual, direction, size, s.products + 1, good)

    def unsolved(s: _Solve) -> jax.Array:
        return s.go & (s.size > least) & (s.products < max_products)

    size = inner(start, first)
    x = jax.tree.map(jnp.zeros_like, start)
    begun = _Solve(x, start, first, size, jnp.zeros((), jnp.int32), size > 0)
    solved = lax.while_loop(unsolved, body, begun)
    x = jax.tree.map(lambda x: unit.astype(x.dtype) * x, solved.x)  # NaN if G has one
    return solved._replace(x=x)
