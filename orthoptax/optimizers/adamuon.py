# SPDX-License-Identifier: Apache-2.0
"""AdaMuon: the polar factor of the signs, divided entry by entry as in Adam."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.chosen import OURS
from orthoptax.matrix.gram_norms import schatten_8
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.rms_align import rms_align
from orthoptax.transforms.second_moment import second_moment
from orthoptax.transforms.sign import sign
from orthoptax.transforms.weight_decay import decoupled


def adamuon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    b2: ArrayLike | None = None,
    eps: ArrayLike = 0.0,
    nesterov: bool = True,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The polar factor of the signs of the momentum, divided entry by entry.

    Adam's second moment on top of Muon's direction, whose size is then set to that of
    AdamW's updates.

        M <- b1 M + (1 - b1) G
        U <- b1 M + (1 - b1) G                        Nesterov; else M
        O <- polar(sign(U))
        V <- b2 V + (1 - b2) O * O                    b2 = b1
        H <- O / (sqrt(V) + eps)
        W <- W - lr (0.2 sqrt(rows cols) H / (||H||_F + eps) + wd W)

    Args:
      learning_rate: number, array or schedule; AdamW's carries over. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in V; None: `b1`. Traceable.
      eps: of both divisions; the authors' is 1e-8. Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      nu_dtype: dtype of V; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the authors run 0.1. Traceable.
      polar: see `orthoptax.matrix`; None: `newton_schulz(OURS, scale=schatten_8())`,
        because matrices of signs may be singular, where the Gram form of `auto` rounds
        most, and every entry counts alike behind the division; the authors' is
        `newton_schulz()`, Jordan's schedule. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: M and V, like the matrices; counts.
      rest: the state of `rest`.
      Memory: 2*m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = adamuon(6e-4, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: the paper's momentum is a sum without Nesterov (`nesterov=False`; behind
      a sign, sum and average are the same), its first version has no sign. The authors'
      second script drops V between steps, which is not followed. Their first one sets
      a convolution's norm by its smallest and largest axis; here all entries count.
    Family: Adaptive.
    Source: Si et al., AdaMuon, arXiv:2507.11005, Algorithm 1; code
      Chongjie-Si/AdaMuon@369f0b3, gpt2/models/optimizers/adamuon.py.
    """
    _check.learning_rate("adamuon", learning_rate)
    rest = rest_or_adamw("adamuon", learning_rate, rest)
    polar = newton_schulz(OURS, scale=schatten_8()) if polar is None else polar
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
        sign(),
        on_matrices(orthogonalize(polar), layout=layout, place=place),
        # elementwise, so in parameter coordinates: V is placed like its parameter
        second_moment(b1 if b2 is None else b2, eps=eps, nu_dtype=nu_dtype),
        on_matrices(
            rms_align(0.2, eps=eps),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
