# SPDX-License-Identifier: Apache-2.0
"""The words that a chain may hold, and what the library says about each.

All are found in the `__all__` of its packages, and known by their annotations: a link
returns a transform, a factory returns a link or a function, anything else is itself.
"""

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import optax

from orthoptax import diagnostics, matrix, transforms
from orthoptax.layout.full import OF_PARAMS
from orthoptax.transforms.learning_rate import scale_by_learning_rate

Transform = optax.GradientTransformation
DTYPES = ("bfloat16", "float16", "float32", "float64")
RATE = "learning_rate"  # the argument that is not the writer's to give
PLACE = "place"  # as well, where a link goes to matrices by itself
PLAIN_RATE = scale_by_learning_rate.__name__  # the link that does only this
COMPRESSOR = "compressor"  # the argument that holds one, bare or lifted


@functools.cache
def words() -> dict[str, Any]:
    """Every public name that may stand in a chain, and what it is."""
    found: dict[str, Any] = {name: name for name in DTYPES}
    for floor in (diagnostics, matrix, transforms):
        for name in floor.__all__:
            thing = getattr(floor, name)
            measure = floor is diagnostics and not is_link(thing)  # takes arrays
            if not isinstance(thing, type) and not measure:
                found[name] = thing
    return found


def word_for(name: str, thing: Any, parameter: str) -> Any:
    """What a name means as that argument; a name of two floors goes by the type."""
    kernel = getattr(matrix, name, None) if name in matrix.__all__ else None
    fits = kernel is not None and is_factory(kernel)
    if fits and _hints(kernel)["return"] in _choices(thing, parameter):
        return kernel
    return words()[name]


def links() -> list[str]:
    """The names that may stand as a link of a chain."""
    return sorted(name for name, thing in words().items() if is_link(thing))


def values() -> list[str]:
    """The names that may stand as an argument that is no link."""
    return sorted(words().keys() - set(links()))


def is_link(thing: Any, kind: type = Transform) -> bool:
    """Whether it is the constructor of a transform, or of that kind of transform."""
    returns = _hints(thing).get("return")
    return isinstance(returns, type) and issubclass(returns, kind)


def is_factory(thing: Any) -> bool:
    """Whether it must be called to be of use: it makes a link, a function, a table."""
    returns = _hints(thing).get("return")
    origin = typing.get_origin(returns) or returns
    made = (collections.abc.Callable, collections.abc.Sequence, tuple)
    protocol = inspect.isfunction(getattr(returns, "__call__", None))  # noqa: B004
    return is_link(thing) or origin in made or protocol


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
    """The arguments that a chain may give."""
    every = inspect.signature(thing).parameters.items()
    return {name: p for name, p in every if name not in (RATE, PLACE)}


def owns_rate(thing: Any) -> bool:
    """Whether it applies the learning rate itself."""
    return is_link(thing) and RATE in inspect.signature(thing).parameters


def makes_steps(thing: Any) -> bool:
    """Whether it is marked as one whose results no learning rate may scale."""
    return getattr(thing, "makes_steps", False)


def takes_link(thing: Any, parameter: str) -> bool:
    """Whether an argument is annotated as a transform, alone or among others."""
    choices = _choices(thing, parameter)
    return any(isinstance(c, type) and issubclass(c, Transform) for c in choices)


def is_switch(thing: Any, parameter: str) -> bool:
    """Whether an argument is true or false, and perhaps none."""
    return set(_choices(thing, parameter)) - {types.NoneType} == {bool}


def works_on_matrices(thing: Any) -> bool:
    """Whether a constructor is marked as one of a matrix link."""
    return getattr(thing, "coordinates", None) == "matrix"


def lifts(thing: Any) -> bool:
    """Whether it stands in parameter coordinates whatever it holds.

    So does a link that takes a compressor, as its momentum keeps the parameter's shape,
    one that takes a layout, as it goes to matrices by itself, and one that calls a
    function of the parameters.
    """
    if asks_of_params(thing):
        return True
    return bool({COMPRESSOR, "layout"} & parameters(thing).keys())


def asks_of_params(thing: Any) -> bool:
    """Whether it calls a function of the parameters, such as the loss."""
    return bool(set(getattr(thing, "needs", ())) & set(OF_PARAMS))


def usage(name: str, thing: Any) -> str:
    """A name with its arguments, as an error shows it."""
    shown = []
    for p in parameters(thing).values():
        star = "*" if p.kind is p.VAR_POSITIONAL else ""
        default = p.default if isinstance(p.default, bool | int | float) else None
        plain = star or p.default is p.empty
        shown.append(f"{star}{p.name}" if plain else f"{p.name}={default}".lower())
    return f"{name}({', '.join(shown)})"


def _choices(thing: Any, parameter: str) -> tuple[Any, ...]:
    """The types that an argument may have."""
    hint = _hints(thing).get(parameter)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


@functools.cache
def _function_hints(thing: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(thing)


def _hints(thing: Any) -> dict[str, Any]:
    return _function_hints(thing) if inspect.isfunction(thing) else {}
