# SPDX-License-Identifier: Apache-2.0
"""Time, memory, program and error of one step: muon, optax's Muon, AdamW.

The tree has the shapes of GPT-2 small, each matrix a leaf of its own. A step is update
and `apply_updates`, compiled beforehand, old parameters and state donated; all take
their turns in one process. Operations (those of products), temporaries (XLA's own
figure), compile time and the program's text are those of all layers; time and error of
the first few. The error is that of a first update before its scale and rate, from the
polar factor, over the factor's norm: the mean over matrices whose spectra are those of
`polar.py` in turn. Dtype and, for float32, the precision of the products (HIGHEST) are
the same for all.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _matrices import SPECTRA, samples
from _muons import IN_32_BITS, OPTAX, OPTIMIZERS, OURS, RATE, RMS
from _report import (
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
    normal_tree,
    record,
    rewrite,
    side_by_side,
    small_layers,
)

from orthoptax.sharding import count

TREES = {"gpt2": gpt2_layers, "apart": small_layers}
COLUMNS = {
    ("step, wall", "ms"): "step ms",
    ("step, CPU", "ms"): "CPU ms",
    ("error", "relative"): "distance",
    ("cosine", "of 1"): "cosine",
    ("products", "GFLOP"): "GFLOP",
    ("temporaries", "MB"): "temporary MB",
    ("state", "MB"): "state MB",
    ("compile, CPU", "s"): "compile, CPU s",
    ("HLO text", "MB"): "HLO MB",
}
"""Of the table: which figures, and their headings."""

Figures = dict[tuple[str, str], float]


@dataclasses.dataclass
class Step(Options):
    tree: Literal["gpt2", "apart"] = "gpt2"
    """Four matrices a layer, as in GPT-2; or six, projections apart."""
    layers: int | None = None
    """Layers of the step that is counted; None: 12, with --quick 2."""
    timed: int | None = None
    """Layers of the step that is timed; None: 3, with --quick 1, at most `layers`."""
    width: int | None = None
    """Of the matrices: width x width and its multiples by 3 and 4; None: 768, with
    --quick 128."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of parameters, state and products. For bfloat16 the spectral norm is left out."""
    repeats: int | None = None
    """Steps timed of each optimizer, in turn; None: 3, with --quick 5."""
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    """Which optimizers, see _muons.py; muon and optax.contrib.muon always."""
    readme: pathlib.Path | None = None
    """Rewrite the table in this file, between its two marks."""


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


def compiled(tx: optax.GradientTransformation, params: Any) -> jax.stages.Compiled:
    """A step from parameters and gradients like these."""
    tx = optax.with_extra_args_support(tx)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, **EXTRA)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    with jax.default_matmul_precision("highest"):
        jitted = jax.jit(step, donate_argnums=(0, 1))
        return jitted.lower(params, state, params).compile()


class Stepper:
    """One optimizer, compiled; every call goes on from the step before it."""

    def __init__(self, tx: optax.GradientTransformation, shapes: Any, dtype: str):
        self.tx, self.grads = tx, normal_tree(shapes, dtype, seed=0)
        self.at: Any = (normal_tree(shapes, dtype, seed=1),)
        self.at += (tx.init(self.at[0]),)
        self.step = compiled(tx, self.at[0])

    def __call__(self) -> Any:
        self.at = self.step(*self.at, self.grads)
        return self.at

    def first_update(self, grads: Any) -> Any:
        """What a step from nothing makes of these gradients."""
        nothing = jax.tree.map(jnp.zeros_like, grads)
        return self.step(nothing, self.tx.init(nothing), grads)[0]


def with_spectra(shapes: dict[str, tuple[int, int]]) -> Iterator[tuple[str, Any, Any]]:
    """(name, gradient, its polar factor), spectra in turn."""
    for i, (name, (rows, cols)) in enumerate(shapes.items()):
        spectrum = list(SPECTRA)[i % len(SPECTRA)]
        (s,) = samples((min(rows, cols), max(rows, cols)), (spectrum,))
        x, factor = s.x[0], s.factor[0]
        yield (name, x.T, factor.T) if rows > cols else (name, x, factor)


