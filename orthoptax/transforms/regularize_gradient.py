# SPDX-License-Identifier: Apache-2.0
"""The gradient of the loss plus the square of its own gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._axes import Axes, as_varying, mean_over, names_of, tracked
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import needs
from orthoptax.curvature.objective import call, required
from orthoptax.matrix.running import divide
from orthoptax.transforms import _tree

Difference = Callable[[Callable[[Any], Any], Any, Any, jax.Array], Any]
"""difference(grad_fn, params, g, step): H g, or about it, for g = grad_fn(params)."""


def forward_difference(
    grad_fn: Callable[[Any], Any], params: Any, g: Any, step: jax.Array
) -> Any:
    """(grad_fn(W + step G) - G) / step: the paper's preferred form; 0 where step is.

    Args:
      grad_fn: the gradient as a function of the parameters.
      params: W.
      g: its gradient.
      step: a scalar.
    Returns: a tree like the parameters, float32 or wider.
    Example:
      >>> grad_fn = lambda w: w**3
      >>> forward_difference(grad_fn, *map(jnp.asarray, (1.0, 1.0, 1.0))).tolist()
      7.0

    Source: Karakida et al., arXiv:2210.02720.
    """
    return _over(_minus(grad_fn(_moved(params, step, g)), g), step)


def backward_difference(
    grad_fn: Callable[[Any], Any], params: Any, g: Any, step: jax.Array
) -> Any:
    """(G - grad_fn(W - step G)) / step; 0 where step is.

    Args:
      grad_fn: the gradient as a function of the parameters.
      params: W.
      g: its gradient.
      step: a scalar.
    Returns: a tree like the parameters, float32 or wider.
    Example:
      >>> grad_fn = lambda w: w**3
      >>> backward_difference(grad_fn, *map(jnp.asarray, (1.0, 1.0, 1.0))).tolist()
      1.0

    Source: Karakida et al., arXiv:2210.02720.
    """
    return _over(_minus(g, grad_fn(_moved(params, -step, g))), step)


def exact_product(
    grad_fn: Callable[[Any], Any], params: Any, g: Any, step: jax.Array
) -> Any:
    """H G by differentiating `grad_fn` along G: double backpropagation.

    Args:
      grad_fn: the gradient as a function of the parameters.
      params: W.
      g: its gradient.
      step: not used.
    Returns: a tree like the parameters.
    Example:
      >>> grad_fn = lambda w: w**3
      >>> exact_product(grad_fn, *map(jnp.asarray, (1.0, 1.0, 1.0))).tolist()
      3.0

    Source: Karakida et al., arXiv:2210.02720.
    """
    del step
    along = jax.tree.map(lambda p, u: u.astype(p.dtype), params, g)
    return jax.jvp(grad_fn, (params,), (along,))[1]


@needs("grad_fn")
def regularize_gradient(
    gamma: ArrayLike = 0.01,
    *,
    eps: ArrayLike = 0.05,
    difference: Difference | None = None,
    normalize: bool = False,
    axis_name: Axes = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of gamma/2 |G|^2, from one more gradient nearby.

        step <- eps                                    eps / |G| if normalize
        U <- G + gamma (grad_fn(W + step G) - G) / step             about G + gamma H G

    With gamma = eps it is grad_fn(W + eps G), sharpness-aware minimization without its
    norm; `normalize` alone does not make gamma follow.

    Args:
      gamma: weight of the square of the gradient. Traceable.
      eps: how far away the second gradient is taken. Traceable.
      difference: `forward_difference`, `backward_difference` or `exact_product`, or one
        of yours; None: `forward_difference`. Static.
      normalize: divide eps by the norm of the gradient over all leaves. Static.
      axis_name: mapped axes over which each device has a gradient of its own, under
        `pmap` or `shard_map`: that nearby is averaged over them. None: it is that of
        the whole batch, as under `jit`. Static.
    State: none.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and the extra
      argument `grad_fn`, the gradient on the batch of the step, with its draws, as
      a function of the parameters. It stands first, before any clipping. A zero
      gradient stays zero.
    Raises: ValueError for a number out of range, or if `grad_fn` is missing; TypeError
      if `difference` or `grad_fn` is not a function, or that fails on masked leaves.
    Example:
      >>> tx, w = regularize_gradient(0.5, eps=1.0), {"w": jnp.asarray([1.0])}
      >>> tx.update(w, tx.init(w), w, grad_fn=lambda p: p)[0]["w"].tolist()
      [1.5]

    Deviations: W + step G has the dtype of W. In 16 bits a small step is lost to
      rounding; use `exact_product`, or a larger eps.
    Source: Karakida et al., Understanding Gradient Regularization in Deep Learning,
      arXiv:2210.02720.
    """
    where = "regularize_gradient"
    _check.in_range(where, "gamma", gamma)
    _check.in_range(where, "eps", eps)
    difference = forward_difference if difference is None else difference
    _check.is_callable(where, "difference", difference, "forward_difference")

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        _check.has_params(where, params)
        given = required(f"{where}.update", "grad_fn", extra)
        axes = tracked(names_of(axis_name))

        def grad_fn(p: Any) -> Any:
            found = call(f"{where}.update", "grad_fn", given, as_varying(p, axes))
            return mean_over(found, axis_name)

        widest = _tree.real_dtype((updates, params))
        step = jnp.asarray(eps).astype(widest)
        if normalize:
            step = divide(step, _tree.norm(updates, widest))
        product = difference(grad_fn, params, updates, step)

        def leaf(u: jax.Array, h: jax.Array) -> jax.Array:
            work = work_dtype(wider(u.dtype, h.dtype))
            weight = jnp.asarray(gamma).astype(work)
            return (u.astype(work) + weight * h.astype(work)).astype(u.dtype)

        return jax.tree.map(leaf, updates, product), state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )


def _moved(params: Any, step: jax.Array, g: Any) -> Any:
    """W + step G in the dtype of W."""

    def leaf(p: jax.Array, u: jax.Array) -> jax.Array:
        work = work_dtype(wider(p.dtype, u.dtype))
        moved = p.astype(work) + step.astype(work) * u.astype(work)
        return moved.astype(p.dtype)

    return jax.tree.map(leaf, params, g)


def _minus(a: Any, b: Any) -> Any:
    """a - b, leaf by leaf, in float32 or wider."""

    def leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        work = work_dtype(wider(x.dtype, y.dtype))
        return x.astype(work) - y.astype(work)

    return jax.tree.map(leaf, a, b)


def _over(tree: Any, step: jax.Array) -> Any:
    """The tree over a scalar, 0 where that is 0."""
    return jax.tree.map(lambda x: divide(x, step.astype(x.dtype)), tree)
