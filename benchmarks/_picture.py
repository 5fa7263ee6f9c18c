# SPDX-License-Identifier: Apache-2.0
"""Points with their names beside them, none over another."""

import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

COLOURS = {"ours": "#c1272d", "optax": "#0b5fa5", "published": "#6b6b6b"}
"""By whose it is."""
NAMES = 7.5  # points
RADII = (9, 15, 22, 30, 40, 52, 66, 82, 100)  # pixels from a point to its name
ANGLES = 24


class Point(NamedTuple):
    name: str
    by: str
    x: float
    y: float


class Words(NamedTuple):
    """Above all panels, and of the axes."""

    title: str
    x: str
    y: str


def draw(
    panels: dict[str, list[Point]],
    words: Words,
    joined: tuple[str, ...] = (),
    file: pathlib.Path | None = None,
) -> Figure:
    """One panel for each key, two in a row, with common axes.

    joined: names of points that a line goes through.
    """
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (7.2 * columns, 5.4 * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(words.title)
    points = [p for panel in panels.values() for p in panel]
    for axis, (name, panel) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(name, fontsize="medium")
        axis.set(xlabel=words.x, ylabel=words.y)
        axis.set_xlim(0, 1.08 * max(p.x for p in points))
        axis.set_ylim(0, 1.12 * max(p.y for p in points))
        axis.grid(alpha=0.25)
        line = sorted((p.x, p.y) for p in panel if p.name in joined)
        axis.plot(*np.reshape(line, (-1, 2)).T, color=COLOURS["ours"], lw=1, alpha=0.6)
        for by, colour in COLOURS.items():
            of = [p for p in panel if p.by == by]
            marker = "D" if by == "ours" else "o"
            axis.scatter(
                [p.x for p in of],
                [p.y for p in of],
                s=34 if by == "ours" else 20,
                color=colour,
                marker=marker,
                label=by,
                zorder=3,
            )
        axis.legend(loc="upper right", fontsize="small")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.draw_without_rendering()  # places are known from here on
    figure.set_layout_engine("none")
    for axis, panel in zip(axes.flat, panels.values(), strict=False):
        name_points(axis, panel, renderer)
    if file is not None:
        figure.savefig(file, metadata={"Software": None})
    return figure


def name_points(axis: Any, points: list[Point], renderer: Any) -> None:
    """Writes every name where nothing else is, nearest places first."""
    where = axis.transData.transform([(p.x, p.y) for p in points])
    inside = axis.get_window_extent(renderer)
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in where]
    taken.append(axis.get_legend().get_window_extent(renderer))
    first = sorted(range(len(points)), key=lambda i: points[i].by != "ours")
    for i in first:
        p = points[i]
        text = axis.annotate(
            p.name,
            (p.x, p.y),
            xytext=(0, 0),
            textcoords="offset pixels",
            fontsize=NAMES,
            color=COLOURS[p.by],
            fontweight="bold" if p.by == "ours" else "normal",
            va="center",
            ha="center",
        )
        size = text.get_window_extent(renderer)
        place = free_place(where[i], size.width, size.height, inside, taken)
        taken.append(box(where[i] + place, size.width, size.height))
        text.set_position(tuple(place))
        join(axis, where[i], taken[-1], COLOURS[p.by])


def join(axis: Any, point: np.ndarray, name: Bbox, colour: str) -> None:
    """A thin line from a point to a name that does not touch it."""
    edge = np.clip(point, (name.x0, name.y0), (name.x1, name.y1))
    if np.linalg.norm(edge - point) > RADII[0]:
        (x0, y0), (x1, y1) = axis.transData.inverted().transform([point, edge])
        axis.plot([x0, x1], [y0, y1], color=colour, lw=0.5, alpha=0.7, zorder=2)


def free_place(
    point: np.ndarray, width: float, height: float, inside: Bbox, taken: list[Bbox]
) -> np.ndarray:
    """From a point to the middle of its name: the nearest free place, or the freest."""
    best, least = np.zeros(2), math.inf
    for offset in places(width, height):
        name = box(point + offset, width, height)
        over = sum(overlap(name, other) for other in taken)
        out = width * height - overlap(name, inside)
        if over + out < 1e-3:  # rounding
            return offset
        if over + out < least:
            best, least = offset, over + out
    return best


def places(width: float, height: float) -> Iterable[np.ndarray]:
    """Middles of a name around a point, the nearest first."""
    for radius in RADII:
        for angle in np.linspace(0, 2 * np.pi, ANGLES, endpoint=False):
            reach = np.array([width / 2 + radius, height / 2 + radius])
            yield reach * np.array([np.cos(angle), np.sin(angle)])


def box(middle: np.ndarray, width: float, height: float) -> Bbox:
    x, y = middle
    return Bbox.from_extents(
        x - width / 2, y - height / 2, x + width / 2, y + height / 2
    )


def overlap(a: Bbox, b: Bbox) -> float:
    """The area that two boxes share."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, wide) * max(0.0, high)
