# SPDX-License-Identifier: Apache-2.0
"""What `auto` and `by_gain` cost and reach on the momentum of training runs.

Each matrix is weighed against five classic stages in plain products: operations by
formula (`orthoptax.matrix.cost`), cosine to the polar factor and relative distance from
it in float64. Nothing was chosen on these matrices; see `_momentum.py`.
"""

import collections
import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from _momentum import TASKS, recordings
from _report import Options, Record, doing, main, record

from orthoptax import matrix
from orthoptax.matrix.chosen import BY_GAIN_16_BITS
from orthoptax.matrix.symmetric import multiplications

LEVELS = 2


@dataclasses.dataclass
class Gains(Options):
    tasks: tuple[str, ...] = tuple(TASKS)
    """Whose momentum: bytes (the model of `compare`, width 64), wide (width 256),
    digits (a perceptron)."""
    steps: tuple[int, ...] | None = None
    """After how many steps, ascending; None: 100, 150, 200 and 250, with --quick 30."""
    seeds: int = 1
    """How many runs of each task."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the products."""


def taken(gain: float, table: Any, m: int, n: int, price: float, dtype: str) -> Any:
    """(degrees, FLOPs) of what `by_gain` takes: the cheaper form of the schedule."""
    schedule = table[max(g for g in table if g <= gain)]
    starts = matrix.quiet_restarts(schedule, long=float(jnp.finfo(dtype).eps) / 2)
    wide = {"gram": True, "restarts": starts}
    flops = min(matrix.cost(schedule, m, n, price=price, **k) for k in (wide, {}))
    return tuple(2 * len(stage) - 1 for stage in schedule), flops


def measured(polar: Any, x: np.ndarray) -> tuple[float, float]:
    """(relative distance from the polar factor, cosine to it)."""
    u, s, vh = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    exact = u * (s > 1e-12 * s[0]) @ vh
    o, size = np.asarray(polar(x), np.float64), np.linalg.norm(exact)
    distance = np.linalg.norm(o - exact) / size
    return distance, np.sum(o * exact) / size / np.linalg.norm(o)


def weighed(x: np.ndarray, kernels: dict[str, Any], dtype: str) -> dict[str, Any]:
    """All figures of a matrix; operations are over those of the classic stages."""
    m, n = x.shape
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    gain = float(np.linalg.norm(s) / np.sum(s**8) ** 0.125)
    table = matrix.BY_GAIN if dtype == "float32" else BY_GAIN_16_BITS
    halved, classic = (
        multiplications(m, 1, LEVELS) / m**2,
        matrix.cost(matrix.JORDAN, m, n),
    )
    degrees, flops = taken(gain, table, m, n, halved, dtype)
    chosen = matrix.explain(m, n, compute_dtype=dtype, hardware=hardware(m)).chosen
    found = {
        "gain": gain,
        "schedule": "-".join(map(str, degrees)),
        "by_gain, operations": flops / classic,
        "by_gain, operations by half": taken(gain, table, m, n, 0.5, dtype)[1]
        / classic,
        "auto, operations": chosen.flops / classic,
    }
    for name, polar in kernels.items():
        error, cosine = measured(polar, x)
        found |= {f"{name}, error": error, f"{name}, cosine": cosine}
    return found


def hardware(m: int) -> matrix.Hardware:
    """On which `auto` halves products of m rows `LEVELS` times."""
    return matrix.Hardware(halve=m // 2)


def run(options: Gains) -> list[Record]:
    steps = options.steps or ((30,) if options.quick else (100, 150, 200, 250))
    tasks = options.tasks[:1] if options.quick else options.tasks
    dtype = options.dtype
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = collections.defaultdict(
        list
    )
    made: dict[int, dict[str, Any]] = {}
    for task, seed in itertools.product(tasks, range(options.seeds)):
        with doing(f"{task}, seed {seed}"):
            every = recordings(task, tuple(steps), seed)
            for x in itertools.chain(*(r.values() for r in every.values())):
                m, n = x.shape
                if m not in made:
                    made[m] = kernels(m, dtype)
                found[task, m, n].append(weighed(x, made[m], dtype))
    records = []
    for (task, m, n), rows in found.items():
        records += of_shape(f"{task} {m}x{n} {dtype}, {len(rows)} matrices", rows)
    for ratio in sorted({n // m for _, m, n in found}):
        rows = [r for (_, m, n), of in found.items() if n // m == ratio for r in of]
        case = f"all {ratio}:1 {dtype}, {len(rows)} matrices"
        records += operations(case, rows)
    return records


def kernels(m: int, dtype: str) -> dict[str, Any]:
    made = {
        "classic": matrix.newton_schulz(compute_dtype=dtype),
        "auto": matrix.auto(compute_dtype=dtype, hardware=hardware(m)),
        "by_gain": matrix.by_gain(
            compute_dtype=dtype, products=matrix.block_products(LEVELS)
        ),
    }
    return {name: jax.jit(polar) for name, polar in made.items()}


def operations(case: str, rows: list[dict[str, Any]]) -> list[Record]:
    """Means over matrices, of the classic stages' operations."""
    names = "auto, operations", "by_gain, operations", "by_gain, operations by half"
    means = {name: np.mean([r[name] for r in rows]) for name in names}
    return [
        record("gains", f"{case}: {k}", v, 1, "of classic") for k, v in means.items()
    ]


def of_shape(case: str, rows: list[dict[str, Any]]) -> list[Record]:
    """Gain, schedules taken, operations, and the worst of error and cosine."""
    gains = [r["gain"] for r in rows]
    out = [
        record("gains", f"{case}: {name} gain", value, 1, "of Frobenius")
        for name, value in (("least", min(gains)), ("mean", np.mean(gains)))
    ]
    for degrees, times in collections.Counter(r["schedule"] for r in rows).items():
        what = f"{case}: by_gain takes {degrees}"
        out.append(record("gains", what, times, len(rows), "matrices"))
    out += operations(case, rows)
    for name in ("auto", "by_gain"):
        for what, worst in (("error", max), ("cosine", min)):
            ours, classic = (
                worst(r[f"{kernel}, {what}"] for r in rows)
                for kernel in (name, "classic")
            )
            out.append(
                record("gains", f"{case}: {name}, {what}", ours, classic, "worst")
            )
    return out


if __name__ == "__main__":
    main(run, Gains)
