# SPDX-License-Identifier: Apache-2.0
"""Cost and error of polar kernels: ours, optax's, published ones and exact ones.

For each shape of a model, operations (those of products, counted in the compiled
program), temporaries and compile time at full size; time and errors at the size that
two cores can run, which the table says. Times are taken in turn, on the first spectrum;
of kernels that factor a matrix, once for each spectrum.
`by_gain` takes its schedule from the matrix: its operations are the mean over the
spectra of those of the schedules that it took. The error is the distance from the
polar factor over the factor's norm. Products are in float32 or in the matrices' dtype.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable
from typing import Literal

import jax
import numpy as np
from _matrices import GIVEN, SPECTRA, Sample, Shape, given, samples, shapes_of
from _measures import Line, Lines, build, measure
from _polars import AUTO, CLASSIC, CLOSER, ENTRIES, Entry
from _report import (
    Grid,
    Options,
    Record,
    Report,
    around,
    made_with,
    main,
    record,
    rewrite,
)


@dataclasses.dataclass
class Polar(Options):
    model: Literal["gpt2", "llama", "moe", "conv", "momentum"] = "gpt2"
    """Whose shapes: GPT-2 small, Llama 3 8B, 64 experts, kernels of a ResNet."""
    shapes: tuple[tuple[int, int], ...] | None = None
    """Instead of a model's: rows and columns in turn, rows no more than columns (8 16
    16 16 are two shapes)."""
    spectra: tuple[str, ...] = tuple(SPECTRA)
    """Which spectra, see _matrices.py."""
    kernels: tuple[str, ...] = tuple(ENTRIES)
    """Which kernels, see _polars.py; auto and the classic stages always."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of input and products. For bfloat16 exact kernels and norms are left out."""
    repeats: int | None = None
    """Calls timed of each kernel, in turn; None: 3, with --quick 5."""
    picture: pathlib.Path | None = None
    """Draw error against operations to this file (PNG)."""
    readme: pathlib.Path | None = None
    """Rewrite the model's table in this file, between its two marks."""


def chosen(options: Polar) -> dict[str, Entry]:
    """The kernels that are asked for and can take the dtype."""
    for what, asked, known in (
        ("--kernels", options.kernels, ENTRIES),
        ("--spectra", options.spectra, SPECTRA),
    ):
        if unknown := [name for name in asked if name not in known]:
            sys.exit(f"{what}: no {unknown[0]!r}. Expected some of {', '.join(known)}")
    short = options.dtype == "bfloat16"
    asked = {AUTO, CLASSIC, *options.kernels}
    return {
        k: e for k, e in ENTRIES.items() if k in asked and not (short and e.factors)
    }


def shapes(options: Polar) -> list[Shape]:
    if options.shapes is None:
        return shapes_of(options.model, quick=options.quick)
    if wrong := [f"{m}x{n}" for m, n in options.shapes if not 0 < m <= n]:
        sys.exit(
            f"polar: shape {', '.join(wrong)} is taller than wide or empty. Expected "
            "rows and columns in turn, rows no more than columns. Swap the two"
        )
    return [Shape(s, s) for s in options.shapes]


def matrices(shape: Shape, options: Polar) -> Iterable[Sample]:
    if options.shapes is None and options.model in GIVEN:
        return given(options.model, shape)
    return samples(shape.run, options.spectra)


def figures(line: Line) -> dict[tuple[str, str], float]:
    """{(what, unit): figure} of a kernel, errors by spectrum."""
    cost, time = line.cost, line.time
    found = {
        ("products", "GFLOP"): cost.flops / 1e9,
        ("temporaries", "MB"): cost.temporaries / 1e6,
        ("compile, CPU", "s"): cost.compiling.cpu,
        ("compile, wall", "s"): cost.compiling.wall,
        ("wall", "ms"): 1e3 * time.wall,
        ("CPU", "ms"): 1e3 * time.cpu,
    }
    for spectrum, e in line.errors.items():
        found |= {
            (f"{spectrum}: error", "relative"): e.distance,
            (f"{spectrum}: cosine", "of 1"): e.cosine,
            (f"{spectrum}: smallest singular value", "of 1"): e.smallest,
            (f"{spectrum}: mean singular value", "of 1"): e.mean,
            (f"{spectrum}: largest singular value", "of 1"): e.largest,
        }
    return found


def records(shape: Shape, dtype: str, lines: Lines) -> Iterable[Record]:
    """`auto` against every other kernel."""
    mine = figures(lines[AUTO])
    for name, line in lines.items():
        if name != AUTO:
            case = f"{AUTO} against {name}, {shape} {dtype}"
            for (what, unit), theirs in figures(line).items():
                ours = mine[what, unit]
                yield record("polar", f"{case}: {what}", ours, theirs, unit)


