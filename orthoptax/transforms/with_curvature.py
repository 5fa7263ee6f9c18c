# SPDX-License-Identifier: Apache-2.0
"""Wrapper: an estimate of curvature, made when it is due, for the links inside."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from orthoptax import _check
from orthoptax._axes import Axes, as_varying, mean_over, names_of, tracked, varying
from orthoptax._types import Estimator, needs
from orthoptax.curvature.hutchinson import hutchinson
from orthoptax.curvature.leaves import is_float, zero_diagonal
from orthoptax.layout.full import OF_PARAMS, on_full_params

CURVATURE = ("hessian_diag", "hessian_fresh")


class WithCurvatureState(NamedTuple):
    """State of `with_curvature`.

    count: int32, completed updates. key: of the draws to come. skipped: int32,
    estimates that were dropped. estimator, inner: the states of these.
    """

    count: jax.Array
    key: jax.Array
    skipped: jax.Array
    estimator: Any
    inner: Any


@needs("obj_fn")
def with_curvature(
    inner: optax.GradientTransformation | None = None,
    estimator: Estimator | None = None,
    *,
    update_every: int | None = None,
    start: int | None = None,
    guard_nonfinite: bool = True,
    axis_name: Axes = None,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Hands the links inside an estimate of the curvature, made when it is due.

    They receive two more extra arguments: `hessian_diag`, like the parameters, in
    float32 or wider, and `hessian_fresh`, whether it is an estimate of this step; where
    not, it is zeros and to be ignored. What the estimator needs (`obj_fn`, say) comes
    with the call of `update` and must belong to the same batch, dropout key and model
    state as the gradient.

        due <- t >= start and (t - start) mod update_every = 0         t = 0, 1, ...
        d <- estimator(W) if due                      under `lax.cond`: else no work
        d, fresh <- (d, True) if due and d is finite, else (0, False)

    Args:
      inner: a link, or a chain of them; None: the identity. Static.
      estimator: see `orthoptax.curvature`; None: `hutchinson()`. Static.
      update_every: steps from one estimate to the next; None: 1. Static.
      start: the step of the first, from 0; None: 0. Static.
      guard_nonfinite: drop an estimate with an entry that is not finite, and count it.
        Static.
      axis_name: mapped axes over which each device has a loss of its own, under `pmap`
        or `shard_map`: the estimate is averaged over them. None: the loss is that of
        the whole batch, as under `jit`. Static.
      key: typed, the same on every device; None: `jax.random.key(0)`.
    State:
      count: int32 scalar, number of completed updates.
      key: typed key, split at every update.
      skipped: int32 scalar, number of estimates that were dropped.
      estimator: the estimator's state, as of the last estimate that was not dropped.
      inner: the state of `inner`.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and what the
      estimator needs. Leaves of integers, and their gradients, pass by `inner`. A
      `vmap` over `update` makes the estimate at every step; under `optax.MultiSteps` it
      is made when the sum is applied, by an `obj_fn` that sees the last part only,
      unless it is one over all of them.
    Raises: ValueError or TypeError for a number of steps below 1, a start below 0 or a
      key that is not typed; while tracing, what the estimator raises, or ValueError for
      a diagonal unlike the parameters.
    Example:
      >>> link = optax.stateless_with_tree_map(lambda g, p: g)
      >>> tx, w = with_curvature(link, update_every=10), jnp.asarray([1.0, 2.0])
      >>> _, state = tx.update(w, tx.init(w), w, obj_fn=lambda w: jnp.sum(w**3))
      >>> int(state.count), int(state.estimator.count), int(state.skipped)
      (1, 1, 0)

    Source: ours; Yao et al., AdaHessian, arXiv:2006.00719; Liu et al., Sophia,
      arXiv:2305.14342; optax 0.2.8 contrib.sophia.
    """
    inner = optax.with_extra_args_support(optax.identity() if inner is None else inner)
    estimator = hutchinson() if estimator is None else estimator
    every = 1 if update_every is None else update_every
    start = 0 if start is None else start
    _checked(every, start, key)

    def init(params: optax.Params) -> WithCurvatureState:
        first = jax.random.key(0) if key is None else key
        return WithCurvatureState(
            jnp.zeros((), jnp.int32),
            jax.random.split(first, 1)[0],  # a buffer of its own: states are donated
            jnp.zeros((), jnp.int32),
            estimator.init(params),
            inner.init(_floats(params, params)),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, WithCurvatureState]:
        _check.has_params("with_curvature", params)
        next_key, now = jax.random.split(state.key)
        about = updates, state, params, now, extra
        ask = _asking(estimator, guard_nonfinite, axis_name, *about)
        if not estimator.clocked:
            due, asked = extra.get("hessian_fresh", True), ask()
        elif every == 1 and start == 0:
            due, asked = True, ask()
        else:
            since = state.count - start
            due = (since >= 0) & (since % every == 0)
            idle = zero_diagonal(params), state.estimator, jnp.asarray(False)
            asked = lax.cond(due, ask, lambda: idle)
        diagonal, kept, fresh, dropped = _accepted(due, asked, state)
        passed = _passed(extra, params)
        passed |= dict(zip(CURVATURE, (_floats(diagonal, params), fresh), strict=True))
        result, inner_state = inner.update(
            _floats(updates, params), state.inner, _floats(params, params), **passed
        )
        return _back(result, updates), WithCurvatureState(
            jnp.asarray(optax.safe_increment(state.count)),
            next_key,
            state.skipped + dropped,
            kept,
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _asking(
    estimator: Estimator,
    guard: bool,
    axis_name: Axes,
    updates: Any,
    state: WithCurvatureState,
    params: Any,
    key: jax.Array,
    extra: dict[str, Any],
) -> Callable[[], tuple[Any, Any, jax.Array]]:
    """A function that returns (diagonal, the estimator's state, whether it counts)."""

    def ask() -> tuple[Any, Any, jax.Array]:
        # Each device's own loss is differentiated, and then averaged: were the
        # parameters the same everywhere to shard_map, it would sum the derivatives.
        local = as_varying(params, tracked(names_of(axis_name)))
        told = {**extra, "axis_name": axis_name}
        diagonal, kept = estimator.estimate(
            state.estimator, local, updates, state.count, key, **told
        )
        diagonal = _like(zero_diagonal(params), mean_over(diagonal, axis_name))
        return diagonal, kept, _usable(diagonal, guard)

    return ask


def _accepted(due: Any, asked: Any, state: WithCurvatureState) -> tuple[Any, ...]:
    """(diagonal, the estimator's state, whether both are new, how many dropped)."""
    (diagonal, kept, usable), due = asked, jnp.asarray(due)
    fresh = due & usable
    keep = lambda new, old: jnp.where(fresh, new, old)
    diagonal = jax.tree.map(lambda d: keep(d, jnp.zeros_like(d)), diagonal)
    kept = jax.tree.map(keep, kept, state.estimator)
    return diagonal, kept, fresh, (due & ~usable).astype(jnp.int32)


def _checked(every: Any, start: Any, key: Any) -> None:
    """Raises for what is no number of steps, or an array of words instead of a key."""
    _check.count("with_curvature", "update_every", every)
    _check.count("with_curvature", "start", start, least=0)
    if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            _check.message(
                "with_curvature",
                f"key has dtype {key.dtype}",
                "a typed key",
                "Pass jax.random.key(seed), or jax.random.wrap_key_data(key)",
            )
        )


