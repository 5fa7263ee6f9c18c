# SPDX-License-Identifier: Apache-2.0
"""Pallas kernels of symmetric products beside XLA's products, compiled for TPUs.

No TPU is needed and none is used: nothing here was timed. Operations are counted by
formula. Where libtpu is installed (`make test-tpu` sets up `.venv-tpu`), both forms are
compiled for v5e and v5p, and the compiler says what its own products take, in cycles.
Of a kernel it says how many bundles of instructions it scheduled; the figure here is a
bound made of them: each step of the grid takes the whole body's bundles, and not less
than its products on all matrix units or its traffic at full bandwidth.
"""

import dataclasses
import importlib.util
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

DUMP = tempfile.TemporaryDirectory(prefix="schedules-")
# libtpu reads these when it is loaded; the first ones as in tests/tpu/conftest.py.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={DUMP.name} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=.*final.bundles.*",
}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from _report import Options, Record, console, doing, main, record  # noqa: E402
from jax import lax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from orthoptax.matrix.pallas import Blocks, blocks, pallas_products  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_compilation_cache", False)

PASSES = {"float32": 6, "bfloat16": 1}
WEIGHTS = (2.0315, -4.775, 3.4445)


class Chip(NamedTuple):
    """FLOPs and bytes from memory of one core in a cycle, by the data sheets."""

    topology: str
    cores: int
    flops: float
    memory: float


CHIPS = {  # matrix units of 128 x 128, four a core
    "v5e": Chip("v5e:2x2", 1, 4 * 2 * 128**2, 819e9 / 1.5e9),
    "v5p": Chip("v5p:2x2x1", 2, 4 * 2 * 128**2, 2765e9 / 1.75e9 / 2),
}


class Case(NamedTuple):
    """One product of a stack of matrices; `gram`: of (m, 4 m), else a whole stage."""

    batch: int
    m: int
    dtype: str
    gram: bool

    def __str__(self) -> str:
        k = 4 * self.m if self.gram else self.m
        what = "gram" if self.gram else "c0 I + c1 A + c2 A A"
        return f"{what}, {self.batch} of {self.m}x{k} {self.dtype}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.batch, self.m, self.m * (4 if self.gram else 1)

    @property
    def cut(self) -> Blocks:
        return blocks(*self.shape[1:], self.dtype)


@dataclasses.dataclass
class Kernels(Options):
    stacks: tuple[tuple[int, int], ...] | None = None
    """(matrices, short side) pairs; None: 12 of 256, 12 of 768, 2 of 2048, 1 of 8192,
    with --quick the first two."""
    chips: tuple[str, ...] = ("v5e", "v5p")
    """Which chips to compile for."""


def ours(case: Case) -> Callable[[jax.Array], jax.Array]:
    products = pallas_products(compute_dtype=case.dtype, dtype=case.dtype)
    if case.gram:
        return products.gram
    return lambda a: products.combined(a, a, a, WEIGHTS)


def plain(case: Case) -> Callable[[jax.Array], jax.Array]:
    """The same in jax.numpy, summed in float32 too."""

    def product(a: jax.Array) -> jax.Array:
        total = jnp.matmul(
            a,
            a.mT,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        if case.gram:
            return total.astype(a.dtype)
        total = WEIGHTS[0] * total + WEIGHTS[1] * a.astype(jnp.float32)
        return (total + WEIGHTS[2] * jnp.eye(case.m)).astype(a.dtype)

    return product


def compiled(fn: Callable[..., Any], case: Case, chip: Chip) -> Any:
    """The program for one chip; what the compiler wrote before is removed."""
    for file in pathlib.Path(DUMP.name).iterdir():
        file.unlink()
    device = topologies.get_topology_desc(chip.topology, "tpu").devices[0]
    one = NamedSharding(Mesh([device], ("one",)), PartitionSpec())
    x = jax.ShapeDtypeStruct(case.shape, case.dtype, sharding=one)
    return jax.jit(fn).lower(x).compile()


def bundles() -> int:
    """Bundles scheduled for the kernel that was compiled last, its body once."""
    pattern = "*symmetric_product*schedule-analysis_final_bundles.txt"
    (file,) = pathlib.Path(DUMP.name).glob(pattern)
    found = re.search(r"total scheduled bundles:\s*(\d+)", file.read_text())
    assert found is not None
    return int(found[1])


def at_most(case: Case, chip: Chip, moved: float) -> float:
    """A bound on the cycles of the kernel that was compiled last."""
    cut = case.cut
    tiles = 1 if cut.whole else cut.cells
    steps = case.batch * tiles * cut.steps
    multiply = PASSES[case.dtype] * case.batch * cut.flops / steps / chip.flops
    fetch = moved / steps / chip.memory
    apart = case.batch * tiles  # what a second core can take its half of
    alone = math.ceil(apart / chip.cores) / apart
    return alone * steps * max(bundles(), multiply, fetch)


def estimated(program: Any) -> float:
    """Cycles by the compiler's own model, of all of its fusions."""
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', program.as_text())))


def compared(case: Case, name: str) -> list[Record]:
    chip = CHIPS[name]
    with doing(f"{name}: {case}"):
        theirs = compiled(plain(case), case, chip)
        kernel = compiled(ours(case), case, chip)
        moved = kernel.cost_analysis()["bytes accessed"]
        cycles = at_most(case, chip, moved)
    batch, m, k = case.shape
    least = batch * m * (m + k) * jnp.dtype(case.dtype).itemsize
    line = lambda what, *pair, unit: record(
        "kernels", f"{name}: {case}: {what}", *pair, unit
    )
    return [
        line("moved, least of any form", moved, least, unit="bytes"),
        line("at most, estimate of XLA's", cycles, estimated(theirs), unit="cycles"),
    ]


def run(options: Kernels) -> list[Record]:
    stacks = options.stacks or ((12, 256), (12, 768), (2, 2048), (1, 8192))
    stacks = stacks[:2] if options.quick and not options.stacks else stacks
    cases = [
        Case(batch, m, dtype, gram)
        for gram in (False, True)
        for batch, m in stacks
        for dtype in ("float32", "bfloat16")
    ]
    records = []
    for case in cases:
        _, m, k = case.shape
        counts = case.cut.flops * case.batch, 2 * case.batch * m * m * k
        records.append(record("kernels", f"{case}: operations", *counts, "FLOPs"))
    if importlib.util.find_spec("libtpu") is None:
        console.print(
            "libtpu is not installed: no compiler to ask, so operations alone. "
            "`make test-tpu` sets up .venv-tpu; run this with .venv-tpu/bin/python"
        )
        return records
    return records + [
        r for chip in options.chips for c in cases for r in compared(c, chip)
    ]


if __name__ == "__main__":
    main(run, Kernels)