def errors(stepper: Stepper, gradients: list[Any], dtype: str) -> Figures:
    """Of the update before its scale, the mean over matrices."""
    tree = {name: {"kernel": jnp.asarray(x, dtype)} for name, x, _ in gradients}
    updates = stepper.first_update(tree)
    distances, cosines = [], []
    for name, _, factor in gradients:
        o = np.asarray(updates[name]["kernel"], np.float64)
        o /= -RATE * RMS * np.sqrt(max(o.shape))
        size = np.linalg.norm(factor)
        distances.append(np.linalg.norm(o - factor) / size)
        cosines.append(np.sum(o * factor) / size / np.linalg.norm(o))
    return {
        ("error", "relative"): float(np.mean(distances)),
        ("cosine", "of 1"): float(np.mean(cosines)),
    }


def counted(tx: optax.GradientTransformation, shapes: Any, dtype: str) -> Figures:
    """What is known of the step without running it."""
    like = lambda shape: {"kernel": jax.ShapeDtypeStruct(shape, dtype)}
    params = {name: like(shape) for name, shape in shapes.items()}
    program, spent = clock(lambda: compiled(tx, params))
    found, state = count(program), jax.eval_shape(tx.init, params)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return {
        ("products", "GFLOP"): found.flops / 1e9,
        ("temporaries", "MB"): (found.temp_bytes or 0) / 1e6,
        ("state", "MB"): size / 1e6,
        ("compile, CPU", "s"): spent.cpu,
        ("compile, wall", "s"): spent.wall,
        ("HLO text", "MB"): len(program.as_text()) / 1e6,
    }


def measure(options: Step, names: list[str], shapes: list[Any]) -> dict[str, Figures]:
    """Every optimizer; shapes: of the tree that is timed, and of that counted."""
    repeats = options.repeats or (5 if options.quick else 3)
    timed, every = shapes
    made = {name: OPTIMIZERS[name](options.dtype) for name in names}
    counted(optax.sgd(RATE), timed, options.dtype)  # a process's first costs more
    found, steppers = {}, {}
    for name, tx in made.items():
        with doing(f"{name}: compile {len(every)} and {len(timed)} leaves"):
            found[name] = counted(tx, every, options.dtype)
            steppers[name] = Stepper(tx, timed, options.dtype)
    with doing(f"{repeats} steps of each, and one not counted"):
        clocks = side_by_side(repeats, *steppers.values())
    gradients = list(with_spectra(timed))
    with doing("errors"):
        for (name, stepper), spent in zip(steppers.items(), clocks, strict=True):
            found[name] |= {
                ("step, wall", "ms"): 1e3 * spent.wall,
                ("step, CPU", "ms"): 1e3 * spent.cpu,
            }
            if name != "optax.adamw":
                found[name] |= errors(stepper, gradients, options.dtype)
    return found


def grid(title: str, found: dict[str, Figures]) -> Grid:
    """A line for each optimizer; what one does not have is left empty."""
    rows = []
    for name, figures in found.items():
        cells = [f"{figures[key]:,.4g}" if key in figures else "" for key in COLUMNS]
        rows.append([name, *cells])
    return Grid(title, ["optimizer", *COLUMNS.values()], rows)


def chosen(options: Step) -> list[str]:
    """The optimizers that are asked for and can take the dtype."""
    if unknown := [name for name in options.optimizers if name not in OPTIMIZERS]:
        known = "; ".join(OPTIMIZERS)
        sys.exit(f"--optimizers: no {unknown[0]!r}. Expected some of {known}")
    short = options.dtype == "bfloat16"
    asked = {OURS, OPTAX, *options.optimizers}
    return [n for n in OPTIMIZERS if n in asked and not (short and n in IN_32_BITS)]


def run(options: Step) -> Report:
    layers = options.layers or (2 if options.quick else 12)
    timed = min(layers, options.timed or (1 if options.quick else 3))
    width = options.width or (128 if options.quick else 768)
    if options.readme is not None:
        around(options.readme, "step")  # says now what is missing
    shapes = [TREES[options.tree](n, width) for n in (timed, layers)]
    found = measure(options, chosen(options), shapes)
    per = len(shapes[1]) // layers
    tree = f"{layers}x{per} of {width}, {options.dtype}"
    table = grid(f"{tree}; time and errors of {timed}x{per}", found)
    if options.readme is not None:
        rewrite(options.readme, "step", f"{table.markdown()}\n{made_with()}")
    records: list[Record] = [
        record(
            "step",
            f"{OURS}, {tree} against {name}: {what}",
            found[OURS][what, unit],
            figure,
            unit,
        )
        for name, reference in found.items()
        if name != OURS
        for (what, unit), figure in reference.items()
    ]
    return Report(records, [table])


if __name__ == "__main__":
    main(run, Step)
