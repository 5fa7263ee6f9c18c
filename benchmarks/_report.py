# SPDX-License-Identifier: Apache-2.0
"""What the programs here share: trees, clocks, records, and how these are shown."""

import contextlib
import dataclasses
import datetime
import inspect
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

try:
    import tyro
    from rich.console import Console
    from rich.table import Table
except ImportError as error:
    sys.exit(
        f"benchmarks: {error.name} is missing. Expected what the bench extra brings. "
        'Install it: pip install "orthoptax[bench]", or in a checkout make venv'
    )

if "preconditioning" not in inspect.signature(optax.contrib.muon).parameters:
    sys.exit(
        f"benchmarks: optax {optax.__version__} has a Muon without preconditioning. "
        "Expected 0.2.8 or newer, to compare with. Install it: pip install -U optax"
    )

console = Console(stderr=True)  # progress; the table alone goes to stdout


class Record(NamedTuple):
    """One figure of ours beside the same of the reference; below 1 ours is less.

    ratio: ours/reference, None where the reference is zero.
    """

    benchmark: str
    case: str
    ours: float
    reference: float
    ratio: float | None
    unit: str


def record(
    benchmark: str, case: str, ours: float, reference: float, unit: str
) -> Record:
    ours, reference = float(ours), float(reference)
    ratio = ours / reference if reference else None
    return Record(benchmark, case, ours, reference, ratio, unit)


class Grid(NamedTuple):
    """A table with a line for each thing compared; the first column is their names."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in [self.head, rule, *self.rows]]
        return "\n".join([f"**{self.title}**", "", *lines, ""])


class Report(NamedTuple):
    """Records, and tables that are shown in the place of one line for each record."""

    records: list[Record]
    grids: list[Grid]


@dataclasses.dataclass
class Options:
    """What every program takes."""

    quick: bool = False
    """Smaller trees: under two minutes on two cores."""
    json: pathlib.Path | None = None
    """Also write the records to this file, one JSON object a line."""
    text: pathlib.Path | None = None
    """Also write the table to this file, under date, versions and command."""


def main(run: Callable[[Any], list[Record] | Report], options: type[Options]) -> None:
    """Reads the command line, runs, prints the table, writes the records."""
    settings = tyro.cli(options, description=sys.modules["__main__"].__doc__)
    for name in "json", "text":
        if (file := getattr(settings, name)) is not None:
            try:
                file.touch()
            except OSError as error:  # said before the work, not after it
                sys.exit(
                    f"--{name}: {error}. Expected a file that can be written. Name one"
                )
    started, load = time.perf_counter(), os.getloadavg()[0]
    result = run(settings)
    report = result if isinstance(result, Report) else Report(result, [])
    if settings.json is not None:
        lines = (json.dumps(r._asdict(), allow_nan=False) for r in report.records)
        settings.json.write_text("".join(f"{line}\n" for line in lines))
    title = (
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {load:.1f}, "
        f"jax {jax.__version__}, {time.perf_counter() - started:.0f} s in all"
    )
    show(report, title, Console(width=None if sys.stdout.isatty() else wide(report)))
    if settings.text is not None:
        with settings.text.open("w") as file:
            file.write(f"{made_with()}\n{' '.join(sys.argv)}\n\n")
            show(report, title, Console(file=file, width=wide(report)))


def show(report: Report, title: str, to: Console) -> None:
    """The grids, or where there are none the records."""
    for grid in report.grids:
        table = Table(*grid.head, title=grid.title)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in grid.rows:
            table.add_row(*row)
        to.print(table)
    if report.grids:
        to.print(title)
        return
    table = Table("case", title=title, caption="ratio: ours/reference, less is better")
    for column in ("ours", "reference", "ratio", "unit"):
        table.add_column(column, justify="left" if column == "unit" else "right")
    for r in report.records:
        ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
        table.add_row(r.case, f"{r.ours:.4g}", f"{r.reference:.4g}", ratio, r.unit)
    to.print(table)


def wide(report: Report) -> int:
    """Characters that the tables of a report need where no terminal limits them."""
    return 200 if report.grids else 120


def made_with() -> str:
    """Day, versions and machine."""
    return (
        f"{datetime.date.today()}, jax {jax.__version__}, optax {optax.__version__}, "
        f"{os.cpu_count()} cores of {processor()}."
    )


def processor() -> str:
    """The name of the CPU, as far as the system tells."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def around(file: pathlib.Path, mark: str) -> tuple[str, str]:
    """A document up to `<!-- mark -->`, and from `<!-- /mark -->` on."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, opened, rest = file.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        sys.exit(f"--readme: {file} lacks {begin} or {end}. Expected both. Add them")
    return before + begin, end + after


def rewrite(file: pathlib.Path, mark: str, body: str) -> None:
    """Puts this between the two marks of a document."""
    before, after = around(file, mark)
    file.write_text(f"{before}\n\n{body.strip()}\n\n{after}")


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Shows on stderr what is being done; a line once it is, with its seconds."""
    started = time.perf_counter()
    with console.status(what):
        yield
    console.print(f"{what}: {time.perf_counter() - started:.1f} s")


class Clock(NamedTuple):
    """Seconds of the clock on the wall, and of this process on all its cores."""

    wall: float
    cpu: float


def clock(fn: Callable[[], Any]) -> tuple[Any, Clock]:
    """fn() once it is ready, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(fn())
    return result, Clock(time.perf_counter() - wall, time.process_time() - cpu)


def median(clocks: list[Clock]) -> Clock:
    """The median of each reading."""
    return Clock(*(statistics.median(x) for x in zip(*clocks, strict=True)))


def side_by_side(repeats: int, *fns: Callable[[], Any]) -> list[Clock]:
    """The median clock of each function, called in turn, see `rounds`."""
    return [median(seen) for seen in rounds(repeats, *fns)]


def rounds(repeats: int, *fns: Callable[[], Any]) -> list[list[Clock]]:
    """Every clock of each function, called in turn, each round the other way.

    What else the machine does then falls on all of them alike. A first call of each is
    not counted.
    """
    for fn in fns:
        clock(fn)
    clocks: list[list[Clock]] = [[] for _ in fns]
    for i in range(repeats):
        turns = list(zip(fns, clocks, strict=True))
        for fn, seen in turns if i % 2 else turns[::-1]:
            seen.append(clock(fn)[1])
    return clocks


def normal_tree(shapes: dict[str, tuple[int, ...]], dtype: Any, seed: int) -> Any:
    """{name: {"kernel": array}} of normal entries."""
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.standard_normal(shape, np.float32)
    return {k: {"kernel": jnp.asarray(draw(s), dtype)} for k, s in shapes.items()}


def small_layers(layers: int, width: int = 64) -> dict[str, tuple[int, ...]]:
    """Six matrices a layer, as in a transformer whose projections stand apart."""
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    return {f"layer_{i}/m{j}": s for i in range(layers) for j, s in enumerate(shapes)}


def gpt2_layers(layers: int, width: int = 768) -> dict[str, tuple[int, ...]]:
    """Four matrices a layer; 12 layers of width 768 are GPT-2 small."""
    shapes = {
        "attention": (width, 3 * width),
        "projection": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    return {f"layer_{i}/{k}": s for i in range(layers) for k, s in shapes.items()}
