# SPDX-License-Identifier: Apache-2.0
"""What a named optimizer does where an argument was not given."""

from typing import Any

import optax

from orthoptax import _check
from orthoptax._types import OnParts, ShapeRule
from orthoptax.layout.leaves import parameters
from orthoptax.layout.wrap import not_empty
from orthoptax.transforms.scale_by_shape import match_rms


def after_or_nothing(
    after: optax.GradientTransformation | None,
) -> optax.GradientTransformation:
    """`after`, or a link that does nothing, on parts of matrices too."""
    if after is not None:
        return after
    nothing = optax.with_extra_args_support(optax.identity())
    return OnParts(nothing.init, nothing.update)


def rest_or_adamw(
    where: str,
    learning_rate: optax.ScalarOrSchedule,
    rest: optax.GradientTransformation | None,
    shape_rule: ShapeRule | None = None,
) -> optax.GradientTransformation:
    """`rest`, or AdamW at the same rate where that rate can be right for both groups.

    Raises: ValueError for a shape rule of another scale than AdamW's without `rest`.
    """
    if rest is not None:
        return rest
    if shape_rule not in (None, match_rms):
        raise ValueError(
            _check.message(
                where,
                f"shape_rule={getattr(shape_rule, '__name__', shape_rule)} has a rate "
                "of its own, which AdamW's for the other leaves need not be",
                "rest= beside it",
                "Pass for example rest=optax.adamw(3e-4, weight_decay=0.0)",
            )
        )
    return optax.adamw(learning_rate, weight_decay=0.0)


def on_parameters(
    where: str, *links: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """A chain for every leaf, with the checks of `only_floats`."""
    return only_floats(where, optax.chain(*links))


def only_floats(
    where: str, tx: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """The same, with the checks that a layout makes elsewhere.

    Raises: in `init` TypeError for integer leaves; in `update` ValueError for an empty
      tree.
    """

    def init(params: optax.Params) -> Any:
        parameters(params, where)
        return tx.init(params)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        not_empty(f"{where}.update", updates)
        return tx.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)
