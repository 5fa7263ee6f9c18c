# SPDX-License-Identifier: Apache-2.0
"""The numbers of a results folder as a table."""

import io
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from orthoptax.train import results

WIDTH = 132  # columns of the text, whatever the terminal
LABEL = 44  # of them, the most for the name of an optimizer
NOTES = """\
target: best final validation loss of {target}, {loss}. Steps and seconds to it: at
the first evaluation that reaches it, one every {every}; training only, without
compilation and evaluation.
grads/step: products and factorizations of a step over those of loss and gradient,
averaged over the run, as counted in the program.{least}{edge}{diverged}"""
LEAST = """
>: a loop whose length depends on the data was counted as one run."""
EDGE = """
<: best rate at an end of the grid; a wider grid may do better."""
DIVERGED = """
diverged: the loss stopped being finite at that step; the run ended there."""


class Curve(NamedTuple):
    """One optimizer at one rate, the mean over seeds; no losses if any diverged."""

    optimizer: str
    learning_rate: float
    steps: list[int]
    losses: list[float]
    diverged_at: int | None
    seconds: list[float]  # of training, up to each step
    cost: float = 1.0  # of a step on average, in gradients

    @property
    def gradients(self) -> list[float]:
        """What was spent up to each step, in gradients."""
        return [self.cost * step for step in self.steps]

    @property
    def final(self) -> float:
        return self.losses[-1] if self.diverged_at is None else math.inf


class Summary(NamedTuple):
    """All that tables and plots show."""

    manifest: dict[str, Any]
    curves: list[Curve]
    best: dict[str, Curve]  # by optimizer, its best rate
    target: float  # infinite if the run that sets it diverged everywhere
    target_of: str
    compile_seconds: dict[str, float]


def summarize(folder: Path, manifest: dict[str, Any]) -> Summary:
    """Reads curves and timing."""
    rows = results.read(folder / "curves.jsonl")
    timing = results.read(folder / "timing.jsonl")
    names, rates = manifest["optimizers"], manifest["learning_rates"]
    curves = [
        _curve(name, rate, manifest["seeds"], rows, timing)._replace(
            cost=manifest["cost"][name]["gradients_per_step"]
        )
        for name in names
        for rate in rates
    ]
    best = {
        name: min((c for c in curves if c.optimizer == name), key=lambda c: c.final)
        for name in names
    }
    target_of = "adamw" if "adamw" in names else names[0]
    compiled = {t["optimizer"]: t["compile"] for t in timing if "compile" in t}
    return Summary(manifest, curves, best, best[target_of].final, target_of, compiled)


def _curve(
    name: str, rate: float, seeds: list[int], rows: list[Any], timing: list[Any]
) -> Curve:
    """Means over the seeds at the steps that all of them reached."""
    runs = [results.of(results.Run(name, rate, seed), rows) for seed in seeds]
    clocks = [results.of(results.Run(name, rate, seed), timing) for seed in seeds]
    ends = [run[-1]["diverged_at"] for run in runs if run[-1]["diverged_at"]]
    aligned = [
        group
        for group in zip(*runs, strict=False)
        if all(row["validation_loss"] is not None for row in group)
    ]
    spent = [
        statistics.fmean(r["seconds"] for r in g) for g in zip(*clocks, strict=False)
    ]
    return Curve(
        name,
        rate,
        [group[0]["step"] for group in aligned],
        [statistics.fmean(row["validation_loss"] for row in g) for g in aligned],
        min(ends, default=None),
        [sum(spent[: i + 1]) for i in range(len(spent))],
    )


def short(name: str) -> str:
    """A name; of a long chain, its beginning."""
    return name if len(name) <= LABEL else name[: LABEL - 1].rstrip(" |(,") + "\u2026"


def labels(names: Iterable[str]) -> dict[str, str]:
    """What tables and plots call each name: short, and no two alike."""
    found: dict[str, str] = {}
    for name in names:
        same = sum(short(other) == short(name) for other in found)
        found[name] = f"{short(name)} {same + 1}" if same else short(name)
    return found


def reached(curve: Curve, target: float) -> int | None:
    """The index of the first evaluation whose loss is at most the target."""
    if curve.diverged_at is not None or not math.isfinite(target):
        return None
    return next((i for i, loss in enumerate(curve.losses) if loss <= target), None)


