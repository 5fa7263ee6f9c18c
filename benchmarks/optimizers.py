# SPDX-License-Identifier: Apache-2.0
"""Time of one step of every optimizer over AdamW's; writes the table of the README.

Each optimizer takes its turn beside AdamW on the same tree, the matrices of transformer
layers with GPT-2 small's proportions, float32, compiled beforehand, parameters and
state donated. AdamW reads and writes every number once, so the ratios are large: they
say what an optimizer costs, not what a training step does. What estimates of curvature
cost depends on the model and is not in them: `curvature.py` measures that.
"""

import dataclasses
import datetime
import os
import pathlib
import statistics

import jax
import optax
from _report import Options, Record, doing, gpt2_layers, main, record, side_by_side
from step import Stepper

from orthoptax import optimizers
from orthoptax.train import catalogue


@dataclasses.dataclass
class Table(Options):
    layers: int | None = None
    """Layers of four matrices each; None: 2, with --quick 1."""
    width: int | None = None
    """Of the matrices; None: 768, with --quick 128."""
    repeats: int = 3
    """Steps timed of each optimizer and of AdamW beside it."""
    names: tuple[str, ...] = tuple(optimizers.__all__)
    """Which optimizers."""
    readme: pathlib.Path | None = None
    """Rewrite the table in this file, between its two marks."""


def run(options: Table) -> list[Record]:
    layers = options.layers or (1 if options.quick else 2)
    width = options.width or (128 if options.quick else 768)
    shapes = gpt2_layers(layers, width)
    adamw = Stepper(optax.adamw(0.02), shapes, "float32")
    tree = f"{layers}x4 of {width}"
    ours, theirs = {}, []
    for name in options.names:
        with doing(f"{name}: compile, {options.repeats} steps"):
            stepper = Stepper(getattr(optimizers, name)(0.02), shapes, "float32")
            mine, beside = side_by_side(options.repeats, stepper, adamw)
        ours[name] = 1e3 * mine.wall
        theirs.append(1e3 * beside.wall)
    reference = statistics.median(theirs)  # a step of milliseconds: one alone is noise
    costs = {name: wall / reference for name, wall in ours.items()}
    case = f"{tree} against optax.adamw: step, wall"
    records = [
        record("optimizers", f"{name}, {case}", wall, reference, "ms")
        for name, wall in ours.items()
    ]
    if options.readme is not None:
        text = options.readme.read_text()
        table = catalogue.markdown(costs, note(tree))
        options.readme.write_text(catalogue.replace_table(text, table))
    return records


def note(tree: str) -> str:
    """What the columns are, when and where they were measured."""
    return (
        f"Bytes of float32 state a parameter for a {catalogue.ROWS} x {catalogue.COLS} "
        f"matrix. Step: time over AdamW's, {tree} (GPT-2 small's shapes), float32, "
        "products with a model's Hessian not counted, "
        f"{datetime.date.today()}, {jax.devices()[0].device_kind} with "
        f"{os.cpu_count()} cores, jax {jax.__version__}; "
        "`make table` measures and writes this."
    )


if __name__ == "__main__":
    main(run, Table)
