# SPDX-License-Identifier: Apache-2.0
"""Argument checks; the only place that formats errors."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np


def message(where: str, wrong: str, expected: str, action: str) -> str:
    """The house form of an error: where and what, expected what, do what."""
    return f"{where}: {wrong}. Expected {expected}. {action}."


def in_range(
    where: str, name: str, value: Any, low: float = 0.0, high: float = math.inf
) -> None:
    """Raises unless a Python number lies in [low, high); leaves traced values alone."""
    if isinstance(value, bool | str) or value is None:
        raise TypeError(
            message(
                where,
                f"{name}={value!r} is not a number",
                "a real number",
                f"Pass {name} as a number",
            )
        )
    if not isinstance(value, (numbers.Real, np.number)):
        return
    if not low <= float(value) < high:  # also refuses NaN
        raise ValueError(
            message(
                where,
                f"{name}={value} is out of range",
                f"a number in [{low:g}, {high:g})",
                f"Change {name}",
            )
        )


def learning_rate(where: str, value: Any) -> None:
    """A rate is a number that is not negative, an array, or a schedule."""
    if not callable(value):
        in_range(where, "learning_rate", value)


def is_callable(where: str, name: str, value: Any, example: str) -> None:
    """Raises unless value is a function, naming one that would do."""
    if not callable(value):
        raise TypeError(
            message(
                where,
                f"{name}={value!r} is not a function",
                "a function",
                f"Pass for example {example}",
            )
        )


def has_params(where: str, params: Any) -> None:
    """Raises when a transform that reads the parameters was given none."""
    if params is None:
        raise ValueError(
            message(
                f"{where}.update",
                "missing 'params'",
                "the parameters",
                "Call tx.update(updates, state, params)",
            )
        )


def is_matrix(where: str, name: str, shape: Iterable[int]) -> None:
    """Raises when a link that works on matrices meets a leaf that is none."""
    shape = tuple(shape)
    if len(shape) < 2:
        raise ValueError(
            message(
                where,
                f"leaf {name!r} of shape {shape} is not a matrix",
                "two axes or more",
                "Wrap the link in on_matrices(...)",
            )
        )


def fraction(where: str, name: str, value: Any) -> None:
    """Raises unless value is a Python number in (0, 1]: it decides shapes."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(
            message(
                where,
                f"{name}={value!r} is not a Python number",
                "one, since it decides shapes",
                f"Pass a number; under optax.inject_hyperparams name {name} in "
                "static_args",
            )
        )
    if not 0 < float(value) <= 1:  # also refuses NaN
        raise ValueError(
            message(
                where,
                f"{name}={value} is out of range",
                "a number in (0, 1]",
                f"Change {name}",
            )
        )


def count(where: str, name: str, value: Any, least: int = 1) -> None:
    """Raises unless value is a Python integer, not below `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            message(
                where,
                f"{name}={value!r} is not a Python integer",
                "one, since it decides shapes or the program",
                f"Pass an integer; under optax.inject_hyperparams name {name} in "
                "static_args",
            )
        )
    in_range(where, name, value, least)
