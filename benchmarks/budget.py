# SPDX-License-Identifier: Apache-2.0
"""Optimizers that ask for more than a gradient, at equal cost in gradients.

Each takes as many steps as a budget of gradients pays for, counted in its program
(`orthoptax.train.costs`), over a grid of learning rates of its own, factor 2 apart,
that grows at an end where the best lies. What is in the folder is not run again.
"""

import dataclasses
import datetime
import functools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from _report import Options, Record, console, main, record
from matplotlib.figure import Figure
from replicate import Curve as Finals
from replicate import final, grid, grown, spread

from orthoptax import __version__, optimizers
from orthoptax.train import ablate, config, report, results, sweep
from orthoptax.train.names import adamw

BEGIN, END = "<!-- budget -->", "<!-- /budget -->"
EVALUATIONS = 12
GRADIENTS = {"bytes": 600, "digits": 300}
AGAINST = "adamw"
WITHIN = 1.2  # times AdamW's final loss is the target
GROWTH = 5  # rates that a grid grows by at most


class Row(NamedTuple):
    """An optimizer, and the rate in the middle of its grid."""

    constructor: Callable[..., optax.GradientTransformation]
    middle: float


class Found(NamedTuple):
    """What was found of one optimizer: every rate's curve and every seed's end."""

    curves: list[report.Curve]
    finals: Finals
    steps: int

    @property
    def best(self) -> report.Curve:
        return self.curves[self.finals.best]


NO_DECAY = {"weight_decay": 0.0}  # as AdamW here has none
TASKS: dict[str, dict[str, Row]] = {
    "bytes": {
        "adamw": Row(adamw, 1.6e-2),
        "adahessian": Row(optimizers.adahessian, 0.1),
        "sophia_g": Row(functools.partial(optimizers.sophia_g, **NO_DECAY), 4e-3),
        "sophia_h": Row(functools.partial(optimizers.sophia_h, **NO_DECAY), 4e-3),
    },
    "digits": {
        "adamw": Row(adamw, 8e-3),
        "sgd, momentum 0.9": Row(functools.partial(optax.sgd, momentum=0.9), 0.05),
        "oasis": Row(optimizers.oasis, 0.05),
        "sania": Row(optimizers.sania, 2.0),
        "mfac": Row(optimizers.mfac, 8e-3),
        "mfac, damping 1": Row(functools.partial(optimizers.mfac, damping=1.0), 0.4),
        "aegd": Row(optimizers.aegd, 0.4),
        "induced_metric": Row(optimizers.induced_metric, 0.4),
    },
}


@dataclasses.dataclass
class Budget(Options):
    tasks: tuple[str, ...] = tuple(TASKS)
    """What is trained: bytes (a small transformer), digits (a perceptron)."""
    optimizers: tuple[str, ...] = ()
    """Which optimizers, AdamW among them; none given: all of the task."""
    gradients: int | None = None
    """The budget of a run; None: 600 for bytes, 300 for digits, with --quick 48."""
    seeds: int | None = None
    """How many seeds, counted from 0; None: 3, with --quick 1."""
    rates: int | None = None
    """How many learning rates to begin with; None: 5, with --quick 1."""
    out: pathlib.Path = pathlib.Path("results/budget")
    """Where the curves go."""
    readme: pathlib.Path | None = None
    """Rewrite the part of this file between its marks; pictures and the numbers behind
    the table go beside it."""


