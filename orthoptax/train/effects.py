# SPDX-License-Identifier: Apache-2.0
"""What each change of an ablation did to the loss, with confidence intervals.

Every chain is judged at the best of the same learning rates. A seed gives the same
initial weights and batches to all, so differences are taken seed by seed, and their
mean lies within t(n - 1) s / sqrt(n) of the true one in 95 of 100 experiments.
"""

import io
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

from orthoptax.train import report, results
from orthoptax.train.variants import Variant

CONFIDENCE = 0.95
NOTES = """\
difference: final validation loss minus the base's, mean over {seeds} seeds, each chain
at its best rate, with its {percent:.0f}% interval (Student's t, paired by seed; each
interval by itself: of twenty without effect, one misses zero).{edge}"""


class Effect(NamedTuple):
    """One change on one task; what is null could not be had, as a run diverged."""

    task: str
    change: str
    dropped: bool
    chain: str
    learning_rate: float | None
    at_edge: bool
    losses: list[float]
    difference: float | None
    half_width: float | None
    verdict: str


def effects(
    folder: Path, task: str, manifest: dict[str, Any], variants: list[Variant]
) -> list[Effect]:
    """The effects on a task, from the rows of its folder; the base comes first."""
    rows = results.read(folder / "curves.jsonl")
    rates, seeds = manifest["learning_rates"], manifest["seeds"]
    finals = {
        (variant.chain, rate): [
            _final(results.of(results.Run(variant.chain, rate, seed), rows))
            for seed in seeds
        ]
        for variant in variants
        for rate in rates
    }
    found: list[Effect] = []
    for variant in variants:
        at = min(rates, key=lambda rate: statistics.fmean(finals[variant.chain, rate]))
        losses = finals[variant.chain, at]
        finite = all(map(math.isfinite, losses))
        base = found[0].losses if found else losses
        mean, half = paired(losses, base) if finite and base else (None, None)
        effect = Effect(
            task,
            variant.change,
            variant.dropped,
            variant.chain,
            at if finite else None,
            finite and at in (min(rates), max(rates)),
            losses if finite else [],
            mean,
            half,
            "",
        )
        found.append(effect._replace(verdict=_verdict(effect, is_base=not found)))
    return found


def _final(rows: list[results.Row]) -> float:
    """The last loss of a run, infinite if it diverged."""
    last = rows[-1]
    return math.inf if last["diverged_at"] is not None else last["validation_loss"]


def paired(losses: list[float], base: list[float]) -> tuple[float, float]:
    """Mean difference, and half the width of its confidence interval."""
    difference = np.asarray(losses) - np.asarray(base)
    n = len(difference)
    t = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))
    return float(difference.mean()), t * float(difference.std(ddof=1)) / math.sqrt(n)


def _verdict(effect: Effect, *, is_base: bool) -> str:
    if is_base or effect.difference is None or effect.half_width is None:
        ended = "" if is_base else "base diverged"
        return ended if effect.losses else "diverged"
    if abs(effect.difference) <= effect.half_width:
        return "no difference shown"
    if effect.difference > 0:
        return "earns its keep" if effect.dropped else "base is better"
    return "better without" if effect.dropped else "replacement is better"


def text(found: list[Effect], manifest: dict[str, Any]) -> str:
    """The table of one task."""
    out = io.StringIO()
    console = Console(
        file=out, width=report.WIDTH, color_system=None, highlight=False, markup=False
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("change", max_width=report.LABEL)
    for title in ("rate", manifest["unit"], "difference"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for effect in found:
        table.add_row(effect.change, *_cells(effect), effect.verdict)
    console.print(f"{found[0].task}: {found[0].chain}", soft_wrap=True)
    console.print(table)
    console.print(
        NOTES.format(
            seeds=len(manifest["seeds"]),
            percent=100 * CONFIDENCE,
            edge=report.EDGE if any(effect.at_edge for effect in found) else "",
        ),
        soft_wrap=True,
    )
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def _cells(effect: Effect) -> list[str]:
    if effect.learning_rate is None:
        return ["-", "-", "-"]
    edge = "<" if effect.at_edge else ""
    cells = [
        f"{edge}{effect.learning_rate:g}",
        f"{statistics.fmean(effect.losses):.4f}",
    ]
    if effect.change == "base" or effect.difference is None:
        return [*cells, "-"]
    return [*cells, f"{effect.difference:+.4f} \u00b1 {effect.half_width:.4f}"]
