# SPDX-License-Identifier: Apache-2.0
"""Time and memory of one step: muon against optax.contrib.muon and AdamW.

The tree has the shapes of GPT-2 small, each matrix a leaf of its own. A step is update
and `apply_updates`, compiled beforehand, old parameters and state donated. Temporaries
are XLA's own figure for the compiled step. Coefficients, dtype and, for float32, the
precision of the products (HIGHEST) are the same for all.
"""

import dataclasses
from typing import Any, Literal

import jax
import optax
from _report import (
    Options,
    Record,
    doing,
    gpt2_layers,
    main,
    normal_tree,
    record,
    side_by_side,
)

from orthoptax.matrix import newton_schulz
from orthoptax.optimizers.muon import muon


@dataclasses.dataclass
class Step(Options):
    layers: int | None = None
    """Layers of four matrices each; None: 12, with --quick 4."""
    width: int | None = None
    """Of the matrices: width x 3 width, width x width, width x 4 width, 4 width x
    width; None: 768, with --quick 256."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of parameters, state and products."""
    repeats: int | None = None
    """Steps timed of each optimizer, in turn; None: 5, with --quick 15."""


def squares(params: Any) -> jax.Array:
    """A loss that costs nothing beside a model's."""
    return optax.tree.norm(params, squared=True) / 2


EXTRA = {  # for optimizers that ask for it; nothing of it enters other programs
    "value": 1.0,
    "obj_fn": squares,
    "grad_fn": jax.grad(squares),
    "logits_fn": squares,
    "sample_fn": lambda key, logits: logits,
    "nll_fn": lambda logits, labels: (logits, 1),
}


class Stepper:
    """One optimizer, compiled; every call goes on from the step before it."""

    def __init__(self, tx: optax.GradientTransformation, shapes: Any, dtype: str):
        self.grads = normal_tree(shapes, dtype, seed=0)
        self.at = (normal_tree(shapes, dtype, seed=1),)
        self.at += (tx.init(self.at[0]),)

        tx = optax.with_extra_args_support(tx)

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params, **EXTRA)
            return optax.apply_updates(params, updates), state

        with jax.default_matmul_precision("highest"):
            lowered = jax.jit(step, donate_argnums=(0, 1)).lower(*self.at, self.grads)
        self.step = lowered.compile()

    def __call__(self) -> Any:
        self.at = self.step(*self.at, self.grads)
        return self.at

    def memory(self) -> dict[str, float]:
        """Megabytes, by what they are for."""
        temporaries = self.step.memory_analysis().temp_size_in_bytes
        state = sum(x.nbytes for x in jax.tree.leaves(self.at[1]))
        return {"temporaries": temporaries / 1e6, "state": state / 1e6}


def run(options: Step) -> list[Record]:
    layers = options.layers or (4 if options.quick else 12)
    width = options.width or (256 if options.quick else 768)
    repeats = options.repeats or (15 if options.quick else 5)
    optimizers = {
        "muon": muon(0.02, polar=newton_schulz(compute_dtype=options.dtype)),
        "optax.contrib.muon": optax.contrib.muon(0.02, consistent_rms=0.2),
        "optax.adamw": optax.adamw(0.02),
    }
    steppers = []
    for name, tx in optimizers.items():
        with doing(f"{name}: compile, {layers} layers of width {width}"):
            steppers.append(Stepper(tx, gpt2_layers(layers, width), options.dtype))
    with doing(f"{repeats} steps of each, and one not counted"):
        clocks = side_by_side(repeats, *steppers)
    figures = [
        {("step, wall", "ms"): 1e3 * spent.wall, ("step, CPU", "ms"): 1e3 * spent.cpu}
        | {(what, "MB"): size for what, size in stepper.memory().items()}
        for stepper, spent in zip(steppers, clocks, strict=True)
    ]
    tree = f"{layers}x4 of {width}, {options.dtype}"
    return [
        record(
            "step",
            f"muon, {tree} against {name}: {what}",
            figures[0][what, unit],
            figure,
            unit,
        )
        for name, reference in zip(optimizers, figures, strict=True)
        if name != "muon"
        for (what, unit), figure in reference.items()
    ]


if __name__ == "__main__":
    main(run, Step)
