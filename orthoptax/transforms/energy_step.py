# SPDX-License-Identifier: Apache-2.0
"""Wrapper: steps as long as an energy allows that begins at the loss and only falls."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype, zeros_beside
from orthoptax._types import needs
from orthoptax.transforms import _tree
from orthoptax.transforms.learning_rate import rate_at


class EnergyStepState(NamedTuple):
    """State of `energy_step`.

    count: int32, calls. skipped: int32, calls that took no step. energy: like the
    parameters, or one number if `shared`. inner: the state of the inner link.
    """

    count: jax.Array
    skipped: jax.Array
    energy: Any
    inner: Any


@needs("value")
def energy_step(
    inner: optax.GradientTransformation | None = None,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.1,
    c: ArrayLike = 1.0,
    l2: ArrayLike = 0.0,
    weight_decay: ArrayLike = 0.0,
    shared: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Steps along a direction, as far as an energy that never grows allows.

    The energy begins as the root of the loss and falls with every step, whatever the
    rate; so the steps shorten by themselves, and there is no way back up.

        l <- sqrt(f + c)                            f: extra argument `value`
        D <- G / (2 l) + l2 W;  S <- inner(D)
        r <- r / (1 + 2 lr D S)                     r = l before the first step
        W <- W - 2 lr r S - lr wd W                 shared: <D, S> over all leaves

    A step whose f + c is not positive or not finite is skipped whole and counted.

    Args:
      inner: a link that divides by a positive definite metric; None: the identity.
        Static.
      learning_rate: number, array or schedule of the calls so far; of the energy too.
        Traceable.
      c: makes f + c positive. Traceable.
      l2: decay inside D, as the authors' AEGD has it. Traceable.
      weight_decay: decay apart from the energy, as in their AEGDW. Traceable.
      shared: one energy for all leaves instead of one an entry. Static.
    State:
      count: int32 scalar, number of calls.
      skipped: int32 scalar, how many of them took no step.
      energy: r, like the parameters in float32 or wider, or one number if `shared`.
      inner: the state of `inner`.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and `value`, and
      ends a chain. With `shared`, inside a group r is that of the group's leaves.
    Raises: ValueError for a number out of range, or if `value` is missing.
    Example:
      >>> tx, w = energy_step(learning_rate=0.5, c=0.0), {"w": jnp.asarray([2.0])}
      >>> tx.update(w, tx.init(w), w, value=jnp.asarray(1.0))[0]["w"].tolist()
      [-0.5]

    Deviations: the authors' code stops with an error where f + c is negative.
    Source: Liu and Tian, AEGD, arXiv:2010.05109; code txping/AEGD@50347c6, aegd.py.
      With a metric: Liu et al., arXiv:2310.06733.
    """
    _check.learning_rate("energy_step", learning_rate)
    for name, number in (("c", c), ("l2", l2), ("weight_decay", weight_decay)):
        _check.in_range("energy_step", name, number)
    link = optax.with_extra_args_support(optax.identity() if inner is None else inner)

    def init(params: optax.Params) -> EnergyStepState:
        real = lambda p: zeros_beside(p, _tree.real_dtype(p))
        zero = lambda: jnp.zeros((), jnp.int32)  # each a buffer of its own
        one = jnp.zeros((), _tree.real_dtype(params))
        energy = one if shared else jax.tree.map(real, params)
        return EnergyStepState(zero(), zero(), energy, link.init(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, EnergyStepState]:
        _check.has_params("energy_step", params)
        widest = _tree.real_dtype((updates, state.energy))
        shifted = _tree.loss("energy_step", extra, widest) + jnp.asarray(c, widest)
        good = (shifted > 0) & jnp.isfinite(shifted)
        root = jnp.sqrt(jnp.where(good, shifted, 1))
        rate = jnp.asarray(rate_at(learning_rate, state.count)).astype(widest)
        slopes = _slopes(updates, params, root, l2)
        steps, after = link.update(slopes, state.inner, params, **extra)
        started = state.count != state.skipped
        begin = lambda r: jnp.where(started, r, root.astype(r.dtype))
        energy = jax.tree.map(begin, state.energy)
        fall = _fall_of_all if shared else _fall_of_each
        energy = fall(energy, slopes, steps, rate)

        def leaf(u: jax.Array, s: jax.Array, r: jax.Array, p: jax.Array) -> jax.Array:
            lr, wd = rate.astype(s.dtype), jnp.asarray(weight_decay).astype(s.dtype)
            step = -2 * lr * r.astype(s.dtype) * s - lr * wd * p.astype(s.dtype)
            return jnp.where(good, step, 0).astype(u.dtype)

        each = jax.tree.map(lambda _: energy, updates) if shared else energy
        keep = lambda new, old: jnp.where(good, new, old)
        return jax.tree.map(leaf, updates, steps, each, params), EnergyStepState(
            jnp.asarray(optax.safe_increment(state.count)),
            state.skipped + jnp.where(good, 0, 1).astype(jnp.int32),
            *jax.tree.map(keep, (energy, after), (state.energy, state.inner)),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _slopes(updates: Any, params: Any, root: jax.Array, l2: ArrayLike) -> Any:
    """D, the gradient of the root of the loss, with its decay; float32 or wider."""

    def leaf(g: jax.Array, p: jax.Array) -> jax.Array:
        work = work_dtype(wider(g.dtype, p.dtype))
        decay = jnp.asarray(l2).astype(work) * p.astype(work)
        return g.astype(work) / (2 * root).astype(work) + decay

    return jax.tree.map(leaf, updates, params)


def _fall_of_each(energy: Any, slopes: Any, steps: Any, rate: jax.Array) -> Any:
    """The energies of all entries after a step."""

    def leaf(r: jax.Array, d: jax.Array, s: jax.Array) -> jax.Array:
        product = jnp.real(jnp.conj(d) * s).astype(r.dtype)
        return r / (1 + 2 * rate.astype(r.dtype) * product)

    return jax.tree.map(leaf, energy, slopes, steps)


def _fall_of_all(
    energy: jax.Array, slopes: Any, steps: Any, rate: jax.Array
) -> jax.Array:
    """The one energy of the tree after a step."""
    d, s, t = _tree.dot(slopes, steps, rate.dtype)
    return energy / (1 + 2 * rate * d * s * t).astype(energy.dtype)
