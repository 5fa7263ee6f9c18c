# SPDX-License-Identifier: Apache-2.0
"""A traced program as one list of equations: calls written out, nothing done twice."""

from collections.abc import Container, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

UNKNOWN = object()
"""What stands for a value that depends on more than what is known."""
APART = ("scan", "while", "cond", "remat", "checkpoint", "shard_map")
"""Equations that hold programs and are no mere calls."""


class Equation(NamedTuple):
    """An equation of a trace, on numbered values; `inside`: the programs it holds."""

    traced: Any
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    inside: "tuple[Program, ...]"

    @property
    def name(self) -> str:
        return self.traced.primitive.name


class Program:
    """The equations of a jaxpr in order.

    Args:
      jaxpr: as in what `jax.make_jaxpr` returns.
      consts: the values of its constants.
    """

    def __init__(self, jaxpr: Any, consts: Sequence[Any] = ()) -> None:
        self.equations: list[Equation] = []
        self._constants: dict[int, Any] = {}
        self._done: dict[Any, tuple[int, ...]] = {}
        self._values = 0
        self.ins = [self._new() for _ in jaxpr.invars]
        self.outs = self._inline(jaxpr, consts, self.ins)

    def spread(self, known: Sequence[bool]) -> list[bool]:
        """Which results are known if these inputs are; no value is needed."""
        at = {*self._constants} | {i for i, k in zip(self.ins, known, strict=True) if k}
        for equation in self.equations:
            if _is_known(equation, at):
                at.update(equation.outs)
        return [out in at for out in self.outs]

    def run(self, ins: Sequence[Any]) -> tuple[list[Any], dict[int, Any]]:
        """Computes what can be.

        Args:
          ins: values, or `UNKNOWN`.
        Returns: (results, of each of them `UNKNOWN` if it is; of equations that are not
          known, by position: the branch of a conditional, or how often a loop runs).
        """
        at = {i: x for i, x in zip(self.ins, ins, strict=True) if x is not UNKNOWN}
        at, decided = at | self._constants, {}
        for position, equation in enumerate(self.equations):
            taken = [at.get(i, UNKNOWN) for i in equation.ins]
            if _is_known(equation, at):
                at |= dict(zip(equation.outs, _results(equation, taken), strict=True))
            elif equation.name == "cond" and taken[0] is not UNKNOWN:
                last = len(equation.inside) - 1
                decided[position] = jnp.clip(jnp.int32(taken[0]), 0, last)
            elif equation.name == "while":
                trips = _trips(equation, taken)
                decided |= {} if trips is None else {position: trips}
        return [at.get(out, UNKNOWN) for out in self.outs], decided

    def _new(self) -> int:
        self._values += 1
        return self._values

    def _constant(self, value: Any, key: Any) -> int:
        if key not in self._done:
            self._done[key] = (self._new(),)
            self._constants[self._done[key][0]] = value
        return self._done[key][0]

    def _inline(self, jaxpr: Any, consts: Sequence[Any], ins: Sequence[int]) -> Any:
        """Appends the equations of a jaxpr; returns the numbers of its results."""
        at = dict(zip(jaxpr.invars, ins, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            at[var] = self._constant(value, ("constant", id(value)))

        def number(var: Any) -> int:
            if hasattr(var, "val"):  # written in place
                return self._constant(var.val, (str(var.aval), repr(var.val)))
            return at[var]

        for traced in jaxpr.eqns:
            taken = tuple(map(number, traced.invars))
            inside = list(_inside(traced))
            call = len(inside) == 1 and not traced.primitive.name.startswith(APART)
            if call and len(inside[0][0].invars) == len(taken):
                outs = self._inline(*inside[0], taken)
            else:
                outs = self._appended(traced, taken, inside)
            at |= dict(zip(traced.outvars, outs, strict=True))
        return [number(var) for var in jaxpr.outvars]

    def _appended(self, traced: Any, ins: tuple[int, ...], inside: Any) -> Any:
        """The results of an equation, which is appended unless it has been done."""
        key = traced.primitive.name, _key(traced.params), ins
        if key not in self._done or traced.effects:
            self._done[key] = tuple(self._new() for _ in traced.outvars)
            parts = tuple(Program(*part) for part in inside)
            self.equations.append(Equation(traced, ins, self._done[key], parts))
        return self._done[key]


def carried(equation: Equation) -> tuple[int, int]:
    """Of a scan, how many inputs are constants, and how many values it carries.

    What it cuts or stacks has an axis more outside than inside.
    """
    body = equation.traced.params["jaxpr"]
    body = getattr(body, "jaxpr", body)

    def alike(outside: Any, inside: Any) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

    values = alike(equation.traced.outvars, body.outvars)
    return alike(equation.traced.invars, body.invars) - values, values


def _is_known(equation: Equation, known: Container[int]) -> bool:
    """Whether the results are, if these values are."""
    if equation.name == "is_finite":
        return True
    return all(i in known for i in equation.ins) and not equation.traced.effects


def _key(params: dict[str, Any]) -> Any:
    """Equal for equal parameters; programs are equal if they are one."""
    key = tuple(sorted(params.items(), key=lambda item: item[0]))
    try:
        hash(key)
    except TypeError:
        return object()
    return key


def _inside(traced: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
    """(jaxpr, constants) of every program within an equation."""
    for value in traced.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr, getattr(item, "consts", ())


def _results(equation: Equation, values: list[Any]) -> list[Any]:
    """Those of one equation. Numbers are taken to be finite."""
    if equation.name == "is_finite":
        return [jnp.ones(out.aval.shape, bool) for out in equation.traced.outvars]
    primitive, params = equation.traced.primitive, equation.traced.params
    found = primitive.bind(*values, **params)
    return list(found) if primitive.multiple_results else [found]


def _trips(equation: Equation, taken: list[Any]) -> Any:
    """How often a loop runs, if what its test reads is known."""
    params = equation.traced.params
    ends = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_test, of_body, begin = taken[: ends[0]], taken[slice(*ends)], taken[ends[1] :]
    test, body = _pair(equation)
    known = [x is not UNKNOWN for x in begin]
    consts = [x is not UNKNOWN for x in of_body]
    while True:
        kept = [
            a and b for a, b in zip(known, body.spread([*consts, *known]), strict=True)
        ]
        if kept == known:
            break
        known = kept
    if not test.spread([*(x is not UNKNOWN for x in of_test), *known])[0]:
        return None

    def whole(values: Sequence[Any]) -> list[Any]:
        rest = iter(values)
        return [next(rest) if k else UNKNOWN for k in known]

    def go(carry: Any) -> Any:
        results, _ = body.run([*of_body, *whole(carry[1])])
        return carry[0] + 1, [x for x, k in zip(results, known, strict=True) if k]

    return lax.while_loop(
        lambda carry: test.run([*of_test, *whole(carry[1])])[0][0],
        go,
        (
            jnp.int32(0),
            [jnp.asarray(x) for x, k in zip(begin, known, strict=True) if k],
        ),
    )[0]


def _pair(equation: Equation) -> "tuple[Program, Program]":
    """(test, body) of a loop."""
    order = [k for k in equation.traced.params if k in ("cond_jaxpr", "body_jaxpr")]
    by_name = dict(zip(order, equation.inside, strict=True))
    return by_name["cond_jaxpr"], by_name["body_jaxpr"]
