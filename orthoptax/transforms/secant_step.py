# SPDX-License-Identifier: Apache-2.0
"""A step whose length follows from how the gradient changed since the last one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._axes import Axes, as_varying, mean_over, names_of, tracked
from orthoptax._dtypes import zeros_beside
from orthoptax._types import needs, step_link
from orthoptax.curvature.leaves import is_float, split, wide, zero_diagonal
from orthoptax.curvature.objective import call, required, scalar
from orthoptax.matrix.running import divide, norm
from orthoptax.transforms.learning_rate import rate_at
from orthoptax.transforms.refreshed import (
    estimate,
    mapped,
    moving_average,
    quotient,
    refreshed,
)


class SecantStepState(NamedTuple):
    """State of `secant_step`.

    count: int32, steps taken. estimates: int32, curvature estimates so far. curvature:
    like the parameters, float32 or wider. parameters: those before this step. gradient:
    that before this step, with `full_batch`. step_size, ratio: float32 or wider, of the
    last step, and over the one before.
    """

    count: jax.Array
    estimates: jax.Array
    curvature: optax.Updates
    parameters: optax.Params
    gradient: Any
    step_size: jax.Array
    ratio: jax.Array


@step_link
@needs("hessian_diag", "obj_fn")
def secant_step(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    b2: ArrayLike = 0.99,
    floor: ArrayLike = 1e-2,
    full_batch: bool = False,
    axis_name: Axes = None,
) -> optax.GradientTransformationExtraArgs:
    """Steps along the gradient over the curvature, as far as the last step tells.

        D <- b2 D + (1 - b2) d             `hessian_diag`; the first time D <- d
        Dh <- max(|D|, floor)
        G' <- the gradient of this step's loss at the W before the last step
        e <- ||W - W'||_Dh / (2 ||G - G'||_(1/Dh))       sums over the whole tree
        eta' <- min(sqrt(1 + theta) eta, e), theta <- eta' / eta        first eta = lr
        W <- W - eta' G / Dh

    If the last step moved nothing, eta and theta stay; if e is no finite number, the
    other term counts. Before the first estimate nothing moves.

    Args:
      learning_rate: of the first step only: number, array or schedule, which is called
        with 0. Traceable.
      b2: weight of the past in D, in [0, 1). Traceable.
      floor: least curvature. Traceable.
      full_batch: the loss is the same function at every step, so that the last gradient
        is kept, and G' costs nothing; else it costs a gradient a step. Static.
      axis_name: as in `with_curvature`: G' is averaged over these axes. Static.
    State:
      count: int32 scalar, number of steps taken.
      estimates: int32 scalar, number of estimates of the curvature.
      curvature: D, signed, like the parameters, in float32 or wider.
      parameters: W', like the parameters.
      gradient: G', like the parameters, with `full_batch`; else an empty tuple.
      step_size: eta, a scalar in float32 or wider.
      ratio: theta, likewise.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and the extra
      arguments `hessian_diag` (see `with_curvature`) and, unless `full_batch`,
      `grad_fn`, the gradient of this step's loss as a function of the parameters, or
      `obj_fn`, that loss. It ends a chain.
    Raises: ValueError for a number out of range or, in `update`, what is missing.
    Example:
      >>> tx, w = secant_step(0.5), jnp.asarray([4.0])
      >>> told = {"hessian_diag": jnp.asarray([2.0]), "obj_fn": lambda w: jnp.sum(w**2)}
      >>> tx.update(2 * w, tx.init(w), w, **told)[0].tolist()
      [-2.0]

    Source: Jahani et al., OASIS, arXiv:2109.05198, Algorithm 1.
    """
    where = "secant_step"
    _check.learning_rate(where, learning_rate)
    _check.in_range(where, "b2", b2, 0, 1)
    _check.in_range(where, "floor", floor)

    def init(params: optax.Params) -> SecantStepState:
        scalar, like = jnp.zeros((), _widest(params)), lambda p: zeros_beside(p)
        return SecantStepState(
            count=jnp.zeros((), jnp.int32),
            estimates=jnp.zeros((), jnp.int32),
            curvature=zero_diagonal(params),
            parameters=jax.tree.map(like, params),
            gradient=jax.tree.map(like, params) if full_batch else (),
            step_size=scalar,
            ratio=jnp.full_like(scalar, jnp.inf),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SecantStepState]:
        _check.has_params(where, params)
        diagonal, fresh = estimate(where, extra)
        k = state.estimates + fresh.astype(jnp.int32)
        move = moving_average(b2, state.estimates)
        means = refreshed(move, state.curvature, diagonal, fresh)
        metric = jax.tree.map(lambda h: _at_least(floor, h), means)
        past = state.gradient
        if not full_batch:
            past = _gradient(where, extra, state.parameters, axis_name)
        eta, theta = _length(
            state,
            rate_at(learning_rate, state.count),
            _norm(params, state.parameters, metric, lambda x, d: x * jnp.sqrt(d)),
            _norm(updates, past, metric, lambda x, d: x / jnp.sqrt(d)),
        )
        step = lambda u, d: quotient(u, d) * jnp.where(k > 0, -eta, 0).astype(d.dtype)
        keep = lambda new, old: jnp.where(k > 0, new, old)
        cast = lambda new, old: new.astype(old.dtype)
        return mapped(step, updates, metric), SecantStepState(
            count=state.count + (k > 0).astype(jnp.int32),
            estimates=k,
            curvature=means,
            parameters=jax.tree.map(cast, params, state.parameters),
            gradient=jax.tree.map(cast, updates, past) if full_batch else (),
            step_size=keep(eta, state.step_size),
            ratio=keep(theta, state.ratio),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _at_least(floor: ArrayLike, h: jax.Array) -> jax.Array:
    """The absolute value of a curvature, or the floor."""
    return jnp.maximum(jnp.abs(h), jnp.asarray(floor).astype(h.dtype))


def _length(
    state: SecantStepState, first: ArrayLike, moved: jax.Array, changed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(eta, theta) of this step, from the two norms."""
    eta, theta = state.step_size, state.ratio
    first = jnp.asarray(first).astype(eta.dtype)
    some = jnp.where(changed > 0, changed, 1)
    secant = jnp.where(changed > 0, moved / (2 * some), jnp.inf)
    grown = jnp.sqrt(1 + theta) * eta  # infinite in the second step
    otherwise = jnp.where(jnp.isfinite(grown), grown, eta)
    new = jnp.where(jnp.isfinite(secant), jnp.minimum(grown, secant), otherwise)
    still = moved == 0
    begins = state.count == 0
    new = jnp.where(begins, first, jnp.where(still, eta, new))
    ratio = jnp.where(begins | still, theta, divide(new, eta))
    return new, ratio


