# SPDX-License-Identifier: Apache-2.0
"""A chain whose links also see the gradient that entered it."""

from typing import Any

import optax


def with_statistics(
    *links: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Chains links and hands each of them the updates that entered, as `grad`.

    In a plain chain a link sees what the links before it have made of the gradient.
    Links that keep a statistic of the raw gradient and apply it to a direction made
    otherwise (`adagrad_norm`, `divide_by_norm`, `one_sided`, `divide_columns`) read
    the extra argument `grad`, and take their own input where there is none.

        U <- link_k(... link_1(G));  every link is told G

    Args:
      *links: transforms, in parameter coordinates or wrapped in `on_matrices`, which
        hands its links `grad` as matrices. None means the identity. Static.
    State: a tuple of the links' states.
    Returns: a `GradientTransformationExtraArgs`. A `grad` from the caller is replaced.
    Example:
      >>> import jax.numpy as jnp
      >>> ratio = optax.GradientTransformationExtraArgs(
      ...     lambda params: optax.EmptyState(),
      ...     lambda u, s, params=None, *, grad, **extra: (u / grad, s))
      >>> tx = with_statistics(optax.scale(3.0), ratio)
      >>> float(tx.update(jnp.asarray(2.0), tx.init(None))[0])
      3.0

    Source: ours; optax's line searches take `grad` in the same sense.
    """
    chain = optax.with_extra_args_support(
        optax.chain(*links) if links else optax.identity()
    )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        return chain.update(updates, state, params, **{**extra, "grad": updates})

    return optax.GradientTransformationExtraArgs(chain.init, update)
