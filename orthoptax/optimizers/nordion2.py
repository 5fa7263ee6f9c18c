# SPDX-License-Identifier: Apache-2.0
"""NorDion2, also called Dion3: Dion2 by rows, evened out as in NorMuon."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.norms import frobenius
from orthoptax.matrix.schedules import POLAR_EXPRESS_102
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.error_feedback import error_feedback
from orthoptax.transforms.keep_norm import keep_norm
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.normalize_neurons import normalize_neurons
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.scale_by_shape import scale_by_shape, spectral_norm
from orthoptax.transforms.submatrix import submatrix
from orthoptax.transforms.weight_decay import decoupled

ROWS = -2


def nordion2(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    fraction: float | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dion2 by rows, its rows evened out at unchanged Frobenius norm.

    Always chooses rows, the output neurons, and keeps NorMuon's statistic of each; only
    the chosen rows take part and are updated.

        B <- M + G
        I <- the k = ceil(fraction rows) rows of largest sum of |entries|
        M <- B;  M[I] <- b1 B[I]
        O <- polar(B[I])
        V[I] <- b2 V[I] + (1 - b2) mean of O^2 over the columns
        N <- O / sqrt(V[I]);  N <- N ||O||_F / ||N||_F
        W <- W - lr wd W
        W[I] <- W[I] - lr s(rows, cols) N               s = sqrt(rows/cols)

    Args:
      learning_rate: number, array or schedule; the authors use 0.01 to 0.02. Traceable.
      b1: what is kept of the rows that went on, in [0, 1). Traceable.
      b2: weight of the past in V, in [0, 1). Traceable.
      fraction: of the rows, in (0, 1]; None: 0.25. Static, named in `static_args` under
        `optax.inject_hyperparams`.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only. Traceable.
      polar: see `orthoptax.matrix`; None: `newton_schulz` with
        `POLAR_EXPRESS_102`. Static.
      shape_rule: see `scale_by_shape`, of the whole matrix; None: `spectral_norm`.
        Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: `ErrorFeedbackState` (M, like the matrices; V, one number a row), the
        links' states, counts.
      rest: the state of `rest`.
      Memory: m*n + m numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves and for a traced fraction.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = nordion2(0.01)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> int(jnp.sum(jnp.any(updates["dense"]["kernel"] != 0, axis=0)))
      2

    Deviations: the authors decay weights by 0.01, add 1e-8 to sqrt(V) and to the norm
      inside `polar`, and divide by a norm of at least 1e-8:
      `normalize_neurons(b2, eps=1e-8)`, `keep_norm(..., floor=1e-8)`, by recombination.
    Family: Low rank and sparse.
    Source: Ahn et al., Dion2, arXiv:2512.16928; code microsoft/dion@0a059a4,
      nordion2.py.
    """
    _check.learning_rate("nordion2", learning_rate)
    rest = rest_or_adamw("nordion2", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    if polar is None:
        polar = newton_schulz(POLAR_EXPRESS_102, scale=frobenius(factor=1.02))
    rows = submatrix(
        orthogonalize(polar),
        keep_norm(normalize_neurons(b2)),
        fraction=fraction,
        axis=ROWS,
    )
    compressor = on_matrices(
        rows,
        scale_by_shape(spectral_norm if shape_rule is None else shape_rule),
        after_or_nothing(after),
        layout=layout,
        place=place,
    )
    matrix = optax.chain(
        error_feedback(b1, compressor, mu_dtype=mu_dtype),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)


dion3 = nordion2  # the authors export it under both names
