# SPDX-License-Identifier: Apache-2.0
"""AdaGO: Muon with AdaGrad's step size, one number a matrix."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.running import divide
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.adagrad_norm import adagrad_norm
from orthoptax.transforms.learning_rate import rate_at, scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.weight_decay import decoupled
from orthoptax.transforms.with_statistics import with_statistics


def adago(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    gamma: ArrayLike = 10.0,
    eps: ArrayLike = 5e-4,
    initial: ArrayLike = 1e-3,
    nesterov: bool = False,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon with AdaGrad's step size, one number a matrix.

    The direction is orthogonal, the length of the step adapts: it falls as gradients
    accumulate, and with the gradient itself.

        M <- b1 M + (1 - b1) G
        c <- min(||G||_F, gamma)
        v^2 <- v^2 + c^2                              v = initial at first
        W <- W - max(eps, lr c / v) polar(M) - lr wd W

    Steps lie between eps and max(eps, lr), in the spectral norm.

    Args:
      learning_rate: number, array or schedule; the step of the first gradient. The
        public ports run 0.05; AdamW's does not carry over, so give `rest` its own.
        Where it is 0 nothing moves, whatever `eps`. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      gamma: gradients count for no more than this norm. Traceable.
      eps: least step, absolute: no multiple of the learning rate. Traceable.
      initial: v before the first gradient. Traceable.
      nesterov: look one step ahead; the paper does not. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the paper has none. Traceable.
      polar: see `orthoptax.matrix`; None: `auto()`; the authors' is `newton_schulz()`,
        Jordan's schedule. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: M, like the matrices; the root of the sum of c^2, one number a matrix;
        counts.
      rest: the state of `rest`.
      Memory: m*n + 1 numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = adago(0.05, rest=optax.adamw(1e-3))
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: the paper steps by eps even at rate 0; here a rate of 0 stops all steps.
      Its polar factor is exact: `polar=svd()`. A shape scale, which it has not, goes in
      as `after=scale_by_shape(...)`. At gamma and initial this method, unlike Muon,
      depends on the scale of the gradient.
    Family: Adaptive.
    Source: Zhang et al., AdaGrad Meets Muon, arXiv:2509.02981, Algorithm 1; constants
      from the port kozistr/pytorch_optimizer@7a076d2, whose recursion is another.
    """
    _check.learning_rate("adago", learning_rate)
    _check.in_range("adago", "eps", eps)
    rest = rest_or_adamw("adago", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place

    def floor(count: ArrayLike) -> jax.Array:
        """eps in units of the rate that the chain ends with."""
        rate = jnp.asarray(rate_at(learning_rate, count))
        return divide(jnp.asarray(eps).astype(rate.dtype), rate)

    matrix = optax.chain(
        with_statistics(
            momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
            on_matrices(
                orthogonalize(polar),
                adagrad_norm(gamma, initial=initial, floor=floor),
                after_or_nothing(after),
                layout=layout,
                place=place,
            ),
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
