# SPDX-License-Identifier: Apache-2.0
"""Everybody's ways to a polar factor: ours, optax's, published ones, exact ones."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax import matrix
from orthoptax.layout.stacks import map_stacks
from orthoptax.matrix.gains import gain_of
from orthoptax.sharding import count

Kernel = Callable[[jax.Array], jax.Array]
CLASSIC = "five stages, plainly"
AUTO = "auto"
CLOSER = ("auto, 0.01", "auto, 0.0001")  # singular values end so near 1
CANS = matrix.cans(3, first=1)
POLAR_EXPRESS_5 = matrix.POLAR_EXPRESS_101[:5]  # the authors' own five


class Entry(NamedTuple):
    """A line of the table.

    make: the kernel, by the dtype of its input and products; it takes one matrix or a
    batch. by: whose it is. factors: by a factorization, which takes long and no inputs
    of 16 bits. taken: FLOPs for such matrices of another shape, where they depend on
    more than that.
    """

    make: Callable[[Any], Kernel]
    by: str
    factors: bool = False
    taken: Callable[[jax.Array, tuple[int, ...]], float] | None = None


def plain(schedule: Any) -> Kernel:
    """The textbook's Newton-Schulz iteration."""

    def polar(x: jax.Array) -> jax.Array:
        x = x / (jnp.linalg.norm(x) + 1e-8).astype(x.dtype)
        for a, b, c in schedule:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x

    return lambda x: jax.vmap(polar)(x) if x.ndim > 2 else polar(x)


def ours(make: Callable[..., Any], *args: Any, **options: Any) -> Entry:
    """A kernel of this library, on batches as `on_matrices` runs it."""
    kernel = lambda dtype: make(*args, compute_dtype=dtype, **options)
    return Entry(lambda dtype: in_stacks(kernel(dtype)), "ours")


def published(make: Callable[..., Any], *args: Any, **options: Any) -> Entry:
    """A published iteration by a kernel of this library."""
    return ours(make, *args, **options)._replace(by="published")


def exact(kernel: Kernel) -> Entry:
    return Entry(lambda _: in_stacks(kernel), "exact", factors=True)


def in_stacks(kernel: Kernel) -> Kernel:
    return lambda x: map_stacks(kernel, x) if x.ndim > 2 else kernel(x)


def of_optax(schedule: Any, preconditioning: Any) -> Entry:
    """What optax's Muon makes of a momentum that remembers nothing."""
    last_two = optax.contrib.MuonDimensionNumbers(-2, -1)
    tx = optax.contrib.scale_by_muon(
        schedule,
        beta=0.0,
        nesterov=False,
        preconditioning=preconditioning,
        weight_dimension_numbers=last_two,
    )
    kernel = lambda x: tx.update(x, tx.init(x))[0]
    return Entry(lambda _: kernel, "optax", factors=preconditioning == "spectral")


def by_gain_takes(x: jax.Array, shape: tuple[int, ...]) -> float:
    """FLOPs of the schedules that `by_gain` takes for matrices of such gains."""
    table = matrix.BY_GAIN if x.dtype == jnp.float32 else matrix.BY_GAIN_16_BITS
    gains = gain_of(x.reshape(-1, *x.shape[-2:])).tolist()
    taken = [max(g for g in table if g <= max(gain, 1)) for gain in gains]
    return sum(flops_of(table[g], shape[-2:], x.dtype.name) for g in taken)


@functools.cache
def flops_of(schedule: Any, shape: tuple[int, ...], dtype: str) -> float:
    """FLOPs of `by_gain` with this schedule alone, for one matrix."""
    kernel = matrix.by_gain({1.0: schedule}, compute_dtype=dtype)
    x = jax.ShapeDtypeStruct(shape, dtype)
    return count(jax.jit(lambda x: kernel(x)).lower(x).compile()).flops


STANDARD, DION = matrix.JORDAN[0], matrix.QUINTIC  # optax's two presets
_schedule = functools.partial(published, matrix.newton_schulz)
_long_norm = lambda factor: matrix.frobenius(factor=factor)

ENTRIES = {
    AUTO: ours(matrix.auto),
    CLOSER[0]: ours(matrix.auto, 1e-2),
    CLOSER[1]: ours(matrix.auto, 1e-4),
    "by_gain": ours(matrix.by_gain)._replace(taken=by_gain_takes),
    "classic": ours(matrix.newton_schulz),
    "classic, Gram form": ours(matrix.gram_newton_schulz, matrix.JORDAN),
    CLASSIC: Entry(lambda _: plain(matrix.JORDAN), "published"),
    "optax": of_optax(STANDARD, "frobenius"),
    "optax spectral": of_optax(STANDARD, "spectral"),
    "optax aol": of_optax(STANDARD, "aol"),
    "optax schatten": of_optax(STANDARD, "schatten"),
    "optax dion": of_optax(DION, "frobenius"),
    "optax dion, spectral": of_optax(DION, "spectral"),
    "optax dion, aol": of_optax(DION, "aol"),
    "optax dion's last 4, aol": of_optax(DION[1:], "aol"),
    "optax dion, schatten": of_optax(DION, "schatten"),
    "optax dion's last 4, schatten": of_optax(DION[1:], "schatten"),
    "Turbo-Muon, 4": _schedule(matrix.TURBO, scale=matrix.aol()),
    "Turbo-Muon, 3": _schedule(matrix.TURBO[1:], scale=matrix.aol()),
    "GEN4, aol": _schedule(matrix.GEN4, scale=matrix.aol()),
    "Polar Express, 5": _schedule(POLAR_EXPRESS_5, scale=_long_norm(1.01)),
    "Polar Express 1.02, 5": _schedule(
        matrix.POLAR_EXPRESS_102, scale=_long_norm(1.02)
    ),
    "Polar Express, 8": _schedule(matrix.POLAR_EXPRESS_101, scale=_long_norm(1.01)),
    "Gram Newton-Schulz": published(
        matrix.gram_newton_schulz, matrix.POLAR_EXPRESS_105
    ),
    "CANS, 1 + 3": _schedule(CANS, scale=matrix.gelfand()),
    "CANS, Emerging": _schedule(matrix.NEMO_CANS),
    "CUBIC5": _schedule(matrix.CUBIC5),
    "DeepSeek V4, 10": _schedule(matrix.DEEPSEEK_V4),
    "degree 17, 3": published(matrix.degree_17),
    "QDWH": exact(matrix.qdwh()),
    "eigh": exact(matrix.eigh()),
    "svd": exact(matrix.svd()),
}
"""Beside each other. optax's ways by its public API, with its own preset schedules."""
