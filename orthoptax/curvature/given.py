# SPDX-License-Identifier: Apache-2.0
"""A diagonal that the caller has."""

from typing import Any

import optax

from orthoptax._types import Estimator
from orthoptax.curvature.objective import required


def given() -> Estimator:
    """The diagonal that comes with the call, as `hessian_diag`.

    The clock of `with_curvature` does not apply: every call brings a diagonal, and may
    say with `hessian_fresh=False` that it is none.

    State: none.
    Returns: an `Estimator` that needs the extra argument `hessian_diag`, like the
      parameters, and takes `hessian_fresh`, a boolean; without it the diagonal counts.
    Raises: ValueError, while tracing, if `hessian_diag` is missing.
    Example:
      >>> estimator = given()
      >>> estimator.estimate(estimator.init(1.0), 1.0, 1.0, 0, None, hessian_diag=2.0)
      (2.0, EmptyState())

    Source: ours.
    """

    def estimate(
        state: Any, params: Any, grads: Any, step: Any, key: Any, **extra: Any
    ) -> tuple[Any, Any]:
        del params, grads, step, key
        return required("given", "hessian_diag", extra), state

    return Estimator(lambda params: optax.EmptyState(), estimate, clocked=False)
