# SPDX-License-Identifier: Apache-2.0
"""What is to be placed, and what each way of doing so costs."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orthoptax.sharding.cuts import local_shape, parts_of
from orthoptax.sharding.parts import InParts, stays
from orthoptax.sharding.planning.calls import Call
from orthoptax.sharding.planning.cost import (
    Cost,
    exchange_cost,
    kernel_bytes,
    total,
)
from orthoptax.sharding.planning.hardware import Hardware
from orthoptax.sharding.planning.notes import notes
from orthoptax.sharding.planning.traced_moves import mesh_of, traced_on_mesh
from orthoptax.sharding.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Question:
    """What is to be placed.

    calls: of the optimizer. specs: {leaf name: PartitionSpec}. sizes: of every mesh
    axis. mesh: if there is one. transport: dtype of travelling updates, or None. chip:
    on which. costs: those worked out, by their way.
    """

    calls: Sequence[Call]
    specs: Mapping[str, Any]
    sizes: Mapping[str, int]
    mesh: Any
    transport: Any
    chip: Hardware
    costs: dict[Any, Cost] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def cutting(self) -> tuple[str, ...]:
        """The mesh axes that cut some matrix."""
        every = [call.cuts(self.specs, self.sizes) for call in self.calls]
        cuts = [cut for each in every for leaf in each.values() for cut in leaf]
        used = {name for cut in cuts for name in cut}
        return tuple(name for name in self.sizes if name in used)

    @property
    def sharing(self) -> tuple[str, ...]:
        """The mesh axes over which every matrix is whole, of more than one device."""
        cutting = self.cutting
        return tuple(n for n, k in self.sizes.items() if k > 1 and n not in cutting)

    @property
    def on_parts(self) -> bool:
        """Whether all links can work on a fraction of a matrix, in a team."""
        sums = [c.links.on_parts and not c.links.compresses for c in self._moved]
        return bool(sums) and all(sums)

    def teams(self) -> list[int]:
        """The sizes of teams that have something to do."""
        axes = tuple(self.sizes)
        for call in self._moved:
            self._plan(call, axes, 1)
        owners = [
            parts_of(cut + split, self.sizes)
            for call in self._moved
            for cut, split in call.groups[axes].groups
        ]
        most = math.gcd(*(n for n in owners if n > 1))
        return [
            team
            for team in range(2, most + 1)
            if most % team == 0
            and any(
                exchange.together
                for call in self._moved
                for exchange in self._plan(call, axes, team).exchanges
            )
        ]

    def cost(self, axes: tuple[str, ...], team: int = 1) -> Cost:
        """The cost of whole matrices over these mesh axes."""
        way = axes, team
        if way not in self.costs:
            costs = [c for call in self.calls for c in self._whole(call, axes, team)]
            self.costs[way] = total(costs)
        return self.costs[way]

    def cost_on_parts(self) -> Cost:
        """The cost of leaving matrices where they are.

        Raises: ValueError where the links cannot work on such parts.
        """
        if "parts" not in self.costs:
            self.costs["parts"] = total(map(self._parts, self.calls))
        return self.costs["parts"]

    @functools.cached_property
    def _moved(self) -> list[Call]:
        """The calls whose matrices `whole_matrices` moves."""
        return [call for call in self.calls if not self._stays(call)]

    def _stays(self, call: Call) -> bool:
        """Whether `whole_matrices` leaves these where they are."""
        return stays(call.links, call.about, call.cuts(self.specs, self.sizes))

    def _plan(self, call: Call, axes: tuple[str, ...], team: int) -> Schedule:
        return call.schedule(self.specs, self.sizes, axes, self.transport, team)

    def _whole(self, call: Call, axes: tuple[str, ...], team: int) -> list[Cost]:
        if self._stays(call):
            return [self._parts(call)]
        plan = self._plan(call, axes, team)
        costs = []
        for exchange in plan.exchanges:
            kernel = lambda kind: call.unit_flops(kind, plan.common, self.chip.platform)
            joint = call.joint_work(exchange, plan.common, self.chip.platform)
            cost = exchange_cost(exchange, kernel, joint)
            costs.append(dataclasses.replace(cost, notes=notes(exchange, cost)))
        return costs

    def _parts(self, call: Call) -> Cost:
        """Matrices where they are: counted from a trace of the links."""
        place = InParts(self.specs, mesh_of(self.sizes))
        run, shapes = call.update_at(place)
        on = self.chip.platform
        flops, moves = traced_on_mesh(run, self.sizes, *shapes, platform=on)
        cuts = call.cuts(self.specs, self.sizes)
        held, kernels = 0, []
        for name, leaf in call.about.items():
            part = local_shape(leaf.shape, cuts[name], self.sizes)
            word = call.dtypes["updates"][name].itemsize
            held += math.prod(part) * word
            kernels += [kernel_bytes(s[-2:]) for s in leaf.view.shapes(part)]
        some = len(call.about)
        note = f"{some} {'leaf' if some == 1 else 'leaves'}: in parts, where they are"
        return Cost(
            moves,
            flops,
            flops.total(),
            max(kernels),
            work_bytes=held,
            mean_work_bytes=held,
            floor=2 * held,
            notes=(note,),
        )
