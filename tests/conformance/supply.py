# SPDX-License-Identifier: Apache-2.0
"""The extra arguments that the suite gives to the transforms that need some."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from orthoptax._dtypes import work_dtype


def objective(updates: Any, params: Any) -> Callable[[Any], jax.Array]:
    """The quadratic whose gradient at the parameters is the update, Hessian identity.

    On masked parameters too; its derivatives mix no leaves, also where some are NaN.
    """

    def loss(moved: Any) -> jax.Array:
        parts = []
        for p, start, g in zip(*map(jax.tree.leaves, (moved, params, updates)),
                               strict=True):  # fmt: skip
            work = work_dtype(p.dtype)
            gap = p.astype(work) - start.astype(work)
            parts.append(jnp.sum(g.astype(work) * gap + gap * gap / 2))
        wide = max(
            (x.dtype for x in parts), default=jnp.float32, key=lambda d: d.itemsize
        )
        return sum((x.astype(wide) for x in parts), jnp.zeros((), wide))

    return loss


def of_labels(logits: Any, labels: Any) -> tuple[jax.Array, int]:
    """The likelihood of Gaussian labels of one each; gradients 1 by `below`."""
    gap = lambda x, y: x.astype(jnp.float32) - y.astype(jnp.float32)
    gaps = jax.tree.leaves(jax.tree.map(gap, logits, labels))
    return sum((jnp.sum(d * d / 2) for d in gaps), jnp.zeros(())), 1


def below(key: Any, logits: Any) -> Any:
    """Labels that are no draws: with them the estimate is 1 everywhere."""
    return jax.tree.map(lambda x: x - jnp.ones_like(x), logits)


EXTRA: dict[str, Callable[[Any, Any], Any]] = {
    "obj_fn": objective,
    "grad_fn": lambda updates, params: jax.grad(objective(updates, params)),
    "value": lambda updates, params: jnp.ones(()),
    "logits_fn": lambda updates, params: lambda p: p,
    "sample_fn": lambda updates, params: below,
    "nll_fn": lambda updates, params: of_labels,
    "hessian_diag": lambda updates, params: jax.tree.map(
        lambda u: jnp.ones_like(u, work_dtype(u.dtype)), updates
    ),
}
"""What the suite gives `update` for each extra argument that a constructor `needs`."""


def supplied(tx: Any, needs: tuple[str, ...]) -> Any:
    """The transform, with the extra arguments that it needs."""
    if not needs:
        return tx

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        ours = {name: EXTRA[name](updates, params) for name in needs}
        return tx.update(updates, state, params, **{**ours, **extra})

    return optax.GradientTransformationExtraArgs(tx.init, update)
