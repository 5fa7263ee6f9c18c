# SPDX-License-Identifier: Apache-2.0
"""Pictures of results, as PNG bytes that depend on the numbers alone."""

import io
import math
from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from orthoptax.train.effects import Effect
from orthoptax.train.report import Curve, Summary, labels, short


def curves(summary: Summary) -> bytes:
    """Validation loss against step: every optimizer's best rate, the others faint."""
    return _curves(summary, "step", lambda curve: curve.steps)


def gradients(summary: Summary) -> bytes:
    """The same against what was spent, in gradients."""
    return _curves(summary, "gradients", lambda curve: curve.gradients)


def _curves(
    summary: Summary, title: str, along: Callable[[Curve], Sequence[float]]
) -> bytes:
    figure, axes = _axes(title)
    called = labels(summary.best)
    for index, (name, best) in enumerate(summary.best.items()):
        for curve in summary.curves:
            if curve.optimizer == name and curve is not best:
                axes.plot(along(curve), curve.losses, color=f"C{index}", alpha=0.2)
        label = f"{called[name]}, {best.learning_rate:g}"
        axes.plot(along(best), best.losses, "o-", color=f"C{index}", label=label, ms=3)
    _skip_the_fall(axes, summary)
    return _png(figure, axes, summary)


def learning_rates(summary: Summary) -> bytes:
    """Final validation loss against peak learning rate; diverged runs as crosses."""
    figure, axes = _axes("peak learning rate")
    axes.set_xscale("log")
    ticks = sorted({c.learning_rate for c in summary.curves})
    axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    axes.set_xticks([], minor=True)
    for index, (name, label) in enumerate(labels(summary.best).items()):
        mine = [c for c in summary.curves if c.optimizer == name]
        rates = [c.learning_rate for c in mine]
        finals = [c.final if math.isfinite(c.final) else math.nan for c in mine]
        axes.plot(rates, finals, "o-", color=f"C{index}", label=label)
        _crosses(axes, mine, index)
    return _png(figure, axes, summary)


def effects(found: list[list[Effect]]) -> bytes:
    """Difference from the base and its interval, a panel a task, a line a change."""
    changes = [effect.change for effect in found[0][1:]]
    size = (4 + 3.5 * len(found), 1.2 + 0.35 * len(changes))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, found, strict=True):
        axes.axvline(0, color="gray", lw=1)
        for row, effect in enumerate(group[1:]):
            if effect.difference is None:
                place = axes.get_yaxis_transform()
                axes.plot([0.98], [row], "x", color="C3", transform=place)
                continue
            axes.errorbar(
                effect.difference, row, xerr=effect.half_width, fmt="o", capsize=3
            )
        axes.set_title(group[0].task, fontsize="medium")
        axes.set_xlabel("validation loss minus the base's")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(changes)), map(short, changes))
    panels[0].invert_yaxis()
    return _bytes(figure)


def _skip_the_fall(axes: Axes, summary: Summary) -> None:
    """Leaves out of the picture what the first interval gains, where there are more."""
    rest = [loss for best in summary.best.values() for loss in best.losses[1:]]
    rest = [loss for loss in rest if math.isfinite(loss)]
    if len(rest) > len(summary.best) and max(rest) > min(rest):
        margin = 0.05 * (max(rest) - min(rest))
        axes.set_ylim(min(rest) - margin, max(rest) + margin)


def _crosses(axes: Axes, curves: list[Curve], index: int) -> None:
    """Marks diverged runs on the upper edge, a little apart by optimizer."""
    rates = [c.learning_rate for c in curves if c.diverged_at is not None]
    heights = [0.98 - 0.03 * index] * len(rates)
    place = axes.get_xaxis_transform()
    axes.plot(rates, heights, "x", color=f"C{index}", transform=place)


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(title)
    axes.set_ylabel("validation loss, nats/byte")
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Figure, axes: Axes, summary: Summary) -> bytes:
    bits = summary.manifest["data"]["zlib_bits_per_byte"]
    reference = f"zlib -9: {bits * math.log(2):.2f} nats/byte"
    axes.set_title(reference, loc="right", fontsize="small")
    axes.legend(loc="best", fontsize="small")
    return _bytes(figure)


def _bytes(figure: Figure) -> bytes:
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "orthoptax"}):
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