def _floats(tree: Any, params: Any) -> Any:
    """The tree without the leaves whose parameters are no floating numbers."""
    if all(map(is_float, jax.tree.leaves(params))):
        return tree
    cut = lambda p, x: x if is_float(p) else optax.MaskedNode()
    return jax.tree.map(cut, params, tree)


def _passed(extra: Mapping[str, Any], params: Any) -> dict[str, Any]:
    """What else goes on; functions of the parameters get back the integers."""
    passed = dict(extra)
    if not all(map(is_float, jax.tree.leaves(params))):
        for name in OF_PARAMS:
            if callable(passed.get(name)):
                passed[name] = on_full_params(passed[name], params)
    return passed


def _back(result: Any, updates: Any) -> Any:
    """The updates, with those that were left out as they came."""
    masked = lambda x: isinstance(x, optax.MaskedNode)
    pick = lambda u, r: u if masked(r) else r
    return jax.tree.map(pick, updates, result, is_leaf=masked)


def _like(zeros: Any, diagonal: Any) -> Any:
    """The diagonal in the dtypes, and marked as differing as, its parameters."""
    if jax.tree.structure(zeros) != jax.tree.structure(diagonal):
        raise ValueError(
            _check.message(
                "with_curvature",
                f"the diagonal is a tree {jax.tree.structure(diagonal)}",
                f"one like the parameters, {jax.tree.structure(zeros)}",
                "Estimate every leaf, with zeros where there is no estimate",
            )
        )
    return jax.tree.map(
        lambda z, d: as_varying(jnp.asarray(d).astype(z.dtype), varying(z)),
        zeros,
        diagonal,
    )


def _usable(diagonal: Any, guard: bool) -> jax.Array:
    """Whether every entry is finite, on every device that has a part; or no guard."""
    if not guard:
        return jnp.asarray(True)
    bad = jnp.zeros((), jnp.int32)
    for d in jax.tree.leaves(diagonal):
        here = jnp.sum(~jnp.isfinite(d), dtype=jnp.int32)
        axes = tuple(sorted(varying(here)))
        bad = bad + (lax.psum(here, axes) if axes else here)
    return bad == 0
