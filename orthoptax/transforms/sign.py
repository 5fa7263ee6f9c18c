# SPDX-License-Identifier: Apache-2.0
"""The sign of every entry."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def sign() -> optax.GradientTransformationExtraArgs:
    """Replaces each entry by its sign.

    The direction of steepest descent in the largest-entry norm; before `orthogonalize`
    it takes the size of the entries out of the singular vectors.

        U <- sign(U)                                        sign(0) = 0

    State: none.
    Returns: a `GradientTransformationExtraArgs`, elementwise; of a complex entry the
      sign is U / |U|.
    Example:
      >>> tx = sign()
      >>> tx.update({"w": jnp.asarray([-3.0, 0.0, 2.0])}, tx.init({}))[0]["w"].tolist()
      [-1.0, 0.0, 1.0]

    Source: Bernstein et al., signSGD, arXiv:1802.04434.
    """

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        return jax.tree.map(jnp.sign, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
