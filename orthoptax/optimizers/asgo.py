# SPDX-License-Identifier: Apache-2.0
"""ASGO: momentum preconditioned on its smaller side."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Root
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.one_sided import one_sided
from orthoptax.transforms.rms_align import rms_align
from orthoptax.transforms.weight_decay import decoupled
from orthoptax.transforms.with_statistics import with_statistics


def asgo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.8,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    root: Root | None = None,
    absolute: bool = False,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum preconditioned on its smaller side, at a fixed root-mean-square.

    Shampoo with one factor: between Muon, which whitens one gradient, and AdaGrad,
    which remembers all. With b1 = b2 = 0 it is Muon with an exact polar factor.

        M <- b1 M + (1 - b1) G
        V <- b2 V + (1 - b2) C        C = G G^T if rows < cols, else G^T G
        U <- V^(-1/2) M  or, for G^T G,  M V^(-1/2)
        W <- W - lr (0.2 sqrt(rows cols) U / ||U||_F + wd W)

    Args:
      learning_rate: number, array or schedule; AdamW's carries over, the authors' is
        0.01. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in V, in [0, 1). Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the authors' is 0.1. Traceable.
      root: maps V to V^(-1/2); None: `polar_express_root()`, ten stages. Static.
      absolute: `root` is given V as it is, for parity with an author's epsilon; else V
        in units near its size. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: M, like the matrices; V, min(rows, cols)^2 numbers in float32 or wider,
        and its unit, one number a matrix; counts.
      rest: the state of `rest`.
      Memory: m*n + min(m, n)**2 + 1 numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = asgo(0.01, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: the authors add an absolute 1e-10 to V in the norm the iteration starts
      from: `root=polar_express_root(eps=1e-10), absolute=True`. Where V has no full
      rank, here its zeros stand at the level of rounding. The paper's Algorithm 1 sums,
      always takes the left side, and has neither momentum nor fixed size:
      `on_matrices(one_sided(root=eigen_root(1e-4), left=lambda rows, cols: True,
      ema=False, absolute=True))`, then the rate.
    Family: One-sided.
    Source: An et al., ASGO, arXiv:2503.20762, Algorithm 1; code
      infinity-stars/ASGO@d3ef14b, optimizers/asgo.py.
    """
    _check.learning_rate("asgo", learning_rate)
    rest = rest_or_adamw("asgo", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        with_statistics(
            momentum(b1, nesterov=False, mu_dtype=mu_dtype),
            on_matrices(
                one_sided(b2, root=root, absolute=absolute),
                rms_align(),
                after_or_nothing(after),
                layout=layout,
                place=place,
            ),
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