def over_classic(lines: Lines, name: str) -> tuple[float, float]:
    """(operations, time) over those of the classic stages."""
    a, b = lines[name], lines[CLASSIC]
    return a.cost.flops / b.cost.flops, a.time.wall / b.time.wall


def grids(shape: Shape, dtype: str, lines: Lines) -> list[Grid]:
    """Costs and distances; cosines; singular values."""
    ran = "x".join(map(str, shape.run))
    where = "" if shape.run == shape.full else f"; times and errors at {ran}"
    spectra = list(lines[CLASSIC].errors)
    costs, cosines, values = [], [], []
    for name, line in lines.items():
        flops, time = over_classic(lines, name)
        cost, errors = line.cost, line.errors.values()
        costs.append(
            [
                name,
                f"{flops:.3f}",
                f"{cost.temporaries / 1e6:,.4g}",
                f"{cost.compiling.cpu:.2f}",
                f"{time:.3f}",
                *(f"{e.distance:.3g}" for e in errors),
            ]
        )
        cosines.append([name, *(f"{e.cosine:.5f}" for e in errors)])
        values.append(
            [
                name,
                *(f"{e.smallest:.2g} {e.mean:.3g} {e.largest:.4g}" for e in errors),
            ]
        )
    head = ["kernel", "FLOPs", "temporary MB", "compile, CPU s", "time"]
    title = f"{shape} {dtype}{where}"
    classic = f"FLOPs and time over those of {CLASSIC!r}, distance by spectrum"
    return [
        Grid(f"{title}. {classic}", head + spectra, costs),
        Grid(f"{title}. Cosine", ["kernel", *spectra], cosines),
        Grid(
            f"{title}. Singular values: smallest, mean, largest",
            ["kernel", *spectra],
            values,
        ),
    ]


def summary(measured: dict[Shape, Lines], options: Polar) -> Grid:
    """A line for each kernel, over all shapes and spectra of a model."""
    by_shape = list(measured.items())
    head = ["kernel", *(f"FLOPs, {shape}" for shape, _ in by_shape)]
    head += [f"time, {'x'.join(map(str, shape.run))}" for shape, _ in by_shape]
    head += ["temporary MB", "distance", "cosine", "largest"]
    rows = []
    for name in by_shape[0][1]:
        ratios = [over_classic(lines, name) for _, lines in by_shape]
        errors = [lines[name].over_spectra() for _, lines in by_shape]
        most = max(lines[name].cost.temporaries for _, lines in by_shape)
        rows.append(
            [
                f"**{name}**" if ENTRIES[name].by == "ours" else name,
                *(f"{flops:.3f}" for flops, _ in ratios),
                *(f"{time:.3f}" for _, time in ratios),
                f"{most / 1e6:,.4g}",
                f"{np.mean([e.distance for e in errors]):.3g}",
                f"{np.mean([e.cosine for e in errors]):.4f}",
                f"{max(e.largest for e in errors):.3f}",
            ]
        )
    return Grid(f"{options.model}, {options.dtype}", head, rows)


def picture(measured: dict[Shape, Lines], options: Polar) -> None:
    """Mean distance against operations, a panel for each shape, without exact ones."""
    from _picture import Point, Words, draw  # matplotlib only where it is asked for

    assert options.picture is not None
    panels = {
        str(shape): [
            Point(
                name,
                ENTRIES[name].by,
                over_classic(lines, name)[0],
                line.over_spectra().distance,
            )
            for name, line in lines.items()
            if ENTRIES[name].by != "exact"
        ]
        for shape, lines in measured.items()
    }
    spectra = {s for lines in measured.values() for s in lines[AUTO].errors}
    words = Words(
        f"Polar kernels, shapes of {options.model}, {options.dtype}",
        "FLOPs over those of five classic stages, plainly",
        f"distance to the polar factor, mean of spectra ({len(spectra)})",
    )
    draw(panels, words, (AUTO, *CLOSER), options.picture)


def run(options: Polar) -> Report:
    entries, every = chosen(options), shapes(options)
    mark = f"polar {options.model}"
    if options.readme is not None:
        around(options.readme, mark)  # says now what is missing
    with jax.default_matmul_precision("highest"):
        build(ENTRIES[CLASSIC], (8, 8), options.dtype)  # a process's first costs more
        repeats = options.repeats or (5 if options.quick else 3)
        measured = {
            shape: measure(
                shape, entries, matrices(shape, options), options.dtype, repeats
            )
            for shape in every
        }
    if options.picture is not None:
        picture(measured, options)
    if options.readme is not None:
        body = f"{summary(measured, options).markdown()}\n{made_with()}"
        rewrite(options.readme, mark, body)
    return Report(
        [r for s, lines in measured.items() for r in records(s, options.dtype, lines)],
        [g for s, lines in measured.items() for g in grids(s, options.dtype, lines)],
    )


if __name__ == "__main__":
    main(run, Polar)