def text(summary: Summary, *, timed: bool) -> str:
    """The tables as plain text; `timed` adds the columns that a clock measured."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, highlight=False)
    zlib = summary.manifest["data"]["zlib_bits_per_byte"]
    console.print(corpus_line(summary.manifest), soft_wrap=True)
    console.print(_main_table(summary, timed))
    console.print(f"zlib -9 on the validation data: {zlib:.3f} bits/byte")
    console.print("\nFinal validation loss in nats/byte, by peak learning rate:")
    console.print(_rate_table(summary))
    console.print(_notes(summary), soft_wrap=True)
    for name, label in labels(summary.best).items():
        if name != label:
            console.print(f"{label}: {name}", soft_wrap=True)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def _main_table(summary: Summary, timed: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    clock = ("seconds", "ms/step", "compile s") if timed else ()
    table.add_column("optimizer", no_wrap=True)
    result = ("rate", "nats/byte", "bits/byte", "steps")
    for title in (*result, *clock, "grads/step", "state bytes"):
        table.add_column(title, justify="right")
    sizes = summary.manifest["optimizer_state_bytes"]
    called = labels(summary.best)
    for name, curve in summary.best.items():
        cells = ["-", "diverged", "diverged", "-"]
        at = reached(curve, summary.target)
        if curve.diverged_at is None:
            cells = [
                f"{_edge(summary, curve)}{curve.learning_rate:g}",
                f"{curve.final:.4f}",
                f"{curve.final / math.log(2):.3f}",
                "not reached" if at is None else str(curve.steps[at]),
            ]
        if timed:
            cells += _clock_cells(summary, curve, at)
        cells.append(_cost_cell(summary.manifest["cost"][name]))
        table.add_row(called[name], *cells, f"{sizes[name]:,}")
    return table


def _cost_cell(cost: dict[str, Any]) -> str:
    return f"{'>' if cost['at_least'] else ''}{cost['gradients_per_step']:.2f}"


def _clock_cells(summary: Summary, curve: Curve, at: int | None) -> list[str]:
    """Seconds to the target, median milliseconds a step over all rates, compilation."""
    pace = [
        (after - before) / (end - begin)
        for c in summary.curves
        if c.optimizer == curve.optimizer
        for before, after, begin, end in zip(
            c.seconds, c.seconds[1:], c.steps, c.steps[1:], strict=False
        )
    ]
    compiled = summary.compile_seconds.get(curve.optimizer)
    return [
        "-" if at is None else f"{curve.seconds[at]:.1f}",
        f"{1e3 * statistics.median(pace):.1f}" if pace else "-",
        "-" if compiled is None else f"{compiled:.1f}",
    ]


def _rate_table(summary: Summary) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("optimizer", no_wrap=True)
    for rate in summary.manifest["learning_rates"]:
        table.add_column(f"{rate:g}", justify="right")
    for name, label in labels(summary.best).items():
        mine = [c for c in summary.curves if c.optimizer == name]
        table.add_row(label, *map(_final, mine))
    return table


def _final(curve: Curve) -> str:
    if curve.diverged_at is not None:
        return f"diverged {curve.diverged_at}"
    return f"{curve.final:.4f}"


def _edge(summary: Summary, curve: Curve) -> str:
    rates = summary.manifest["learning_rates"]
    at_end = curve.learning_rate in (min(rates), max(rates))
    return "<" if at_end and curve.diverged_at is None else ""


def _notes(summary: Summary) -> str:
    finite = math.isfinite(summary.target)
    costs = summary.manifest["cost"].values()
    return NOTES.format(
        target=labels(summary.best)[summary.target_of],
        loss=f"{summary.target:.4f}" if finite else "none, it diverged",
        every=f"{summary.manifest['evaluate_every']} {_unit(summary.manifest)}",
        least=LEAST if any(c["at_least"] for c in costs) else "",
        edge=EDGE if any(_edge(summary, c) for c in summary.best.values()) else "",
        diverged=DIVERGED if any(c.diverged_at for c in summary.curves) else "",
    )


def corpus_line(manifest: dict[str, Any]) -> str:
    """What is trained, on what."""
    text, model = manifest["data"], manifest["model"]
    return (
        f"{model['name']}: {model['parameters']:,} parameters, "
        f"{model['batch'] * model['length']:,} bytes a step, "
        f"{manifest[_unit(manifest)]} {_unit(manifest)}\n"
        f"{text['source']}: {text['files']:,} files, {text['train_bytes']:,} bytes to "
        f"train, {text['validation_bytes']:,} to validate, sha256 {text['sha256']}"
    )


def _unit(manifest: dict[str, Any]) -> str:
    """What the length of the runs is counted in."""
    return "gradients" if "gradients" in manifest else "steps"


def run_line(row: dict[str, Any]) -> str:
    """How one run ended."""
    end = f"diverged at step {row['diverged_at']}"
    if row["diverged_at"] is None:
        end = f"loss {row['validation_loss']:.4f} at step {row['step']}"
    name, rate = short(row["optimizer"]), row["learning_rate"]
    return f"{name} rate {rate:g} seed {row['seed']}: {end}"
