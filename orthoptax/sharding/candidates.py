# SPDX-License-Identifier: Apache-2.0
"""The placements that a plan compares. One more is one more function in `CANDIDATES`.

Each takes the `Question` and returns a `Candidate`, or None where it would be the same
as another.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orthoptax._types import Place
from orthoptax.layout.links import here
from orthoptax.sharding.calls import Call
from orthoptax.sharding.cost import Cost, exchange_cost, total
from orthoptax.sharding.cuts import cuts_of
from orthoptax.sharding.notes import notes
from orthoptax.sharding.whole import WholeMatrices


@dataclasses.dataclass(frozen=True)
class Question:
    """What is to be placed.

    calls: of the optimizer. specs: {leaf name: PartitionSpec}. sizes: of every mesh
    axis. mesh: if there is one. transport: dtype of travelling updates, or None. costs:
    those of whole matrices, by the axes they use, once worked out.
    """

    calls: Sequence[Call]
    specs: Mapping[str, Any]
    sizes: Mapping[str, int]
    mesh: Any
    transport: Any
    costs: dict[tuple[str, ...], Cost] = dataclasses.field(default_factory=dict)

    @property
    def cutting(self) -> tuple[str, ...]:
        """The mesh axes that cut some matrix."""
        used = {
            name
            for call in self.calls
            for leaf, known in call.about.items()
            for cut in cuts_of(self.specs[leaf], known.shape, self.sizes, leaf)
            for name in cut
        }
        return tuple(name for name in self.sizes if name in used)

    @property
    def sharing(self) -> tuple[str, ...]:
        """The mesh axes over which every matrix is whole, of more than one device."""
        cutting = self.cutting
        return tuple(n for n, k in self.sizes.items() if k > 1 and n not in cutting)

    def cost(self, axes: tuple[str, ...]) -> Cost:
        """The cost of whole matrices over these mesh axes."""
        if axes not in self.costs:
            self.costs[axes] = self._cost(axes)
        return self.costs[axes]

    def _cost(self, axes: tuple[str, ...]) -> Cost:
        costs = []
        for call in self.calls:
            plan = call.schedule(self.specs, self.sizes, axes, self.transport)
            for exchange in plan.exchanges:
                kernel = lambda kind, c=call, p=plan: c.unit_flops(kind, p.common)
                cost = exchange_cost(exchange, kernel)
                costs.append(dataclasses.replace(cost, notes=notes(exchange, cost)))
        return total(costs)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A placement.

    name: in the table. place: for `place=`. cost: None where it cannot be said. notes:
    a line each, before those of the cost.
    """

    name: str
    place: Place
    cost: Cost | None
    notes: tuple[str, ...] = ()


def _here(question: Question) -> Candidate:
    """The links on global arrays, as without any place."""
    if question.cutting:
        left = "left to the compiler, which moves what it likes: no prediction"
        return Candidate("here", here, None, (left,))
    devices = math.prod(question.sizes.values())
    again = f"all of the work on each of {devices} devices" if devices > 1 else ""
    return Candidate("here", here, question.cost(()), (again,) if again else ())


def _whole(question: Question) -> Candidate:
    """Whole matrices, the work shared out over all mesh axes."""
    axes = tuple(question.sizes)
    place = WholeMatrices(question.specs, question.mesh, None, question.transport)
    return Candidate("whole matrices", place, question.cost(axes))


def _restricted(question: Question) -> Candidate | None:
    """Whole matrices, each group of devices with equal parts for itself."""
    axes = question.cutting
    if not axes or question.cost(axes) == question.cost(tuple(question.sizes)):
        return None
    place = WholeMatrices(question.specs, question.mesh, axes, question.transport)
    again = f"every group along {' x '.join(question.sharing)} does the same work"
    name = f"whole matrices over {' x '.join(axes)}"
    return Candidate(name, place, question.cost(axes), (again,))


CANDIDATES: tuple[Callable[[Question], Candidate | None], ...] = (
    _here,
    _whole,
    _restricted,
)
"""In the order of the table; of equal ones the first is chosen."""
