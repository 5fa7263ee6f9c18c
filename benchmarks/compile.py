# SPDX-License-Identifier: Apache-2.0
"""Compile time and program size of muon, ours against optax.contrib's.

Every matrix of every layer is a leaf of its own, as in a model whose layers are not
scanned: 96 layers of six are 576 leaves. Beside them a tree of four leaves, one layer
of GPT-2 small. With --topology the matrices of GPT-2 small, 85M numbers, for one TPU
that is not there. Lowering (tracing, to StableHLO) and compiling (XLA) are timed apart.
Instructions are counted in the text of the lowered program (StableHLO) and of the
optimized one (HLO), a loop's body once.
"""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from _muons import CLASSIC, OPTAX, OPTIMIZERS, OURS
from _report import (
    Clock,
    Grid,
    Options,
    Record,
    Report,
    around,
    clock,
    doing,
    gpt2_layers,
    made_with,
    main,
    median,
    record,
    rewrite,
    small_layers,
)
from _target import Target, target
from jax.sharding import SingleDeviceSharding

COUNTED = {
    "StableHLO dots": r"stablehlo\.dot_general\b",
    "StableHLO loops": r"stablehlo\.while\b",
    "HLO dots": r"\bdot\(",
    "HLO loops": r"\bwhile\(",
}


COLUMNS = {
    ("lower, CPU", "s"): "lower, CPU s",
    ("compile, CPU", "s"): "compile, CPU s",
    ("sum, CPU", "s"): "sum, CPU s",
    ("sum, wall", "s"): "sum, wall s",
    ("StableHLO text", "MB"): "StableHLO MB",
    ("HLO text", "MB"): "HLO MB",
}
"""Of the table: which figures, and their headings."""

Figures = dict[tuple[str, str], float]
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass
class Compile(Options):
    layers: int | None = None
    """Layers of six matrices each; None: 96, with --quick 12."""
    width: int = 64
    """Four matrices are width x width, one width x 4 width, one 4 width x width."""
    large: int | None = None
    """Width of the tree of four leaves; None: 768, with --quick 64."""
    repeats: int = 3
    """Programs compiled of each optimizer, in turn; the median counts."""
    optimizers: tuple[str, ...] = (
        OURS,
        CLASSIC,
        OPTAX,
        f"{OPTAX}, dion",
        "optax.adamw",
    )
    """Which optimizers, see _muons.py; muon and optax.contrib.muon always."""
    topology: str | None = None
    """Compile for one of these TPUs, such as v5e:2x4; None: for this machine."""
    precision: Literal["highest", "default"] = "highest"
    """Of all products: on TPUs six passes in bfloat16, or one. CPUs have one."""
    readme: pathlib.Path | None = None
    """Rewrite the table in this file, between its two marks."""


class Program:
    """The update of one optimizer, compiled afresh by every call of `build`."""

    def __init__(self, tx: optax.GradientTransformation, shapes: Shapes, to: Target):
        one = SingleDeviceSharding(to.devices[0])
        put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)
        like = lambda shape: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
        tree = jax.tree.map(put, {name: like(s) for name, s in shapes.items()})
        state = jax.tree.map(put, jax.eval_shape(tx.init, tree))
        self.tx, self.to, self.args = tx, to, (tree, state, tree)
        self.lowering: list[Clock] = []
        self.compiling: list[Clock] = []

    def build(self) -> None:
        update = lambda *args: self.tx.update(*args)
        with jax.default_matmul_precision(self.to.precision):
            lowered, spent = clock(lambda: jax.jit(update).lower(*self.args))
        self.lowering.append(spent)
        compiled, spent = clock(lambda: lowered.compile(self.to.options))
        self.compiling.append(spent)
        self.text = {"StableHLO": lowered.as_text(), "HLO": compiled.as_text()}

    def figures(self) -> Figures:
        """{(what, unit): figure}."""
        found: Figures = {}
        lower, build = median(self.lowering), median(self.compiling)
        both = Clock(*(x + y for x, y in zip(lower, build, strict=True)))
        for what, spent in ("lower", lower), ("compile", build), ("sum", both):
            found[f"{what}, wall", "s"] = spent.wall
            found[f"{what}, CPU", "s"] = spent.cpu
        for what, text in self.text.items():
            found[f"{what} text", "MB"] = len(text) / 1e6
        for what, pattern in COUNTED.items():
            text = self.text[what.split()[0]]
            found[what, "instructions"] = len(re.findall(pattern, text))
        return found


def trees(options: Compile) -> dict[str, Shapes]:
    """{how a tree is called: the shapes of its leaves}."""
    layers = options.layers or (12 if options.quick else 96)
    large = options.large or (64 if options.quick else 768)
    if options.topology is not None:
        layers = options.layers or (1 if options.quick else 12)
        return {f"{layers}x4 of {large}": gpt2_layers(layers, large)}
    return {
        f"{layers}x6 of {options.width}": small_layers(layers, options.width),
        f"1x4 of {large}": gpt2_layers(1, large),
    }


def chosen(options: Compile) -> dict[str, optax.GradientTransformation]:
    if unknown := [name for name in options.optimizers if name not in OPTIMIZERS]:
        known = "; ".join(OPTIMIZERS)
        sys.exit(f"--optimizers: no {unknown[0]!r}. Expected some of {known}")
    asked = {OURS, OPTAX, *options.optimizers}
    made = {k: make for k, make in OPTIMIZERS.items() if k in asked}
    return {k: make("float32", options.precision) for k, make in made.items()}


def measure(
    options: Compile, tree: str, shapes: Shapes, to: Target
) -> dict[str, Figures]:
    """{optimizer: its figures}."""
    programs = {k: Program(tx, shapes, to) for k, tx in chosen(options).items()}
    for i in range(options.repeats):
        for name, program in programs.items():
            with doing(f"{tree}: {name}, {i + 1} of {options.repeats}"):
                program.build()
    return {name: program.figures() for name, program in programs.items()}


def grid(tree: str, found: dict[str, Figures], where: str) -> Grid:
    """A line for each optimizer; the sum also over that of optax's."""
    rows = []
    reference = found[OPTAX]["sum, CPU", "s"]
    for name, figures in found.items():
        cells = [f"{figures[key]:,.4g}" for key in COLUMNS]
        rows.append([name, *cells, f"{figures['sum, CPU', 's'] / reference:.3f}"])
    head = ["optimizer", *COLUMNS.values(), "sum over optax's"]
    return Grid(f"{tree}, {where}", head, rows)


def run(options: Compile) -> Report:
    mark = "compile" if options.topology is None else "compile tpu"
    if options.readme is not None:
        around(options.readme, mark)  # says now what is missing
    to = target(options.topology, options.precision)
    if options.topology is None:
        to = to._replace(options={})
    for tx in chosen(options).values():  # what only a process's first one costs
        Program(tx, {"dense": (8, 8)}, to).build()
    where = options.topology or jax.default_backend()
    records: list[Record] = []
    grids = []
    for tree, shapes in trees(options).items():
        found = measure(options, tree, shapes, to)
        grids.append(grid(tree, found, where))
        records += [
            record(
                "compile",
                f"{OURS}, {tree} against {name}: {what}",
                found[OURS][what, unit],
                figure,
                unit,
            )
            for name, reference in found.items()
            if name != OURS
            for (what, unit), figure in reference.items()
        ]
    if options.readme is not None:
        tables = "\n".join(g.markdown() for g in grids)
        rewrite(options.readme, mark, f"{tables}\n{made_with()}")
    return Report(records, grids)


if __name__ == "__main__":
    main(run, Compile)
