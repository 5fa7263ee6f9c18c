# SPDX-License-Identifier: Apache-2.0
"""The planner: which placement costs least, and why, from shapes alone."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from orthoptax._check import message
from orthoptax._types import Place
from orthoptax.layout.leaves import parameters
from orthoptax.layout.wrap import on_matrices
from orthoptax.matrix.auto import auto
from orthoptax.matrix.orientation import small_side_first
from orthoptax.sharding.context import by_name
from orthoptax.sharding.planning.calls import Optimizer, calls
from orthoptax.sharding.planning.candidates import Candidate, cheapest, compared
from orthoptax.sharding.planning.cost import Cost
from orthoptax.sharding.planning.hardware import Hardware, hardware
from orthoptax.sharding.planning.models import specs as usual_specs
from orthoptax.sharding.planning.question import Question

COLUMNS = (
    "placement", "result MB", "ring MB", "collectives", "GFLOP", "temp. MB",
    "padding MB", "work / mean", "bytes / mean", "predicted ms",
)  # fmt: skip
CHOSEN = "* "
MEGA, GIGA, MILLI = 1e6, 1e9, 1e-3


@dataclasses.dataclass(frozen=True)
class Plan:
    """Placements, compared; its text is a table. Numbers are a device's and a step's.

    Args:
      candidates: every placement with its cost.
      chosen: the one with the least predicted time.
      sizes: of every mesh axis.
      hardware: the chip whose peaks were used.
    """

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    sizes: Mapping[str, int]
    hardware: Hardware

    @property
    def place(self) -> Place:
        """For `place=` of the optimizer."""
        return self.chosen.place

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values; what cannot be predicted is left out."""
        return {
            "mesh": dict(self.sizes),
            "hardware": self.hardware.name,
            "chosen": self.chosen.name,
            "placements": [self._row(candidate) for candidate in self.candidates],
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        """The table, then what is to be said of each placement."""
        rows = [self._row(candidate) for candidate in self.candidates]
        cells = [COLUMNS, *(self._cells(row) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [self._heading(), ""]
        for first, *numbers in cells:
            right = [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
        for row in rows:
            if row["notes"]:
                lines += ["", row["placement"]]
                lines += [f"  {note}" for note in row["notes"]]
        return "\n".join([*lines, "", FOOT])

    def _heading(self) -> str:
        axes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        devices = math.prod(self.sizes.values())
        return f"{devices} x {self.hardware.name} ({axes}); of one device, each step:"

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        """Everything about a placement."""
        cost = candidate.cost
        row: dict[str, Any] = {"placement": candidate.name}
        if cost is not None:
            work, size = cost.imbalance
            row |= {
                "result_bytes": cost.result_bytes,
                "ring_bytes": cost.ring_bytes,
                "collectives": len(cost.collectives),
                "flops": cost.total_flops,
                "temporary_bytes": cost.temporaries,
                "padding_bytes": cost.padding,
                "imbalance_flops": work,
                "imbalance_bytes": size,
                "floor_bytes": cost.floor,
                "seconds": cost.seconds(self.hardware),
            }
        own = () if cost is None else _on_the_floor(cost) + cost.notes
        return row | {"notes": [*candidate.notes, *own]}

    def _cells(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """A line of the table."""
        mark = CHOSEN if row["placement"] == self.chosen.name else " " * len(CHOSEN)
        name = mark + row["placement"]
        if "seconds" not in row:
            return (name, *["-"] * (len(COLUMNS) - 1))
        return (
            name,
            _scaled(row["result_bytes"], MEGA),
            _scaled(row["ring_bytes"], MEGA),
            f"{row['collectives']}",
            _scaled(row["flops"], GIGA),
            _scaled(row["temporary_bytes"], MEGA),
            _scaled(row["padding_bytes"], MEGA),
            f"{row['imbalance_flops']:.2f}",
            f"{row['imbalance_bytes']:.2f}",
            _scaled(row["seconds"], MILLI),
        )


FOOT = """\
* the least predicted time: work at the peak of its dtype, then ring bytes at the
bandwidth of one link; no latency, no memory traffic. Padding is part of the result
bytes; temporaries are an estimate."""


def plan(
    params: Any,
    mesh_shape: Any,
    specs: Any = None,
    hardware: str | Hardware = "v5p",
    *,
    optimizer: Optimizer | None = None,
    transport: DTypeLike | None = None,
) -> Plan:
    """Chooses where the matrix links of an optimizer run, from shapes alone.

    Neither devices nor memory are needed: the optimizer is traced on shapes, its
    exchanges are laid out as `whole_matrices` does, and each placement is priced.

        time = FLOPs / peak of their dtype + ring bytes / bandwidth of a link

    Args:
      params: a tree of arrays or shapes.
      mesh_shape: {axis: size}, or a mesh. With a mesh of devices, `place` carries it;
        else it is the one that is set where the optimizer is called.
      specs: a tree of PartitionSpec, those of `params`; None: those that
        `orthoptax.sharding.planning.models.specs` gives parameters of these names.
      hardware: a name in `orthoptax.sharding.planning.hardware.HARDWARE`, or a
        `Hardware`.
      optimizer: optimizer(place), for example `lambda place: muon(0.02, place=place)`;
        None: `auto()` on every matrix. Static.
      transport: see `whole_matrices`. Static.
    Returns: a `Plan`; pass its `place` to the optimizer, print it for the reasons.
    Raises: ValueError for a mesh, specs or leaves that do not fit each other, unknown
      hardware, a dtype without a peak; TypeError for leaves without a shape or an
      `optimizer` that is no function of a place.
    Example:
      >>> tree = {"dense": {"kernel": jax.ShapeDtypeStruct((64, 256), jnp.float32)}}
      >>> best = plan(tree, {"fsdp": 8})
      >>> best.chosen.name
      'whole matrices'
      >>> best.to_dict()["placements"][1]["result_bytes"]
      65536

    Source: ours; byte formulas as in `orthoptax.sharding.compiled.collectives`.
    """
    named = parameters(params, "plan")
    sizes, mesh = _mesh(mesh_shape)
    own, found = by_name(usual_specs(params, sizes) if specs is None else specs)
    recorded = calls(params, _polar if optimizer is None else optimizer)
    known = _known(own or {}, {n for call in recorded for n in call.about}, named)
    chip = _chip(hardware)
    question = Question(
        recorded,
        known,
        sizes,
        found if mesh is None else mesh,
        None if transport is None else jnp.dtype(transport),
        chip,
    )
    candidates = compared(question)
    return Plan(candidates, cheapest(candidates, question), sizes, chip)


_chip = hardware  # `plan` has an argument of that name


def _polar(place: Place) -> optax.GradientTransformation:
    """Every matrix replaced by its polar factor, and nothing else."""
    polar = small_side_first(auto())
    return on_matrices(
        optax.stateless(lambda u, _: jax.tree.map(polar, u)), place=place
    )


def _mesh(mesh_shape: Any) -> tuple[dict[str, int], Any]:
    """(sizes of the mesh axes, the mesh itself if it has devices)."""
    mesh = mesh_shape if isinstance(mesh_shape, jax.sharding.Mesh) else None
    shape = getattr(mesh_shape, "shape", mesh_shape)
    if not isinstance(shape, Mapping) or not shape:
        raise TypeError(
            message(
                "plan",
                f"mesh_shape={mesh_shape!r} names no axes",
                "a mesh, or {axis: size}",
                'Pass for example {"fsdp": 8, "tp": 2}',
            )
        )
    for axis, size in shape.items():
        whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not whole or size < 1:
            raise ValueError(
                message(
                    "plan",
                    f"mesh axis {axis!r} has size {size!r}",
                    "a positive integer",
                    "Correct the size",
                )
            )
    return {str(axis): int(size) for axis, size in shape.items()}, mesh


def _known(
    specs: Mapping[str, Any], matrices: set[str], named: Mapping[str, Any]
) -> dict[str, Any]:
    """The specs of the matrices; raises where one is missing."""
    missing = [n for n in named if n in matrices and n not in specs]
    if missing:
        raise ValueError(
            message(
                "plan",
                f"no spec for {missing[0]!r} ({len(missing)} leaves in all)",
                "a spec for every matrix, by the name of its leaf; None: replicated",
                "Pass specs of the same tree as the parameters",
            )
        )
    return {n: specs[n] for n in named if n in matrices}


def _on_the_floor(cost: Cost) -> tuple[str, ...]:
    """How far the bytes are from the least."""
    if not cost.collectives:
        return ()
    least = f"{cost.floor / MEGA:,.1f} MB"
    ratio = cost.result_bytes / cost.floor
    return (f"the floor is {least} of results; this is {ratio:.2f} x that",)


def _scaled(value: float, unit: float) -> str:
    """Three digits or more."""
    x = value / unit
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
