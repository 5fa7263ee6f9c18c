# SPDX-License-Identifier: Apache-2.0
"""Every optimizer at every learning rate with every seed: the runs of a command."""

import contextlib
import importlib.metadata
import itertools
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

import orthoptax
from orthoptax.train import loop, processes, report, results, tasks
from orthoptax.train.chains import ChainOptimizer
from orthoptax.train.config import UsageError, parts
from orthoptax.train.costs import Cost, cost
from orthoptax.train.names import Constructor

PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "orbax-checkpoint")


class Plan(NamedTuple):
    """The grid of a sweep, and the length of its runs."""

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    evaluate_every: int
    costs: Mapping[str, Cost] = MappingProxyType({})
    gradients: int | None = None

    def of(self, name: str) -> tuple[int, int]:
        """(steps, steps between two evaluations) of the runs of one optimizer."""
        if self.gradients is None:
            return self.steps, min(self.evaluate_every, self.steps)
        steps = self.costs[name].steps(self.gradients)
        return steps, max(1, round(self.evaluate_every * steps / self.gradients))


def train(
    task: tasks.Task,
    constructors: Mapping[str, Constructor],
    plan: Plan,
    folder: Path,
    progress: Progress,
) -> None:
    """Runs what the folder does not hold complete; one compilation an optimizer."""
    evaluate = loop.evaluator(task)
    grid = list(itertools.product(plan.rates, plan.seeds))
    total = len(grid) * sum(plan.of(name)[0] for name in constructors)
    bar = progress.add_task("", total=total)
    for name, constructor in constructors.items():
        steps, interval = plan.of(name)
        runs = [results.Run(name, rate, seed) for rate, seed in grid]
        rows = results.read(folder / "curves.jsonl")
        left = [r for r in runs if not results.is_complete(r, rows, steps)]
        progress.advance(bar, steps * (len(runs) - len(left)))
        if not left:
            continue
        shown = report.short(name)
        progress.update(bar, description=f"{shown}  compiling")
        trainer, seconds = loop.trainer(task, constructor, steps, interval, evaluate)
        results.record_compilation(folder, name, seconds)
        for run in left:
            before = next(t.completed for t in progress.tasks if t.id == bar)

            def show(
                at: loop.Progress, before: float = before, shown: str = shown
            ) -> None:
                text = (
                    f"{report.short(at.run.optimizer)}  rate {at.run.learning_rate:g}"
                )
                progress.update(
                    bar,
                    completed=before + at.step,
                    description=f"{text}  loss {at.loss:.3f}",
                )

            loop.train(run, trainer, folder, steps, interval, show)
            progress.update(bar, completed=before + steps)
            if progress.disable and processes.is_first():
                last = results.of(run, results.read(folder / "curves.jsonl"))[-1]
                progress.console.print(
                    report.run_line(last),
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )


def progress(console: Console) -> Progress:
    """A bar a sweep; without a terminal, a line a run."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def manifest(
    task: tasks.Task, constructors: Mapping[str, Constructor], plan: Plan
) -> dict[str, Any]:
    """What decides the numbers of any sweep, and no path or time.

    Raises: UsageError for an optimizer that this model's parameters do not suit.
    """
    length: dict[str, Any] = {"steps": plan.steps}
    if plan.gradients is not None:
        steps = {name: plan.of(name)[0] for name in constructors}
        length = {"gradients": plan.gradients, "steps": steps}
    if plan.costs:
        length["cost"] = {
            name: plan.costs[name].about(plan.of(name)[0]) for name in constructors
        }
    return {
        "optimizers": list(constructors),
        "learning_rates": list(plan.rates),
        "seeds": list(plan.seeds),
        **length,
        "evaluate_every": plan.evaluate_every,
        "warmup": loop.WARMUP,
        "optimizer_state_bytes": {
            name: _bytes(name, task, constructor)
            for name, constructor in constructors.items()
        },
        "platform": jax.default_backend(),
        "versions": {
            "orthoptax": orthoptax.__version__,
            "python": platform.python_version(),
        }
        | {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def priced(
    task: tasks.Task, constructors: Mapping[str, Constructor], plan: Plan
) -> Plan:
    """The plan, with what every optimizer's steps cost.

    Args:
      task: on one device.
      constructors: of the optimizers.
      plan: without costs.
    Raises: UsageError for an optimizer that this model's parameters do not suit, or a
      single step of which is over the budget.
    """
    steps = plan.gradients or plan.steps  # a step costs a gradient at least
    found = {}
    for name, constructor in constructors.items():
        with _explained(name, constructor):
            found[name] = cost(task, constructor, steps)
        if plan.gradients is not None and not found[name].steps(plan.gradients):
            raise UsageError(
                f"a step of {report.short(name)} costs {found[name].spent[1]:.1f} "
                f"gradients, more than --gradients {plan.gradients}",
                "a budget of several steps",
                "Change --gradients",
            )
    return plan._replace(costs=found)


@contextlib.contextmanager
def _explained(name: str, constructor: Constructor) -> Iterator[None]:
    """Says of which chain an error is."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not isinstance(constructor, ChainOptimizer):
            raise  # a named optimizer fits every model; this is a bug of ours
        fallback = "an optimizer for its parameters", "Change the optimizer"
        wrong, expected, action = parts(error, *fallback)
        what = f"{report.short(name)} fails on this model: {wrong}"
        raise UsageError(what, expected, action) from error


def _bytes(name: str, task: tasks.Task, constructor: Constructor) -> int:
    with _explained(name, constructor):
        return tasks.state_bytes(task, constructor)
