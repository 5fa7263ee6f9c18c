# SPDX-License-Identifier: Apache-2.0
"""What `matrix.auto` and `map_stacks` weigh, timed on the platform that this runs on.

Five questions, each as a ratio of two medians of calls made in turn, of the clock on
the wall and of the time on all cores:

- the price of an eigendecomposition of an (m, m) matrix, in products of that size, and
  the same of its slowest call: its threads may wait for each other;
- `auto` with that eigendecomposition over `auto` without;
- the price of a product with a Hermitian result that is halved once and twice;
- `auto` whose products are halved once and twice over `auto` with plain products, the
  program that is really run, from which the least m follows;
- a stack by `map_stacks` over one batch, and, if it is of few, over as many calls.

Prices on a machine that is shared are what counts: `--load 2` adds two processes that
do nothing but compute. The load that others make is in the title.
"""

import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from _report import Options, Record, console, doing, main, record, rounds

from orthoptax.layout import map_stacks
from orthoptax.matrix import Hardware, auto, block_products, eigh

SIZES = (128, 256, 512, 768, 1024)
QUICK_SIZES = (128, 256)
STACKS = tuple(
    (batch, *shape)
    for shape in ((64, 256), (128, 128), (256, 1024), (768, 768))
    for batch in (4, 32)
)
QUICK_STACKS = ((4, 64, 256), (16, 64, 256))
NEVER = 10**9
FEW = 4  # matrices for which calls are written out
Part = Literal["eigen", "halved", "stacks"]


@dataclasses.dataclass
class Measured(Options):
    sizes: tuple[int, ...] | None = None
    """Short sides of the matrices; None: 128 to 1024, with --quick 128 and 256."""
    wide: int = 4
    """`auto` is timed on square matrices and on those this many times as wide."""
    stacks: tuple[tuple[int, int, int], ...] | None = None
    """Matrices, rows and columns in turn; None: 4 to 32 of four shapes."""
    parts: tuple[Part, ...] = get_args(Part)
    """Eigendecompositions, halved products, stacks, or some of them."""
    load: int = 0
    """Processes that do nothing but compute, beside this one."""
    repeats: int = 9
    """Calls timed of each program."""


@contextlib.contextmanager
def spinning(processes: int) -> Iterator[None]:
    """Others that keep as many cores busy, no longer than this process lives."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    words = [sys.executable, "-c", code]
    others = [subprocess.Popen(words) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def clocks(
    repeats: int, *pairs: tuple[Callable[..., Any], Any]
) -> list[dict[str, np.ndarray]]:
    """{"wall" or "CPU": milliseconds of every call} of each compiled program."""
    built = [(jax.jit(fn).lower(x).compile(), x) for fn, x in pairs]
    calls = [functools.partial(program, x) for program, x in built]
    found = [np.asarray(seen) for seen in rounds(repeats, *calls)]
    return [{"wall": 1e3 * f[:, 0], "CPU": 1e3 * f[:, 1]} for f in found]


Figure = tuple[str, float, float, str]


def medians(case: str, ours: Any, reference: Any) -> Iterator[Figure]:
    for name, times in ours.items():
        both = float(np.median(times)), float(np.median(reference[name]))
        yield f"{case}: {name}", *both, "ms"


def normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal(shape, np.float32))


def product(a: jax.Array) -> jax.Array:
    return jnp.matmul(a, a, precision="highest")


def gram(x: jax.Array) -> jax.Array:
    return jnp.matmul(x, x.T, precision="highest")


def eigen(m: int, wide: int, repeats: int) -> Iterator[Figure]:
    a = gram(normal(m, 2 * m))
    own, plain = clocks(repeats, (jnp.linalg.eigh, a), (product, a))
    case = f"eigendecomposition over product, {m}"
    yield from medians(case, own, plain)
    yield f"{case}: slowest wall", own["wall"].max(), plain["wall"].max(), "ms"
    for n in dict.fromkeys((m, wide * m)):
        x = normal(m, n)
        case = f"eigh over auto, {m}x{n}"
        yield from medians(case, *clocks(repeats, (eigh(), x), (auto(), x)))


def halved(m: int, wide: int, repeats: int) -> Iterator[Figure]:
    x = normal(m, m)
    once, twice = (
        functools.partial(block_products(levels).gram, precision="highest")
        for levels in (1, 2)
    )
    plain, *others = clocks(repeats, (gram, x), (once, x), (twice, x))
    for own, often in zip(others, ("once", "twice"), strict=True):
        yield from medians(f"product halved {often}, {m}", own, plain)
    least = NEVER, m, max(m // 2, 1)
    kernels = [auto(hardware=Hardware(halve=k)) for k in least]
    for n in dict.fromkeys((m, wide * m)):
        x = normal(m, n)
        plain, *others = clocks(repeats, *((kernel, x) for kernel in kernels))
        for own, often in zip(others, ("once", "twice"), strict=True):
            yield from medians(f"auto halved {often}, {m}x{n}", own, plain)


def stacked(batch: int, m: int, n: int, repeats: int) -> Iterator[Figure]:
    x, fn = normal(batch, m, n), auto()
    ours = functools.partial(map_stacks, fn)
    out = lambda x: jnp.stack([fn(x[i]) for i in range(batch)])
    pairs = (ours, x), (fn, x), (out, x)
    own, whole, *few = clocks(repeats, *pairs[: 3 if batch <= FEW else 2])
    case = f"{batch} of {m}x{n}"
    yield from medians(f"map_stacks over one batch, {case}", own, whole)
    for written in few:
        yield from medians(f"map_stacks over calls written out, {case}", own, written)


def run(options: Measured) -> list[Record]:
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    stacks = options.stacks or (QUICK_STACKS if options.quick else STACKS)
    work = {
        "eigen": [functools.partial(eigen, m, options.wide) for m in sizes],
        "halved": [functools.partial(halved, m, options.wide) for m in sizes],
        "stacks": [functools.partial(stacked, *stack) for stack in stacks],
    }
    records = []
    with spinning(options.load):
        for part in options.parts:
            for task in work[part]:
                with doing(f"{part}, {'x'.join(map(str, task.args))}"):
                    for case, *figures in task(options.repeats):
                        records.append(record("hardware", case, *figures))
                        console.print(f"{case}: {records[-1].ratio:.3f}")
    return records


if __name__ == "__main__":
    main(run, Measured)
