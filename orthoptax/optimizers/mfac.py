# SPDX-License-Identifier: Apache-2.0
"""M-FAC: the natural gradient of the Fisher matrix of a window of gradients."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax.optimizers._rest import on_parameters
from orthoptax.transforms.inverse_fisher import inverse_fisher
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.weight_decay import l2


def mfac(
    learning_rate: optax.ScalarOrSchedule,
    *,
    window: int | None = None,
    damping: ArrayLike = 1e-5,
    b1: ArrayLike = 0.0,
    weight_decay: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    max_bytes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The gradient times the inverse Fisher matrix of the last gradients.

        g <- G + wd W                                 all leaves as one vector
        F = damping I + sum of g g^T over the window / m
        U <- F^-1 g                                   by an m x m system
        M <- b1 M + (1 - b1) U                        not bias-corrected
        W <- W - lr M

    Args:
      learning_rate: number, array or schedule, of a Newton step: where the gradients of
        the window agree, a step is about lr m g / |g|^2, whatever their scale; where
        they vanish it is lr g / damping. The authors' is 1e-3, for fine-tuning 1e-4.
        Traceable.
      window: m, gradients kept; the authors' is 1024. None: 32. Static.
      damping: of F, absolute; the authors fine-tune with 1e-6. Gradients that vanish
        leave F = damping I: without noise of mini-batches a run comes to rest only if
        damping > lr h / 2, h the largest curvature. For a smooth loss of few or no
        batches choose lr h at least. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      weight_decay: of the gradient itself, so it enters the window. Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      max_bytes: most bytes for the window, which takes m times those of the parameters:
        at m = 1024 and 124 million of them 508 GB. None: 2^33. Static.
    State:
      window: the gradients, {leaf name: (m, *shape)}, in the parameter's dtype.
      cosines, norms: of the window, (m, m) and (m,).
      momentum: M, like the parameters.
      count, skipped: int32 scalars; gradients that are not finite are skipped.
      Memory: 33*m*n + 32*33 numbers a matrix of m rows and n columns, for a window of
        32; the latter are the tree's.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, and in `init` for a window of more
      than `max_bytes`, before it is allocated; TypeError in `init` for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = mfac(1e-3, window=8)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> round(float(updates["dense"]["bias"][0]) * 40 / 8, 6)
      -0.001

    Deviations: see `orthoptax.transforms.inverse_fisher`; the window is 32 for 1024.
    Family: Curvature.
    Source: Frantar et al., M-FAC, arXiv:2107.03356; code IST-DASLab/M-FAC@8116367,
      optim.py.
    """
    _check.learning_rate("mfac", learning_rate)
    return on_parameters(
        "mfac",
        l2(weight_decay),
        inverse_fisher(window, damping=damping, max_bytes=max_bytes),
        momentum(b1, nesterov=False, mu_dtype=mu_dtype),
        scale_by_learning_rate(learning_rate),
    )
