# SPDX-License-Identifier: Apache-2.0
"""Compile time and program size of muon, ours against optax.contrib's.

Every matrix of every layer is a leaf of its own, as in a model whose layers are not
scanned: 96 layers are 576 leaves. Lowering (tracing, StableHLO) and compiling (XLA) are
timed apart. Instructions are counted in the text of the lowered program (StableHLO) and
of the optimized one (HLO), loop bodies once.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from _report import Options, Record, clock, doing, main, normal_tree, record
from _report import side_by_side, small_layers

from orthoptax.optimizers.muon import muon

DOTS = {"StableHLO": r"stablehlo\.dot_general\b", "HLO": r" dot\("}
LOOPS = {"StableHLO": r"stablehlo\.while\b", "HLO": r" while\("}


@dataclasses.dataclass
class Compile(Options):
    layers: int | None = None
    """Layers of six matrices; 96, or 16 with --quick."""
    width: int = 64
    """Of the matrices: four width x width, one width x 4 width, one 4 width x width."""
    repeats: int = 3
    """Programs compiled of each optimizer; the median counts."""


class Trial:
    """Lowers and compiles the update of one optimizer, afresh at every call."""

    def __init__(self, tx: optax.GradientTransformation, tree: Any):
        state = jax.eval_shape(tx.init, tree)
        self.tx, self.args = tx, (tree, state, tree)

    def lower(self) -> None:
        fresh = lambda *args: self.tx.update(*args)  # noqa: E731  jit caches by function
        self.lowered = jax.jit(fresh).lower(*self.args)

    def compile(self) -> None:
        self.compiled = self.lowered.compile()
...
