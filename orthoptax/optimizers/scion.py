# SPDX-License-Identifier: Apache-2.0
"""Scion: Frank-Wolfe steps in norm balls, one norm for each kind of leaf."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.balls import spectral_ball
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.lmo import lmo, sign_or_rms
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.scale_by_shape import scale_by_shape, spectral_norm
from orthoptax.transforms.weight_decay import decoupled


def scion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    mu_dtype: DTypeLike | None = None,
    radius: ArrayLike = 1.0,
    rest_radius: ArrayLike = 1.0,
    weight_decay: ArrayLike = 1.0,
    polar: Polar | None = None,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Frank-Wolfe steps in norm balls, one norm for each kind of leaf.

    Every leaf stays in a ball of its own norm, if it starts there, and every step goes
    some way to a point of that ball's surface. One rate then fits all widths.

        M <- b1 M + (1 - b1) G
        W <- (1 - lr wd) W - lr radius D(M)
        D(M) = sqrt(rows/cols) polar(M)               matrices
        D(M) = M / rms(M)                             gains, biases, scalars
        D(M) = sign(M)                                embeddings, heads, other leaves

    weight_decay=1.0 is the constrained form, 0.0 the unconstrained one.

    Args:
      learning_rate: number, array or schedule, below 1; the authors' are near 2^-12 for
        large radii. Traceable.
      b1: weight of the past, in [0, 1): ONE MINUS what the authors' code calls momentum
        (theirs 0.1 is 0.9 here). Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      radius: of the matrices' ball; 50 in the authors' language models. Traceable.
      rest_radius: of the balls of all other leaves; the authors' 3000 for the head,
        divided by the model's width. Traceable.
      weight_decay: wd, of all leaves. Traceable.
      polar: see `orthoptax.matrix`; None: `auto()`; the authors' is `newton_schulz()`,
        Jordan's schedule. Static.
      shape_rule: see `scale_by_shape`; None: `spectral_norm`, sqrt(rows/cols). Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None: the lines above. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: `MomentumState` (momentum, like the matrices), the links' states, counts.
      rest: the same for all other leaves, or the state of `rest`.
      Memory: m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = scion(0.125)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> float(updates["dense"]["bias"][0])  # 1 - (0.125 + 0.125)
      -0.25

    Deviations: for other norms, links of one `lmo` and layout each; the sign of a head
      is not divided by its inputs (pass `rest_radius`); a convolution of k x k windows
      has the scale of its flattened matrix, the authors' code divides by k once more
      (pass `shape_rule`); b1=0.9, the value they recommend, theirs defaults to 0.
      Emerging-Optimizers' Scion: b1=0.95, `newton_schulz(QUINTIC)`, matrices only.
    Family: Trust region.
    Source: Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs,
      arXiv:2502.07529, Algorithms 1 and 2; code LIONS-EPFL/scion@f58a393, scion.py.
    """
    _check.learning_rate("scion", learning_rate)
    _check.in_range("scion", "rest_radius", rest_radius)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        momentum(b1, nesterov=False, mu_dtype=mu_dtype),
        on_matrices(
            lmo(spectral_ball(polar), radius=radius),
            scale_by_shape(spectral_norm if shape_rule is None else shape_rule),
            optax.identity() if after is None else after,
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    own = optax.chain(
        momentum(b1, nesterov=False, mu_dtype=mu_dtype),
        sign_or_rms(rest_radius),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    rest = own if rest is None else rest
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
