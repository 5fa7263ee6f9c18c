# SPDX-License-Identifier: Apache-2.0
"""Error, time and cost of the polar kernels, by shape.

Newton-Schulz against the same iteration written plainly (unrolled, divided by the
Frobenius norm plus an epsilon), with the same coefficients, dtype and precision; what
may stand for the classic five stages, against those; the exact kernel against JAX's
default singular value decomposition (on CPU ours takes QR iteration, slower but
accurate for graded matrices). The error is the distance from the polar factor in
float64 over its own norm; singular values run evenly in logarithm from 1 to
1/condition. Operations are those of products, counted in the compiled program.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from _report import Options, Record, clock, doing, main, record, side_by_side

from orthoptax import matrix
from orthoptax.sharding import count

SHAPES = ((768, 768), (768, 2304), (768, 3072), (1024, 4096))
QUICK_SHAPES = ((128, 128), (128, 512), (256, 256), (256, 1024))
SCHEDULES = {
    name: getattr(matrix, name) for name in ("JORDAN", "QUINTIC", "POLAR_EXPRESS_8")
}
INSTEAD = {
    "Gram form of JORDAN": functools.partial(matrix.gram_newton_schulz, matrix.JORDAN),
    "auto": matrix.auto,
    "by_gain": matrix.by_gain,
}
"""Beside the classic stages: what may stand for them."""


@dataclasses.dataclass
class Polar(Options):
    shapes: tuple[tuple[int, int], ...] | None = None
    """Rows and columns in turn, rows no more than columns (8 16 16 16 are two shapes);
    None: those of GPT-2 small and medium, with --quick smaller ones."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of input and products. The exact kernel is left out for bfloat16."""
    condition: float = 1e3
    """Largest over smallest singular value."""
    repeats: int | None = None
    """Calls timed of each kernel, in turn; None: 10, with --quick 25."""


def plain(schedule: Any) -> Callable[[jax.Array], jax.Array]:
    """The textbook's Newton-Schulz iteration, for a single matrix."""

    def polar(x: jax.Array) -> jax.Array:
        x = x / (jnp.linalg.norm(x) + 1e-8).astype(x.dtype)
        for a, b, c in schedule:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x

    return polar


def plain_svd(x: jax.Array) -> jax.Array:
    u, _, vh = jnp.linalg.svd(x, full_matrices=False)
    return u @ vh


def matrix_and_factor(m: int, n: int, condition: float) -> tuple[np.ndarray, Any]:
    """A float64 matrix of known singular values, and its polar factor."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.standard_normal((m, m)))
    v, _ = np.linalg.qr(rng.standard_normal((n, m)))
    return u * np.geomspace(1, 1 / condition, m) @ v.T, u @ v.T


def run(options: Polar) -> list[Record]:
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    if wrong := [f"{m}x{n}" for m, n in shapes if not 0 < m <= n]:
        sys.exit(
            f"polar: shape {', '.join(wrong)} is taller than wide or empty. Expected "
            "rows and columns in turn, rows no more than columns. Swap the two"
        )
    repeats = options.repeats or (25 if options.quick else 10)
    kernels = {
        name: (
            matrix.newton_schulz(schedule, compute_dtype=options.dtype),
            plain(schedule),
        )
        for name, schedule in SCHEDULES.items()
    }
    for name, make in INSTEAD.items():
        kernels[name] = make(compute_dtype=options.dtype), plain(matrix.JORDAN)
    if options.dtype == "float32":
        kernels["svd"] = matrix.svd(), plain_svd
    records = []
    for m, n in shapes:
        exact, factor = matrix_and_factor(m, n, options.condition)
        x = jnp.asarray(exact, options.dtype)
        for name, pair in kernels.items():
            case = f"{name}, {m}x{n} {options.dtype}"
            with doing(case), jax.default_matmul_precision("highest"):
                figures = side_by_side_figures(pair, x, factor, repeats)
            for (what, unit), both in figures.items():
                records.append(record("polar", f"{case}: {what}", *both, unit))
    return records


def side_by_side_figures(
    pair: Any, x: jax.Array, factor: np.ndarray, repeats: int
) -> dict[tuple[str, str], list[float]]:
    """{(what, unit): (ours, the reference's)}."""
    built = [clock(lambda p=p: jax.jit(p).lower(x).compile()) for p in pair]
    compiled = [program for program, _ in built]
    calls = [functools.partial(program, x) for program in compiled]
    clocks = side_by_side(repeats, *calls)
    found = [np.asarray(call(), np.float64) for call in calls]
    values = [np.linalg.svd(o, compute_uv=False) for o in found]
    counts = [count(program) for program in compiled]
    size = np.linalg.norm(factor)
    return {
        ("error", "relative"): [np.linalg.norm(o - factor) / size for o in found],
        ("cosine", "of 1"): [
            np.sum(o * factor) / size / np.linalg.norm(o) for o in found
        ],
        ("largest singular value", "of 1"): [v[0] for v in values],
        ("mean singular value", "of 1"): [v.mean() for v in values],
        ("smallest singular value", "of 1"): [v[-1] for v in values],
        ("products", "GFLOP"): [c.flops / 1e9 for c in counts],
        ("temporaries", "MB"): [(c.temp_bytes or 0) / 1e6 for c in counts],
        ("compile, CPU", "s"): [spent.cpu for _, spent in built],
        ("wall", "ms"): [1e3 * c.wall for c in clocks],
        ("CPU", "ms"): [1e3 * c.cpu for c in clocks],
    }  # fmt: skip


if __name__ == "__main__":
    main(run, Polar)
