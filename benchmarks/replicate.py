# SPDX-License-Identifier: Apache-2.0
"""Published comparisons, repeated at a size that two cores finish.

Every optimizer has its own grid of learning rates, factor 2 apart; a grid whose best
lies at its end grows at that end. Every rate is run with the same seeds. A comparison
takes each optimizer at the rate of its best mean final loss, and pairs the seeds.
"""

import dataclasses
import math
import pathlib
import statistics
from typing import NamedTuple

import numpy as np
from _claims import CLAIMS, HIGHER, LOWER, SAME, Claim, task
from _report import Options, Record, console, main, record
from matplotlib.figure import Figure

from orthoptax.train import results, sweep
from orthoptax.train.effects import paired

BEGIN, END = "<!-- replicate -->", "<!-- /replicate -->"
GROWTH = 4  # rates that a grid grows by at most


@dataclasses.dataclass
class Replicate(Options):
    claims: tuple[str, ...] = tuple(c.name for c in CLAIMS)
    """Which comparisons to run."""
    seeds: int | None = None
    """How many seeds, counted from 0; None: the comparison's own, with --quick 2."""
    rates: int | None = None
    """How many learning rates, factor 2 apart; None: 5, with --quick 1."""
    steps: int | None = None
    """Steps of every run; None: the comparison's own, with --quick 10."""
    out: pathlib.Path = pathlib.Path("results/replicate")
    """Where the curves go; what is there already is not run again."""
    readme: pathlib.Path | None = None
    """Rewrite the part of this file between its marks; pictures go beside it."""

    def sized(self, claim: Claim) -> Claim:
        """The comparison with the seeds and steps that were asked for."""
        seeds = self.seeds or (2 if self.quick else claim.seeds)
        return claim._replace(
            seeds=seeds, steps=self.steps or (10 if self.quick else claim.steps)
        )


def grid(middle: float, count: int) -> tuple[float, ...]:
    return tuple(middle * 2.0 ** (i - count // 2) for i in range(count))


class Curve(NamedTuple):
    """One optimizer of a claim: its grid, and the final losses [rate][seed]."""

    rates: tuple[float, ...]
    finals: list[list[float]]

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(f) for f in self.finals]

    @property
    def best(self) -> int:
        return int(np.argmin(self.means))


def train(claim: Claim, options: Replicate) -> dict[str, Curve]:
    """The final losses of every optimizer of a claim, at every rate and seed."""
    seeds, steps = tuple(range(claim.seeds)), claim.steps
    count = options.rates or (1 if options.quick else 5)
    folder = options.out / claim.task / str(steps)  # shared between claims
    folder.mkdir(parents=True, exist_ok=True)
    curves = {}
    for name, row in claim.rows.items():
        rates: tuple[float, ...] | None = grid(row.middle, count)
        while rates is not None:
            plan = sweep.Plan(rates, seeds, steps, steps)
            with sweep.progress(console) as bars:
                rows = {name: row.constructor}
                sweep.train(task(claim.task), rows, plan, folder, bars)
            found = results.read(folder / "curves.jsonl")
            runs = [[results.Run(name, r, s) for s in seeds] for r in rates]
            curves[name] = Curve(rates, [[final(r, found) for r in of] for of in runs])
            rates = grown(curves[name], count + GROWTH)
    return curves


def final(run: results.Run, rows: list[results.Row]) -> float:
    """The last loss of a run; one that diverged is worse than any other."""
    last = results.of(run, rows)[-1]
    return math.inf if last["diverged_at"] is not None else last["validation_loss"]


def grown(curve: Curve, most: int) -> tuple[float, ...] | None:
    """The rates and one more beyond the best, where that is at an end; or None."""
    rates, at = curve.rates, curve.best
    if 0 < at < len(rates) - 1 or len(rates) in (1, most):
        return None
    return (rates[0] / 2, *rates) if at == 0 else (*rates, rates[-1] * 2)


def spread(values: list[float]) -> float:
    """Half the 95 % interval of the mean, Student's t; infinite if there is none."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.inf
    return paired(values, [0.0] * len(values))[1]


def compare(curves: dict[str, Curve], name: str, against: str) -> tuple[float, float]:
    """Mean and half interval of the paired differences, each at its best rate."""
    a, b = (curves[n].finals[curves[n].best] for n in (name, against))
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    return statistics.fmean(gaps), spread(gaps)


def verdict(gap: float, half: float) -> str:
    """What the interval says, in words."""
    if not math.isfinite(half) or abs(gap) <= half:
        return SAME
    return LOWER if gap < 0 else HIGHER


def section(claim: Claim, curves: dict[str, Curve]) -> str:
    """The part of the document on one claim."""
    lines = [
        f"### {claim.name}",
        "",
        claim.says,
        "",
        f"| optimizer | best rate | final loss | minus {claim.against}, 95 % | here "
        "| published |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    agrees = []
    for name, curve in curves.items():
        i = curve.best
        edge = " (edge)" if i in (0, len(curve.rates) - 1) else ""
        head = f"| `{name}` | {curve.rates[i]:.3g}{edge} | {curve.means[i]:.4g} "
        if name == claim.against:
            lines.append(f"{head}| | | |")
            continue
        gap, half = compare(curves, name, claim.against)
        seen, said = verdict(gap, half), claim.expected.get(name, "")
        agrees += [seen == said] if said else []
        lines.append(f"{head}| {gap:+.2g} ± {half:.2g} | {seen} | {said} |")
    words = "Replicates" if all(agrees) else "Replicates in part"
    words = words if any(agrees) else "Does not replicate"
    ran = f"Task `{claim.task}`, {claim.steps} steps, seeds 0 to {claim.seeds - 1}."
    shown = f"![{claim.name}](replicate_{claim.name}.png)"
    return "\n".join([*lines, "", f"**{words} at this size.** {ran}", "", shown, ""])


def picture(claim: Claim, curves: dict[str, Curve], path: pathlib.Path) -> None:
    """Final loss against learning rate, mean and 95 % interval."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        halves = [spread(f) for f in curve.finals]
        axes.errorbar(
            curve.rates, curve.means, halves, label=name, capsize=2, marker="."
        )
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="final loss")
    axes.set_title(f"{claim.name}: {claim.task}")
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def run(options: Replicate) -> list[Record]:
    known = {c.name: c for c in CLAIMS}
    records, sections = [], []
    for name in options.claims:
        claim = options.sized(known[name])
        curves = train(claim, options)
        best = {n: min(c.means) for n, c in curves.items()}
        for other in (n for n in curves if n != claim.against):
            case = f"{name}: {other} against {claim.against}: final loss"
            losses = best[other], best[claim.against]
            records.append(record("replicate", case, *losses, "loss"))
        sections.append(section(claim, curves))
        if options.readme is not None:
            picture(claim, curves, options.readme.parent / f"replicate_{name}.png")
    if options.readme is not None:
        before, _, rest = options.readme.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        body = "\n".join([BEGIN, "", *sections, END])
        options.readme.write_text(before + body + after)
    return records


if __name__ == "__main__":
    main(run, Replicate)
