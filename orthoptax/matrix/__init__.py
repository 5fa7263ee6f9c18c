# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on (..., m, n) arrays: polar factors, their scales and schedules."""

from orthoptax.matrix.exact import svd
from orthoptax.matrix.inner import Inner, local
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.norms import frobenius, frobenius_add, frobenius_max
from orthoptax.matrix.orientation import small_side_first
from orthoptax.matrix.schedules import (
    CUBIC5,
    DEEPSEEK_V4,
    JORDAN,
    POLAR_EXPRESS_8,
    POLAR_EXPRESS_102,
    QUINTIC,
)

__all__ = [
    "CUBIC5",
    "DEEPSEEK_V4",
    "JORDAN",
    "POLAR_EXPRESS_8",
    "POLAR_EXPRESS_102",
    "QUINTIC",
    "Inner",
    "frobenius",
    "frobenius_add",
    "frobenius_max",
    "local",
    "newton_schulz",
    "small_side_first",
    "svd",
]
