# SPDX-License-Identifier: Apache-2.0
"""Gradients times a polynomial of a curvature matrix that is known by its products."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import is_callable, message
from orthoptax.matrix.polynomial import elementary_symmetric, precondition_with
from orthoptax.transforms import _tree


def precondition_polynomial(
    traces: Sequence[ArrayLike] = (),
    *,
    matvec: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the gradient by P_k(B) / e_k, which closes B's k largest gaps.

    For an objective whose curvature is bounded by a known B, such as the Gram matrix of
    the features of a generalized linear model.

        U <- sum_{j=0..k} (-1)^j e_{k-j}/e_k B^j G           k products with B
        e_j: elementary symmetric polynomials of B's eigenvalues, from tr(B^j)

    Args:
      traces: tr(B), tr(B^2), ... tr(B^k), as many as the degree; none: the identity. In
        float32 cancellation leaves nothing of a degree above 4. Traceable.
      matvec: maps a tree like the parameters to B times it, B symmetric and positive
        semidefinite; what the sizes of groups are is its business. Needed unless
        `traces` is empty. Static.
    State: none.
    Returns: a `GradientTransformationExtraArgs`.
    Raises: TypeError for traces without a `matvec`; ValueError if tr(B) is a Python
      number that is not positive.
    Example:
      >>> b = jnp.asarray([1.0, 3.0])
      >>> product = lambda tree: {"w": b * tree["w"]}
      >>> tx, g = precondition_polynomial([4.0], matvec=product), {"w": jnp.ones(2)}
      >>> [round(float(4 * u), 3) for u in tx.update(g, tx.init(g))[0]["w"]]
      [3.0, 1.0]

    Source: Doikov and Rodomanov, arXiv:2301.13194.
    """
    if len(traces) and matvec is None:
        is_callable("precondition_polynomial", "matvec", matvec, "lambda tree: ...")
    if len(traces) and isinstance(traces[0], int | float) and not traces[0] > 0:
        raise ValueError(
            message(
                "precondition_polynomial",
                f"tr(B)={traces[0]} is not positive",
                "a positive semidefinite B that is not zero",
                "Change traces",
            )
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra
        if matvec is None or not len(traces):
            return updates, state
        widest = _tree.real_dtype(updates)
        sums = jnp.stack([jnp.asarray(p).astype(widest) for p in traces])
        # B over its trace has the same P/e, and terms near 1. The square of a trace may
        # be out of range where tr(B^2) is not: its exponent is taken out first.
        unit, degrees = sums[0], jnp.arange(1, len(traces) + 1)
        fraction, exponent = jnp.frexp(unit)
        sums = jnp.ldexp(sums, -exponent * degrees) / fraction ** degrees.astype(widest)
        wide = jax.tree.map(lambda u: u.astype(_tree.real_dtype(u)), updates)
        over = lambda tree: jax.tree.map(lambda x: x / unit.astype(x.dtype), tree)
        product = matvec
        found = precondition_with(lambda x: over(product(x)), sums, wide)
        whole = elementary_symmetric(sums)[-1]
        return jax.tree.map(
            lambda u, x: (x / whole.astype(x.dtype)).astype(u.dtype), updates, found
        ), state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
