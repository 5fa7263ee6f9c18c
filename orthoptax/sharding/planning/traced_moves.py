# SPDX-License-Identifier: Apache-2.0
"""Collectives of a function that is traced for a mesh, with no devices needed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from orthoptax.sharding.compiled.collectives import Collective
from orthoptax.sharding.planning.traced import Flops, flops_of, programs_within

MOVES = {  # what JAX calls a collective: what a compiler makes of it
    "psum": "all-reduce",
    "psum_invariant": "all-reduce",
    "pmax": "all-reduce",
    "pmin": "all-reduce",
    "all_gather": "all-gather",
    "all_to_all": "all-to-all",
    "reduce_scatter": "reduce-scatter",
}


def traced_on_parts(
    function: Callable[..., Any],
    sizes: Mapping[str, int],
    *shapes: Any,
    platform: str | None = None,
) -> tuple[Flops, tuple[Collective, ...]]:
    """Operations and collectives of one device's code.

    Args:
      function: of arrays, with collectives over the axes of a mesh.
      sizes: of the mesh axes; no devices are needed.
      *shapes: as for `traced_flops`, those of one device's arrays.
      platform: as for `traced_flops`.
    Returns: (operations as of `traced_flops`, its collectives).
    Example:
      >>> x = jax.ShapeDtypeStruct((4,), "float32")
      >>> add = lambda x: jax.lax.psum(x, "fsdp")
      >>> [c] = traced_on_parts(add, {"fsdp": 8}, x)[1]
      >>> c.kind, c.result_bytes, c.group_size
      ('all-reduce', 16, 8)

    Source: ours.
    """
    mapped = jax.shard_map(
        function, mesh=mesh_of(sizes), in_specs=P(), out_specs=P(), check_vma=False
    )
    return traced_on_mesh(mapped, sizes, *shapes, platform=platform)


def traced_on_mesh(
    function: Callable[..., Any],
    sizes: Mapping[str, int],
    *shapes: Any,
    platform: str | None = None,
) -> tuple[Flops, tuple[Collective, ...]]:
    """The same of a function that does all its work in a `shard_map`.

    Args:
      function: of whole arrays.
      sizes: of the axes of its mesh.
      *shapes: of whole arrays.
      platform: as for `traced_flops`.
    """
    with jax.sharding.use_abstract_mesh(mesh_of(sizes)):
        jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr
    return flops_of(jaxpr, platform), tuple(_Moves(sizes).of(jaxpr))


def mesh_of(sizes: Mapping[str, int]) -> AbstractMesh:
    """A mesh without devices."""
    types = (AxisType.Auto,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types)


class _Moves:
    """The collectives of a program as a compiler leaves them.

    It merges reductions of one form that do not wait for each other: here, those before
    which as many others have to be done.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.found: dict[Any, Collective] = {}

    def of(self, program: Any) -> list[Collective]:
        """Those of a whole program."""
        self.visit(program, [0] * len(program.invars))
        return list(self.found.values())

    def visit(self, program: Any, waits: Sequence[int]) -> list[int]:
        """Goes through the equations.

        Args:
          program: whose.
          waits: how many collectives each input has waited for.
        Returns: the same of its outputs.
        """
        known = dict(zip(map(id, program.invars), waits, strict=True))
        for equation in program.eqns:
            before = [known.get(id(v), 0) for v in equation.invars]
            after = self.equation(equation, before)
            known |= dict(zip(map(id, equation.outvars), after, strict=True))
        return [known.get(id(v), 0) for v in program.outvars]

    def equation(self, equation: Any, before: list[int]) -> list[int]:
        """One equation and what it calls, as `visit`."""
        name, outs = equation.primitive.name, equation.outvars
        last = max(before, default=0)
        if name in MOVES:
            self.add(equation, last)
            return [last + 1] * len(outs)
        inside = list(programs_within(equation))
        plain = len(inside) == 1 and name not in ("scan", "while")
        if plain and len(inside[0].invars) == len(before):
            return self.visit(inside[0], before)
        often = equation.params["length"] if name == "scan" else 1
        moves = [c for program in inside for c in _Moves(self.sizes).of(program)]
        for i, move in enumerate(moves * often):
            self.found[id(equation), i] = move
        return [last + bool(moves)] * len(outs)

    def add(self, equation: Any, last: int) -> None:
        """A collective before which so many others are done."""
        name, params = equation.primitive.name, equation.params
        groups = params.get("axis_index_groups")
        axes = params["axes"] if "axes" in params else params["axis_name"]
        axes = (axes,) if isinstance(axes, str) else axes
        group = len(groups[0]) if groups else math.prod(self.sizes[a] for a in axes)
        for out in equation.outvars:
            size = math.prod(out.aval.shape) * out.aval.dtype.itemsize
            merged = MOVES[name] == "all-reduce"
            form = name, axes, str(groups), out.aval.dtype, last
            key = form if merged else (form, id(out))
            size += self.found[key].result_bytes if key in self.found else 0
            self.found[key] = Collective(MOVES[name], size, group, 1, False, "")