def found(name: str, row: Row, where: str, options: Budget) -> Found:
    """Trains what is missing of one optimizer on a task."""
    budget = options.gradients or (48 if options.quick else GRADIENTS[where])
    seeds = tuple(range(options.seeds or (1 if options.quick else 3)))
    folder = options.out / where / str(budget)
    folder.mkdir(parents=True, exist_ok=True)
    count = options.rates or (1 if options.quick else 5)
    rates: tuple[float, ...] | None = grid(row.middle, count)
    task, _ = ablate.TASKS[where](config.Ablate())
    one = {name: row.constructor}
    plan = sweep.Plan((), seeds, 0, max(1, budget // EVALUATIONS), gradients=budget)
    plan = sweep.priced(task, one, plan)
    steps, _ = plan.of(name)
    cost = {name: plan.costs[name].about(steps)}
    while rates is not None:
        with sweep.progress(console) as bars:
            sweep.train(task, one, plan._replace(rates=rates), folder, bars)
        rows = results.read(folder / "curves.jsonl")
        runs = [[results.Run(name, r, s) for s in seeds] for r in rates]
        finals = Finals(rates, [[final(r, rows) for r in of] for of in runs])
        about = {"optimizers": [name], "learning_rates": rates, "seeds": list(seeds)}
        curves = report.summarize(folder, about | {"cost": cost}).curves
        rates = grown(finals, count + GROWTH)
    return Found(curves, finals, steps)


def to_target(curve: report.Curve, target: float) -> tuple[float, float] | None:
    """(gradients, seconds) up to the first evaluation that reaches it, if any does."""
    at = report.reached(curve, target)
    return None if at is None else (curve.gradients[at], curve.seconds[at])


def section(where: str, of: dict[str, Found]) -> str:
    """The part of the document on one task."""
    target = WITHIN * of[AGAINST].best.final
    lines = [
        f"### {where}",
        "",
        "| optimizer | best rate | gradients a step | steps | final loss, 95 % "
        f"| gradients to {target:.3g} | seconds to {target:.3g} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in of.items():
        i, there = one.finals.best, to_target(one.best, target)
        edge = " (edge)" if i in (0, len(one.curves) - 1) else ""
        half = spread(one.finals.finals[i])
        loss = f"{one.finals.means[i]:.4g}"
        loss += f" ± {half:.2g}" if math.isfinite(half) else ""
        reach = ("not reached", "") if there is None else map("{:.3g}".format, there)
        cells = [
            f"`{name}`",
            f"{one.best.learning_rate:.3g}{edge}",
            f"{one.best.cost:.3f}",
            str(one.steps),
            loss,
            *reach,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shown = f"![{where}](budget_{where}.png)"
    return "\n".join([*lines, "", shown, ""])


def picture(where: str, of: dict[str, Found], path: pathlib.Path) -> None:
    """Final loss against learning rate; loss against gradients at the best rate."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, one in of.items():
        halves = [spread(f) for f in one.finals.finals]
        rates, means = np.asarray(one.finals.rates), np.asarray(one.finals.means)
        left.errorbar(rates, means, halves, label=name, capsize=2, marker=".")
        right.plot(one.best.gradients, one.best.losses, marker=".", label=name)
    top = [one.best.losses[0] for one in of.values() if one.best.losses]
    ends = [one.best.final for one in of.values() if math.isfinite(one.best.final)]
    right.set_ylim(0.95 * min(ends), 1.05 * max(top))
    left.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="final loss")
    right.set(xlabel="gradients", title="at the best rate")
    left.legend(fontsize="small")
    left.set_title(where)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def kept(every: dict[str, dict[str, Found]]) -> str:
    """The numbers behind the tables, as JSON lines; versions first."""
    versions = {"jax": jax.__version__, "optax": optax.__version__}
    versions |= {"orthoptax": __version__, "numpy": np.__version__}
    rows: list[dict[str, Any]] = [versions]
    for where, of in every.items():
        for name, one in of.items():
            for curve, finals in zip(one.curves, one.finals.finals, strict=True):
                ends = [x if math.isfinite(x) else None for x in finals]
                rows.append({"task": where, "finals": ends} | short(name, curve))
    return "".join(json.dumps(row) + "\n" for row in rows)


def short(name: str, curve: report.Curve) -> dict[str, Any]:
    """A curve with as many digits as it needs."""
    digits = lambda values: [float(f"{x:.6g}") for x in values]
    return {
        "optimizer": name,
        "learning_rate": curve.learning_rate,
        "gradients_per_step": curve.cost,
        "diverged_at": curve.diverged_at,
        "steps": curve.steps,
        "losses": digits(curve.losses),
        "seconds": digits(curve.seconds),
    }


def run(options: Budget) -> list[Record]:
    records, every = [], {}
    for where in options.tasks:
        rows = TASKS[where]
        names = options.optimizers or tuple(rows)
        of = {n: found(n, rows[n], where, options) for n in names if n in rows}
        every[where] = of
        for name in (n for n in of if n != AGAINST):
            losses = (min(of[n].finals.means) for n in (name, AGAINST))
            case = f"{where}: {name} against {AGAINST}: final loss"
            a, b = losses
            if math.isfinite(a) and math.isfinite(b):
                records.append(record("budget", case, a, b, "loss"))
    if options.readme is not None:
        folder = options.readme.parent
        for where, of in every.items():
            picture(where, of, folder / f"budget_{where}.png")
        (folder / "results").mkdir(exist_ok=True)
        (folder / "results" / "budget.jsonl").write_text(kept(every))
        before, _, rest = options.readme.read_text().partition(BEGIN)
        when = f"{datetime.date.today()}, jax {jax.__version__}."
        body = "\n".join(section(where, of) for where, of in every.items())
        rest = rest.partition(END)[2]
        text = f"{before}{BEGIN}\n\n{body}\n{when}\n\n{END}{rest}"
        options.readme.write_text(text)
    return records


if __name__ == "__main__":
    main(run, Budget)
