# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: kernels that map a matrix to one."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from orthoptax.matrix import (
    frobenius_add,
    frobenius_max,
    newton_schulz,
    small_side_first,
    svd,
)
from tests.golden.replay import Case, Fields


def scale_of(normalize: str, eps: float, mode: str) -> Any:
    """'frobenius' or 'frobenius*1.02', with its epsilon added or as a floor."""
    norm, _, factor = normalize.partition("*")
    if norm != "frobenius":
        raise KeyError(f"unknown normalization {normalize!r}")
    if mode == "add":
        return frobenius_add(eps, factor=float(factor or 1))
    if mode == "max" and not factor:
        return frobenius_max(eps)
    raise KeyError(f"unknown epsilon mode {mode!r} of {normalize!r}")


PLACEMENT = {  # the words for where epsilon goes
    "added to the Frobenius norm": "add",
    "added to the norm": "add",
    "max(fro, eps)": "max",
}


def iteration(case: Case, mode: str | None = None, **options: Any) -> Callable:
    """Newton-Schulz with the recorded stages."""
    f = case.fields
    steps, c = f.take("steps"), f.take("coefficients")
    stages = c if isinstance(c[0], list) else [c]
    after = f.take("iteration_mode", default="cycle" if len(stages) == 1 else "list")
    endless = {
        "cycle": itertools.cycle(stages),
        "repeat_last": itertools.chain(stages, itertools.repeat(stages[-1])),
        "list": iter(stages),
    }[after]
    schedule = list(itertools.islice(endless, steps))
    assert len(schedule) == steps
    assert f.take("preconditioning", default="frobenius") == "frobenius"
    mode = mode or PLACEMENT[f.take("eps_placement")]
    scale = scale_of("frobenius", f.take("eps"), mode)
    f.done()
    return small_side_first(newton_schulz(schedule, scale=scale, **options))


def in_bfloat16(case: Case) -> Callable:
    """The published program: inputs cast, then every product in bfloat16."""
    polar = iteration(case, "add", compute_dtype=jnp.bfloat16)
    return lambda x: polar(x.astype(jnp.bfloat16)).astype(x.dtype)


def exact(case: Case) -> Callable[[jax.Array], jax.Array]:
    Fields.done(case.fields)
    return small_side_first(svd())


KERNELS: dict[str, Callable[[Case], Callable]] = {
    "newton_schulz / jordan": iteration,
    "newton_schulz / jordan, run in bfloat16 as published": in_bfloat16,
    "newton_schulz / nemo simple": iteration,
    "newton_schulz / nemo quintic": iteration,
    "optax newton_schulz, preconditioning=frobenius": iteration,
    "exact polar factor (SVD)": exact,
}
