# SPDX-License-Identifier: Apache-2.0
"""What a step costs in gradients: counted in its program, no clock and no device.

    cost of step t = operations of the step that trains / those of loss and gradient

Operations are those of products and factorizations; what is linear in its arrays, Adam
say, counts as nothing. The program is taken as it is traced, without what no result
needs, and with what is done twice counted once.

A conditional or a loop that hangs on counters alone, as the clock of `with_curvature`
does, counts as it is decided at step t, if all numbers are finite. Any other
conditional counts as its dearest branch, any other loop as one run, which is then said.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from orthoptax.sharding.planning.traced import flops_of_equation
from orthoptax.train import loop
from orthoptax.train.names import Constructor
from orthoptax.train.programs import UNKNOWN, Equation, Program, carried
from orthoptax.train.tasks import Task


class Cost(NamedTuple):
    """Of one optimizer, in gradients.

    Args:
      spent: after 0, 1, ... steps.
      at_least: whether a loop of unknown length was counted as one run.
    """

    spent: np.ndarray
    at_least: bool

    def about(self, steps: int) -> dict[str, Any]:
        """What a results folder keeps of it."""
        average = float(self.spent[steps]) / steps
        return {"gradients_per_step": round(average, 6), "at_least": self.at_least}

    def steps(self, gradients: float) -> int:
        """How many steps cost no more than this, of those that were looked at."""
        return int(np.searchsorted(self.spent, gradients * (1 + 1e-9), "right")) - 1


def cost(task: Task, constructor: Constructor, steps: int) -> Cost:
    """Counts a run of so many steps.

    Args:
      task: on one device; a cost on a mesh is the same.
      constructor: of the optimizer.
      steps: of the run.
    """
    like, batch = (
        loop.shapes(task, constructor),
        jax.ShapeDtypeStruct(task.batch, jnp.uint8),
    )
    value_and_grad = jax.value_and_grad(task.loss)
    gradient = _count(_program(value_and_grad, like.params, batch), {}).flops
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    step = _program(loop.step(task, constructor, steps), like, rate, batch)
    decided = _decisions(step, lambda: loop.start(task, constructor, 0), steps)
    kinds, which = np.unique(
        np.stack([*decided.values(), np.zeros(steps, np.int32)], 1),
        axis=0,
        return_inverse=True,
    )
    counts = [
        _count(step, dict(zip(decided, map(int, kind), strict=False))) for kind in kinds
    ]
    each = np.asarray([c.flops for c in counts])[which.reshape(-1)] / gradient
    return Cost(
        np.concatenate([[0.0], np.cumsum(each)]), any(c.at_least for c in counts)
    )


def _program(function: Any, *shapes: Any) -> Program:
    traced = jax.make_jaxpr(function)(*shapes)
    return Program(traced.jaxpr, traced.consts)


def _decisions(step: Program, start: Any, steps: int) -> dict[int, np.ndarray]:
    """By equation, what is decided at each step.

    Args:
      step: its first inputs are the state, and its first results the next one.
      start: makes the first state.
      steps: how many.
    """
    leaves = jax.tree.leaves(jax.eval_shape(start))
    others = [False] * (len(step.ins) - len(leaves))
    known = [True] * len(leaves)
    while True:  # what follows from itself alone
        after = step.spread([*known, *others])[: len(leaves)]
        kept = [a and b for a, b in zip(known, after, strict=True)]
        if kept == known:
            break
        known = kept
    pick = lambda values: [x for x, k in zip(values, known, strict=False) if k]
    positions: list[int] = []

    def body(carry: list[Any], _: None) -> tuple[list[Any], list[Any]]:
        rest = iter(carry)
        ins = [next(rest) if k else UNKNOWN for k in known]
        results, decided = step.run([*ins, *[UNKNOWN] * len(others)])
        positions[:] = decided
        return pick(results), list(decided.values())

    @jax.jit
    def run() -> list[jax.Array]:
        return lax.scan(body, pick(jax.tree.leaves(start())), length=steps)[1]

    found = run()
    return dict(zip(positions, map(np.asarray, found), strict=True))


class _Count(NamedTuple):
    """Operations, the inputs that they need, and whether there may be more."""

    flops: float
    needed: list[bool]
    at_least: bool


def _count(
    program: Program, decided: Mapping[int, int], wanted: Sequence[bool] | None = None
) -> _Count:
    """Counts what these results of a program need; None: all of them."""
    wanted = [True] * len(program.outs) if wanted is None else wanted
    live = {out for out, w in zip(program.outs, wanted, strict=True) if w}
    flops, at_least = 0.0, False
    for position in reversed(range(len(program.equations))):
        equation = program.equations[position]
        if not live.intersection(equation.outs) and not equation.traced.effects:
            continue
        outs = [out in live for out in equation.outs]
        found = _equation(equation, outs, decided.get(position))
        flops, at_least = flops + found.flops, at_least or found.at_least
        live |= {i for i, n in zip(equation.ins, found.needed, strict=True) if n}
    return _Count(flops, [i in live for i in program.ins], at_least)


def _equation(equation: Equation, outs: list[bool], decided: int | None) -> _Count:
    """One equation and what it holds."""
    if equation.name == "cond":
        return _branches(equation, outs, decided)
    if equation.name == "scan":
        return _scan(equation, outs)
    everything = [True] * len(equation.ins)
    if equation.name == "while":
        parts = [_count(part, {}) for part in equation.inside]
        flops, trips = sum(part.flops for part in parts), decided
        inner = any(part.at_least for part in parts)
        unknown = inner or (trips is None and flops > 0)
        return _Count(flops * (1 if trips is None else trips), everything, unknown)
    parts = [_count(part, {}) for part in equation.inside]
    own = flops_of_equation(equation.traced).total() if not parts else 0.0
    inner = any(part.at_least for part in parts)
    return _Count(own + sum(part.flops for part in parts), everything, inner)


def _branches(equation: Equation, outs: list[bool], decided: int | None) -> _Count:
    """The branch that runs, or else the dearest."""
    taken = (
        equation.inside if decided is None else equation.inside[decided : decided + 1]
    )
    parts = [_count(part, {}, outs) for part in taken]
    needed = [any(n) for n in zip(*(part.needed for part in parts), strict=True)]
    dearest = max(parts, key=lambda part: part.flops)
    return _Count(dearest.flops, [True, *needed], any(part.at_least for part in parts))


def _scan(equation: Equation, outs: list[bool]) -> _Count:
    """All runs; what is carried is needed if a later run needs it."""
    consts, carries = carried(equation)
    while True:
        found = _count(equation.inside[0], {}, outs)
        again = found.needed[consts : consts + carries]
        grown = [a or b for a, b in zip(outs, again, strict=False)] + outs[carries:]
        if grown == outs:
            return found._replace(flops=found.flops * equation.traced.params["length"])
        outs = grown
