# SPDX-License-Identifier: Apache-2.0
"""SPEL: Muon's step, and the weights made orthogonal again after it."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.projections import stiefel
from orthoptax.matrix.schedules import QUINTIC
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.project_weights import project_weights
from orthoptax.transforms.weight_decay import decoupled


def spel(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    nesterov: bool = False,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon's step, and the weights made orthogonal again after it.

    Steepest descent in the spectral norm on the matrices with orthonormal rows or
    columns. The first step puts the weights there, wherever they start: initialize them
    orthogonal.

        M <- b1 M + (1 - b1) G;   U <- M, or Nesterov's b1 M + (1 - b1) G
        W <- polar((1 - lr wd) W - lr polar(U))

    Args:
      learning_rate: angle of a step, in radians where it is small: number, array or
        schedule. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the projection undoes its length
        and leaves longer steps, by 1/(1 - lr wd). Traceable.
      polar: of both; None: `newton_schulz(QUINTIC)`. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: `MomentumState` (momentum, like the matrices), counts, and the norm of
        each matrix at the first step.
      rest: the state of `rest`.
      Memory: m*n + 1 numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.eye(4), "bias": jnp.ones(8)}}
      >>> tx = spel(0.02)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> new = params["dense"]["kernel"] + updates["dense"]["kernel"]
      >>> bool(abs(new - jnp.eye(4)).max() < 0.04)  # it was on the set
      True

    Deviations: weights decay by 0.1 in the code unless told otherwise; here by 0.
    Family: Constrained.
    Source: Manifold Constrained Steepest Descent, arXiv:2601.21487; code
      Emerging-Optimizers@fd77292, spel.py.
    """
    _check.learning_rate("spel", learning_rate)
    rest = rest_or_adamw("spel", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    polar = newton_schulz(QUINTIC) if polar is None else polar
    matrix = optax.chain(
        momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
        # All on matrices: on a mesh one exchange then serves both polar factors.
        on_matrices(
            orthogonalize(polar),
            after_or_nothing(after),
            decoupled(weight_decay),
            scale_by_learning_rate(learning_rate),
            project_weights(stiefel(polar)),
            layout=layout,
            place=place,
        ),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
