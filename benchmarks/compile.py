# SPDX-License-Identifier: Apache-2.0
"""Compile time and program size of muon, ours against optax.contrib's.

Every matrix of every layer is a leaf of its own, as in a model whose layers are not
scanned: 96 layers are 576 leaves. Lowering (tracing, to StableHLO) and compiling (XLA)
are timed apart. Instructions are counted in the text of the lowered program (StableHLO)
and of the optimized one (HLO), a loop's body once.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from _report import (
    Clock,
    Options,
    Record,
    clock,
    doing,
    main,
    median,
    normal_tree,
    record,
    small_layers,
)

from orthoptax.optimizers.muon import muon

COUNTED = {
    "StableHLO dots": r"stablehlo\.dot_general\b",
    "StableHLO loops": r"stablehlo\.while\b",
    "HLO dots": r"\bdot\(",
    "HLO loops": r"\bwhile\(",
}


@dataclasses.dataclass
class Compile(Options):
    layers: int | None = None
    """Layers of six matrices each; None: 96, with --quick 24."""
    width: int = 64
    """Four matrices are width x width, one width x 4 width, one 4 width x width."""
    repeats: int = 3
    """Programs compiled of each optimizer, in turn; the median counts."""


class Program:
    """The update of one optimizer, compiled afresh by every call of `build`."""

    def __init__(self, tx: optax.GradientTransformation, tree: Any):
        self.tx, self.args = tx, (tree, jax.eval_shape(tx.init, tree), tree)
        self.lowering: list[Clock] = []
        self.compiling: list[Clock] = []

    def build(self) -> None:
        update = lambda *args: self.tx.update(*args)
        lowered, spent = clock(lambda: jax.jit(update).lower(*self.args))
        self.lowering.append(spent)
        compiled, spent = clock(lowered.compile)
        self.compiling.append(spent)
        self.text = {"StableHLO": lowered.as_text(), "HLO": compiled.as_text()}

    def figures(self) -> dict[tuple[str, str], float]:
        """{(what, unit): figure}."""
        found: dict[tuple[str, str], float] = {}
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


def run(options: Compile) -> list[Record]:
    layers = options.layers or (24 if options.quick else 96)
    optimizers = {
        "orthoptax muon": muon(0.02),
        "optax.contrib.muon": optax.contrib.muon(0.02, consistent_rms=0.2),
    }
    one = normal_tree(small_layers(1, options.width), jnp.float32, seed=0)
    tree = normal_tree(small_layers(layers, options.width), jnp.float32, seed=0)
    for tx in optimizers.values():
        Program(tx, one).build()  # what only the first compilation of a process costs
    programs = {name: Program(tx, tree) for name, tx in optimizers.items()}
    for i in range(options.repeats):
        for name, program in programs.items():
            with doing(f"{name}, {layers} layers, {i + 1} of {options.repeats}"):
                program.build()
    ours, reference = (p.figures() for p in programs.values())
    against = f"muon, {layers}x6 of {options.width} against optax.contrib.muon"
    return [
        record("compile", f"{against}: {what}", ours[what, unit], figure, unit)
        for (what, unit), figure in reference.items()
    ]


if __name__ == "__main__":
    main(run, Compile)