def _gradient(where: str, extra: Mapping[str, Any], params: Any, axes: Axes) -> Any:
    """The gradient of this step's loss at other parameters."""
    local = as_varying(params, tracked(names_of(axes)))
    if extra.get("grad_fn") is not None:
        grad_fn = required(where, "grad_fn", extra)
        return mean_over(call(where, "grad_fn", grad_fn, local), axes)
    fn = scalar(where, required(where, "obj_fn", extra), has_aux=None)
    floats, join = split(local)
    found = jax.grad(lambda leaves: fn(join(leaves)))(floats)
    return mean_over(join(found), axes)


def _norm(a: Any, b: Any, metric: Any, scaled: Callable[..., Any]) -> jax.Array:
    """The Euclidean norm of scaled(a - b, metric) over all leaves."""
    total = jnp.zeros((), _widest(a))
    for x, y, d in zip(*map(jax.tree.leaves, (a, b, metric)), strict=True):
        if is_float(x):
            work = wide(x.dtype)
            gap = scaled(x.astype(work) - y.astype(work), d.astype(work))
            size = norm(gap, tuple(range(gap.ndim))).reshape(())
            total = jnp.hypot(total, size.astype(total.dtype))
    return total


def _widest(tree: Any) -> Any:
    """The widest dtype of the diagonal of any leaf."""
    dtypes = [wide(x.dtype) for x in jax.tree.leaves(tree)]
    return max(dtypes, key=lambda d: jnp.finfo(d).bits, default=jnp.dtype(jnp.float32))
