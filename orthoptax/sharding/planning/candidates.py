# SPDX-License-Identifier: Apache-2.0
"""The placements that a plan compares. One more is one more function in `CANDIDATES`.

Each takes the `Question` and returns a `Candidate`, or None where it would be the same
as another or is not possible.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from orthoptax._types import Place
from orthoptax.layout.links import here
from orthoptax.sharding.parts import InParts
from orthoptax.sharding.planning.cost import Cost
from orthoptax.sharding.planning.question import Question
from orthoptax.sharding.whole import WholeMatrices


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


def compared(question: Question) -> tuple[Candidate, ...]:
    """Every placement that is possible."""
    made = [candidate(question) for candidate in CANDIDATES]
    return tuple(c for c in made if c is not None)


def cheapest(candidates: Sequence[Candidate], question: Question) -> Candidate:
    """The one with the least predicted time."""
    priced = [(c, c.cost) for c in candidates if c.cost is not None]
    return min(priced, key=lambda pair: pair[1].seconds(question.chip))[0]


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
    kernel = (
        "teams of devices on those that do not go evenly, with links that sum over the "
        "long side: polar=gram_newton_schulz()"
    )
    could = not question.on_parts and question.teams()
    notes = (kernel,) if could else ()
    return Candidate("whole matrices", place, question.cost(axes), notes)


def _restricted(question: Question) -> Candidate | None:
    """Whole matrices, each group of devices with equal parts for itself."""
    axes = question.cutting
    if not axes or question.cost(axes) == question.cost(tuple(question.sizes)):
        return None
    place = WholeMatrices(question.specs, question.mesh, axes, question.transport)
    again = f"every group along {' x '.join(question.sharing)} does the same work"
    name = f"whole matrices over {' x '.join(axes)}"
    return Candidate(name, place, question.cost(axes), (again,))


def _teams(question: Question) -> Candidate | None:
    """Whole matrices as far as they go, the rest by the teams that take least time."""
    sizes = question.teams() if question.on_parts else []
    if not sizes:
        return None
    axes = tuple(question.sizes)
    seconds = lambda team: question.cost(axes, team).seconds(question.chip)
    team = min(sizes, key=seconds)
    cost, alone = question.cost(axes, team), question.cost(axes)
    place = WholeMatrices(question.specs, question.mesh, None, question.transport, team)
    ratios = (
        f"{new / old:.2f} x the {what}"
        for what, new, old in (
            ("result bytes", cost.result_bytes, alone.result_bytes),
            ("operations", cost.total_flops, alone.total_flops),
        )
        if old
    )
    note = f"beside whole matrices alone {' and '.join(ratios)}"
    return Candidate(f"whole matrices, teams of {team}", place, cost, (note,))


def _parts(question: Question) -> Candidate | None:
    """Matrices where they are, products summed over the axes that cut them."""
    if not (question.cutting and all(c.links.on_parts for c in question.calls)):
        return None
    try:
        cost = question.cost_on_parts()
    except ValueError:  # cut along a side that the links do not sum over
        return None
    place = InParts(question.specs, question.mesh)
    return Candidate("in parts", place, cost)


CANDIDATES: tuple[Callable[[Question], Candidate | None], ...] = (
    _here,
    _whole,
    _restricted,
    _teams,
    _parts,
)
"""In the order of the table; of equal ones the first is chosen."""
