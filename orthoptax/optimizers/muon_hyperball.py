# SPDX-License-Identifier: Apache-2.0
"""Muon-Hyperball: Muon's direction, and weights of a norm that never changes."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar
from orthoptax.layout.names import named_leaves
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.projections import sphere
from orthoptax.matrix.schedules import QUINTIC
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.project_weights import project_weights
from orthoptax.transforms.relative_update import relative_update
from orthoptax.transforms.weight_decay import decoupled


def muon_hyperball(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    nesterov: bool = False,
    mu_dtype: DTypeLike | None = None,
    radius: ArrayLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon's direction, and weights of a norm that never changes.

    Every step turns a matrix by about the learning rate, in radians, whatever the size
    of the weights; there is no growth that decay would have to balance.

        M <- b1 M + (1 - b1) G;   U <- M, or Nesterov's b1 M + (1 - b1) G
        O <- polar(U)
        W <- (1 - lr wd) W - lr ||W||_F O / ||O||_F
        W <- R W / ||W||_F

    Args:
      learning_rate: number, array or schedule. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      radius: R. None: each matrix keeps the norm it began with. A number: all have that
        one from the first step on; begin with it. Traceable.
      weight_decay: decoupled, of the matrices only; the projection undoes its length
        and leaves longer steps, by 1/(1 - lr wd). Traceable.
      polar: see `orthoptax.matrix`; None: `newton_schulz(QUINTIC)`. Static.
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
      cannot decide or a matrix of zeros, which has no direction to turn (where its
      values are known: not under `jit`); TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.eye(4), "bias": jnp.ones(8)}}
      >>> tx = muon_hyperball(0.02)
      >>> updates, state = tx.update({"dense": {"kernel": jnp.ones((4, 4)),
      ...     "bias": jnp.ones(8)}}, tx.init(params), params)
      >>> new = params["dense"]["kernel"] + updates["dense"]["kernel"]
      >>> round(float(jnp.linalg.norm(new)), 3)
      2.0

    Deviations: no shape scale, which the normalization would remove; no epsilon; the
      code rescales weights to a given radius when it is constructed, here the first
      step does.
    Family: Constrained.
    Source: NVIDIA Emerging-Optimizers, 2025; code Emerging-Optimizers@fd77292,
      muon_hyperball.py.
    """
    _check.learning_rate("muon_hyperball", learning_rate)
    if radius is not None:
        _check.in_range("muon_hyperball", "radius", radius)
    rest = rest_or_adamw("muon_hyperball", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
        on_matrices(
            _refuse_zeros(),
            orthogonalize(newton_schulz(QUINTIC) if polar is None else polar),
            relative_update(),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
        on_matrices(project_weights(sphere(radius)), layout=layout, place=place),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)


def _refuse_zeros() -> optax.GradientTransformation:
    """The identity, whose `init` raises for a matrix of zeros where it can see it."""

    def init(params: optax.Params) -> optax.EmptyState:
        for name, leaf in named_leaves(params).items():
            if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
                continue
            if bool(jnp.any(jnp.all(leaf == 0, axis=(-2, -1)))):
                raise ValueError(
                    _check.message(
                        "muon_hyperball",
                        f"{name!r} of shape {leaf.shape} has a matrix of zeros, which "
                        "would never move",
                        "weights of a norm that is not zero",
                        "Initialize it otherwise, or give it to `rest`",
                    )
                )
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return updates, state

    return optax.GradientTransformation(init, update)
