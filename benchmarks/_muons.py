# SPDX-License-Identifier: Apache-2.0
"""Muon, ours and optax's with each preset and preconditioning, and AdamW."""

from collections.abc import Callable
from typing import Any

import optax

from orthoptax import matrix
from orthoptax._types import Polar
from orthoptax.optimizers.muon import muon

RATE = 0.02
RMS = 0.2  # of an update's entries over its rate; ours does so by default
OURS = "muon"
CLASSIC = "muon, classic"
OPTAX = "optax.contrib.muon"

Make = Callable[..., optax.GradientTransformation]


def theirs(preset: str, preconditioning: str) -> Make:
    return lambda *_: optax.contrib.muon(
        RATE, preset, preconditioning=preconditioning, consistent_rms=RMS
    )


def ours(polar: Callable[..., Polar]) -> Make:
    def make(dtype: str, precision: str = "highest") -> optax.GradientTransformation:
        dtype = dtype if precision == "highest" else "bfloat16"  # what TPUs multiply
        return muon(RATE, polar=polar(compute_dtype=dtype, precision=precision))

    return make


def by_flops(**options: Any) -> Polar:
    """`auto` without what was timed: halved products wherever they are fewer."""
    return matrix.auto(hardware=matrix.Hardware(), **options)


OPTIMIZERS: dict[str, Make] = {
    OURS: ours(matrix.auto),
    CLASSIC: ours(matrix.newton_schulz),
    f"{OURS}, by FLOPs": ours(by_flops),
    OPTAX: theirs("standard", "frobenius"),
    f"{OPTAX}, aol": theirs("standard", "aol"),
    f"{OPTAX}, schatten": theirs("standard", "schatten"),
    f"{OPTAX}, spectral": theirs("standard", "spectral"),
    f"{OPTAX}, dion": theirs("dion", "frobenius"),
    f"{OPTAX}, dion, aol": theirs("dion", "aol"),
    f"{OPTAX}, dion, schatten": theirs("dion", "schatten"),
    f"{OPTAX}, dion, spectral": theirs("dion", "spectral"),
    "optax.adamw": lambda *_: optax.adamw(RATE),
}
"""{name: makes it for a dtype of parameters and products, and ours for a precision of
the products, which the others take from where they are traced}.
"""

IN_32_BITS = tuple(name for name in OPTIMIZERS if name.endswith("spectral"))
"""Those that find singular values, which 16 bits cannot."""
