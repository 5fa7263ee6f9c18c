# SPDX-License-Identifier: Apache-2.0
"""Turbo-Muon: Muon with a better scaling and one Newton-Schulz stage fewer."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar, ShapeRule
from orthoptax.matrix.gram_norms import aol
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.schedules import QUINTIC
from orthoptax.optimizers._rest import rest_or_adamw
from orthoptax.optimizers.muon import muon


def turbo_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    nesterov: bool = True,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon with a better scaling and one Newton-Schulz stage fewer.

    Instead of the whole matrix, each row is divided by a number of its own, which
    leaves the singular values nearer to 1 and comes with the first Gram matrix.

        M <- b1 M + (1 - b1) G
        U <- b1 M + (1 - b1) G                        Nesterov; else M
        X <- D U,  D_ii = 1 / sqrt(sum_j |U U^T|_ij)  rows of the wide orientation
        O <- four stages of Newton-Schulz on X
        W <- W - lr (s(rows, cols) O + wd W)          s = 0.2 sqrt(max(rows, cols))

    Args:
      learning_rate: number, array or schedule; AdamW's carries over. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only. Traceable.
      polar: see `orthoptax.matrix`; None: `newton_schulz(QUINTIC[1:], scale=aol())`.
        Static.
      shape_rule: see `scale_by_shape`; None: `match_rms`. With another rule the rates
        of the two groups differ, and `rest` must be given. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State: that of `muon`.
      Memory: m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, a shape rule without `rest`, or, in
      `init`, a leaf that the layout cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = turbo_muon(0.02)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: O approximates the polar factor of D U, not of U; square matrices and
      their transposes have different ones. The authors' first release has coefficients
      of its own; these are those of the paper and the second. Their floor of the sums
      is absolute, `aol(1e-7)`; their momentum is a sum, which here is the same.
    Family: Muon.
    Source: Boissin et al., Turbo-Muon, arXiv:2512.04632; code
      thib-s/flash-newton-schulz@1aa1f31, newton_schulz_triton.py.
    """
    _check.learning_rate("turbo_muon", learning_rate)
    return muon(
        learning_rate,
        b1=b1,
        nesterov=nesterov,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        polar=newton_schulz(QUINTIC[1:], scale=aol()) if polar is None else polar,
        shape_rule=shape_rule,
        place=place,
        after=after,
        rest=rest_or_adamw("turbo_muon", learning_rate, rest, shape_rule),
        layout=layout,
    )
