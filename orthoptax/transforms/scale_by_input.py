# SPDX-License-Identifier: Apache-2.0
"""Wrappers that give a direction without a scale the size of what it was made from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax._check import is_matrix
from orthoptax._dtypes import times, wider, work_dtype
from orthoptax._types import matrix_link
from orthoptax.layout.names import named_leaves
from orthoptax.matrix.running import norm
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.with_input import with_input


class ScaleByDualNormState(NamedTuple):
    """inner, then: the states of the two links."""

    inner: Any
    then: Any


@matrix_link
def scale_by_dual_norm(
    inner: optax.GradientTransformation | None = None,
    *,
    then: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies a steepest direction by the norm it is steepest for: gradient descent.

    For O = polar(U), <U, O> is the nuclear norm of U, the sum of its singular values;
    for O = sign(U) it is the sum of |U_ij|. The step is that of PolarGrad.

        O <- inner(U)
        U <- <U, O> then(O)

    Args:
      inner: a matrix link; None: `orthogonalize()`. Static.
      then: a link between O and the factor, in matrix coordinates; None: the identity.
        With `momentum(nesterov=False)` it is PolarGrad's "polar first". Static.
    State:
      inner, then: the states of the two links.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. Grows with the first power of the gradient.
    Raises: ValueError for a leaf with fewer than two axes.
    Example:
      >>> tx = scale_by_dual_norm(optax.scale_by_sign())
      >>> u = {"w": jnp.asarray([[3.0, -1.0]])}
      >>> tx.update(u, tx.init(u))[0]["w"].tolist()
      [[4.0, -4.0]]

    Source: Lau et al., PolarGrad, arXiv:2505.21799; code timlautk/polargrad@79f3c6f.
    """
    first, second = map(
        optax.with_extra_args_support,
        (
            orthogonalize() if inner is None else inner,
            optax.identity() if then is None else then,
        ),
    )

    def init(params: optax.Params) -> ScaleByDualNormState:
        _check_matrices("scale_by_dual_norm", params)
        return ScaleByDualNormState(first.init(params), second.init(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ScaleByDualNormState]:
        _check_matrices("scale_by_dual_norm", updates)
        directions, inner_state = first.update(updates, state.inner, params, **extra)
        out, then_state = second.update(directions, state.then, params, **extra)

        def leaf(u: jax.Array, o: jax.Array, d: jax.Array) -> jax.Array:
            x, o = (y.astype(work_dtype(wider(u.dtype, o.dtype))) for y in (u, o))
            dual = jnp.sum(jnp.real(jnp.conj(x) * o), axis=(-2, -1), keepdims=True)
            return times(d, dual).astype(u.dtype)

        results = jax.tree.map(leaf, updates, directions, out)
        return results, ScaleByDualNormState(inner_state, then_state)

    return optax.GradientTransformationExtraArgs(init, update)


@matrix_link
def scale_by_input_norm(
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies what a link makes of each matrix by the matrix's Frobenius norm.

    Unlike `keep_norm` it does not divide by the norm of the result: an orthogonal O
    gets the norm ||U||_F sqrt(min(rows, cols)).

        U <- ||U||_F inner(U)

    Args:
      inner: a matrix link; None: `orthogonalize()`. Static.
    State: that of `inner`.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. Grows with the first power of the gradient.
    Raises: ValueError for a leaf with fewer than two axes.
    Example:
      >>> tx, u = scale_by_input_norm(optax.scale_by_sign()), {"w": jnp.ones((2, 2))}
      >>> tx.update(u, tx.init(u))[0]["w"].tolist()
      [[2.0, 2.0], [2.0, 2.0]]

    Source: NAMO, arXiv:2602.17080; code Emerging-Optimizers@fd77292, adaptive_muon.py.
    """
    inner = orthogonalize() if inner is None else inner
    link = with_input(inner, lambda u, o: norm(u).astype(o.dtype) * o)

    def init(params: optax.Params) -> Any:
        _check_matrices("scale_by_input_norm", params)
        return link.init(params)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        _check_matrices("scale_by_input_norm", updates)
        return link.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_matrices(where: str, tree: Any) -> None:
    """Raises for a leaf that is no matrix."""
    for name, leaf in named_leaves(tree).items():
        is_matrix(where, name, leaf.shape)
