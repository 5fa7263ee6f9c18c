# SPDX-License-Identifier: Apache-2.0
"""Every entry over the running root-mean-square of its own past."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax._check import in_range
from orthoptax._dtypes import wider, work_dtype, zeros_beside
from orthoptax.matrix.running import divide, running


class SecondMomentState(NamedTuple):
    """State of `second_moment`.

    count: int32, completed updates. second_moment: like the parameters, or `nu_dtype`.
    """

    count: jax.Array
    second_moment: optax.Updates


def moving_square(
    past: jax.Array, size: jax.Array, b2: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """(square root of V, V) of V <- b2 V + (1 - b2) size^2, V in the dtype of `past`.

    The root is taken of each term apart, so it is right also where the square of `size`
    overflows or vanishes; V is then the largest number of its dtype, or 0.
    """
    b = jnp.asarray(b2).astype(size.dtype)
    v = past.astype(size.dtype)
    largest = jnp.asarray(float(jnp.finfo(past.dtype).max), size.dtype)
    new = jnp.minimum(b * v + (1 - b) * size * size, largest)
    return running(jnp.sqrt(v), size, b), new.astype(past.dtype)


def second_moment(
    b2: ArrayLike = 0.95,
    *,
    eps: ArrayLike = 0.0,
    bias_correction: bool = False,
    nu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides each entry by the running root-mean-square of its own past, as Adam does.

        V <- b2 V + (1 - b2) U * U                                      V = 0 at first
        U <- U / (sqrt(V) + eps)              V / (1 - b2^t) if bias_correction

    Args:
      b2: weight of the past, in [0, 1). Traceable.
      eps: added to the root, for parity with an author's code. Traceable.
      bias_correction: divide V by 1 - b2^t; one factor of all entries, which a link
        that sets the scale (`rms_align`, `keep_norm`) removes. Static.
      nu_dtype: dtype of V; None: the parameter's. Static.
    State:
      count: int32 scalar, number of completed updates.
      second_moment: V, like the parameters, in their dtype or `nu_dtype`.
    Returns: a `GradientTransformationExtraArgs`, elementwise. An entry that was always
      zero stays zero.
    Raises: ValueError for a number out of range.
    Example:
      >>> tx, w = second_moment(0.75), {"w": jnp.asarray([3.0, -0.5, 0.0])}
      >>> tx.update(w, tx.init(w))[0]["w"].tolist()
      [2.0, -2.0, 0.0]

    Source: Kingma and Ba, Adam, arXiv:1412.6980; on orthogonalized updates Si et al.,
      AdaMuon, arXiv:2507.11005, code Chongjie-Si/AdaMuon@369f0b3 (eps 1e-8).
    """
    in_range("second_moment", "b2", b2, 0, 1)
    in_range("second_moment", "eps", eps)

    def init(params: optax.Params) -> SecondMomentState:
        zeros = lambda p: zeros_beside(p, nu_dtype or jnp.finfo(p.dtype).dtype)
        return SecondMomentState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SecondMomentState]:
        del params, extra
        t = jnp.asarray(optax.safe_increment(state.count))

        def leaf(u: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            work = work_dtype(wider(u.dtype, v.dtype))
            size = jnp.abs(u.astype(work))
            root, new = moving_square(v, size, b2)
            if bias_correction:
                b = jnp.asarray(b2).astype(root.dtype)
                root = root / jnp.sqrt(1 - b ** t.astype(root.dtype))
            divisor = (root + jnp.asarray(eps).astype(root.dtype)).astype(work)
            return divide(u.astype(work), divisor).astype(u.dtype), new

        pairs = jax.tree.map(leaf, updates, state.second_moment)
        pick = lambda i: jax.tree.map(lambda _, pair: pair[i], updates, pairs)
        return pick(0), SecondMomentState(t, pick(1))

    return optax.GradientTransformationExtraArgs(init, update)
