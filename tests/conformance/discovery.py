# SPDX-License-Identifier: Apache-2.0
"""Every public optimizer and transform, found in `__all__`, known by what it is."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.typing import ArrayLike, DTypeLike

from orthoptax import diagnostics, layout, optimizers, transforms
from orthoptax._types import Compressor, Layout
from orthoptax.layout import on_matrices
from orthoptax.layout.rules import Rules
from orthoptax.transforms import error_feedback
from orthoptax.transforms.choices import Choose
from tests import zoo
from tests.conformance.supply import supplied

FLOORS = (transforms, layout, diagnostics, optimizers)
RATE = 0.02  # every named optimizer works with a learning rate alone
RATES = {"mfac": 0.2, "sania": 1.0}
"""Optimizers whose rate is a factor of a step that has a length of its own."""
DEGREE = {
    "adahessian": 1,
    "aegd": 1,
    "induced_metric": 1,
    "mfac": 1,
    "sania": 1,
    "oasis": 1,
    "sophia_g": 1,
    "sophia_h": 1,
    "auon": 1,
    "mop": 1,
    "polargrad": 1,
}
"""The power of the gradient's scale that the matrices' updates grow with, if not 0.

Methods of degree 1 keep the size of the gradient by design: their laws say that an
update is multiplied where others say that it is unchanged.
"""
ABSOLUTE = {
    "adago": {"gamma": 3e38, "initial": 0.0, "eps": 0.0},
    "sophia_g": {"eps": 1e10, "clip_threshold": 1e30, "weight_decay": 0.0},
    "sophia_h": {"eps": 1e10, "clip_threshold": 1e30, "weight_decay": 0.0},
}
"""Optimizers that compare the gradient with a number of their own, and the arguments
that switch those numbers off: with these the laws of scale hold."""
WHOLE_TREE = {
    "induced_metric", "inverse_fisher", "mfac", "newton_direction", "polyak_step",
    "sania", "scale_by_induced_metric",
}  # fmt: skip
"""Those with one number over all leaves: NaN in one reaches all, or nothing moves."""
OWN_UNITS = {"aegd", "induced_metric", "mfac", "sania"}
"""Optimizers that hold the gradient against the loss or a damping.

For them gradients of another scale are those of another problem: no law of scale.
"""
CALM = {"mfac": {"damping": 1.0}}
"""Arguments with which an optimizer descends on a small problem, if not its own.

M-FAC's Fisher matrix vanishes with the gradient, so that steps near a minimum are as
long as damping allows.
"""
FEASIBLE = {
    "muon_hyperball": lambda w: w / jnp.linalg.norm(w),
    "spel": lambda w: jnp.linalg.qr(w.T)[0].T,
}
"""Optimizers that keep a matrix (4, 8) in a set, and a way into it.

They do not reach a target outside; toward one inside they descend as all others do.
"""
CURVED = {*FEASIBLE, "muown", "aegd", "energy_step"}
"""Optimizers whose update is no multiple of the learning rate: the step bends.

Their laws say that a changed rate does what the same rate does from the start.
"""
STILL = {
    "scion": {"weight_decay": 0.0},
    "sophia_g": {"weight_decay": 0.0},
    "sophia_h": {"weight_decay": 0.0},
    "spel": {"polar": lambda x: x},
}
"""Optimizers that move weights without a gradient by design, toward the middle of a
ball, by decay or onto a set, and the arguments that switch this off."""
FIRST_STEP = {"oasis", "secant_step"}
"""What takes its learning rate for the length of the first step, and no other."""
OWN_SCALE = {"dion", "dion2", "nordion2", "scion", "trust_region"}
"""Optimizers whose published scale is not AdamW's, so their rates are not either.

They take any `shape_rule` without `rest`; where `match_rms` is the default, another one
would silently part the rates of the two groups, and raises.
"""


def kind(thing: Any) -> str:
    """What a public object is, by its type and by what it says it takes and returns.

    Raises: TypeError for what is none of the known kinds.
    """
    if isinstance(thing, type):
        return "class"
    if isinstance(thing, tuple):
        return "constants"
    if all(hasattr(thing, method) for method in ("whole", "init", "update")):
        return "place"
    if isinstance(thing, types.FunctionType):
        takes = list(inspect.signature(thing).parameters)
        returns = typing.get_type_hints(thing).get("return")
        if returns is Compressor:
            return "compressor"
        if isinstance(returns, type) and issubclass(
            returns, optax.GradientTransformation
        ):
            return "transform"
        if returns is float and takes == ["rows", "cols", "shape"]:
            return "shape rule"
        if returns in (Rules, Layout):
            return "layout"
        if returns == Choose:
            return "choice of slices"
        if {"params", "tree"} & set(takes):
            return "function of trees"
        if returns == Callable[..., Any]:
            return "function of functions"
        if returns is jax.Array or typing.get_type_hints(returns or int):
            return "function of arrays"
    raise TypeError(
        f"discovery: {thing!r} is of no known kind. Expected a function annotated to "
        "return a GradientTransformationExtraArgs, or a kind that `kind` knows. "
        "Annotate its result, or teach `kind` the new kind."
    )


@dataclasses.dataclass(frozen=True)
class Subject:
    """One public constructor, with the programs that its laws share.

    Args:
      name: in `__all__`.
      floor: the package it is public in, 'transforms' or 'optimizers', say.
      constructor: the function.
    """

    name: str
    floor: str
    constructor: Callable[..., Any]

    @property
    def is_optimizer(self) -> bool:
        """Whether it is a whole optimizer, which a learning rate alone completes."""
        return self.floor == "optimizers"

    @property
    def is_compressor(self) -> bool:
        """Whether it is a part of `error_feedback`, within which it is then tested."""
        return kind(self.constructor) == "compressor"

    @property
    def on_matrices(self) -> bool:
        """Whether it stands in matrix coordinates."""
        return getattr(self.constructor, "coordinates", None) == "matrix"

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The arguments of the constructor."""
        return inspect.signature(self.constructor).parameters

    @property
    def hints(self) -> dict[str, Any]:
        """The types of the arguments."""
        return typing.get_type_hints(self.constructor)

    @property
    def needs(self) -> tuple[str, ...]:
        """The extra arguments that `update` cannot do without."""
        return getattr(self.constructor, "needs", ())

    def make(self, **arguments: Any) -> optax.GradientTransformationExtraArgs:
        """The transform, for trees of parameters, with these arguments changed."""
        return self.lift(self.constructor)(**self.required(arguments))

    def required(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, with those that have no default."""
        rate = {"learning_rate": RATES.get(self.name, RATE)}
        return (rate if self.is_optimizer else {}) | dict(arguments)

    def lift(self, constructor: Callable[..., Any]) -> Callable[..., Any]:
        """A constructor whose results stand in parameter coordinates."""
        wrap = on_matrices if self.on_matrices else lambda tx: tx
        if self.is_compressor:
            wrap = lambda tx, inner=wrap: error_feedback(compressor=inner(tx))
        return lambda **arguments: supplied(wrap(constructor(**arguments)), self.needs)

    def only_ours(self) -> dict[str, Any]:
        """Arguments that leave stock optax out: it has laws of its own."""
        return {"rest": optax.identity()} if "rest" in self.parameters else {}

    def numbers(self) -> dict[str, float]:
        """Arguments that are real numbers and may be traced, with their values."""
        found = {}
        for n, p in self.parameters.items():
            hint = self.hints[n]
            if hint in (float, ArrayLike, optax.ScalarOrSchedule):
                found[n] = RATE if p.default is p.empty else float(p.default)
        return found

    def counts(self) -> list[str]:
        """Arguments that are integers, and static."""
        return [n for n, hint in self.hints.items() if hint in (int, int | None)]

    def only_keywords(self) -> bool:
        """Whether none is variadic, which `optax.inject_hyperparams` cannot pass."""
        return all(p.kind is not p.VAR_POSITIONAL for p in self.parameters.values())

    def dtypes(self) -> list[str]:
        """Arguments that choose a dtype."""
        return [
            n for n, hint in self.hints.items() if hint in (DTypeLike, DTypeLike | None)
        ]

    @functools.cached_property
    def transform(self) -> optax.GradientTransformationExtraArgs:
        """The transform with its defaults."""
        return self.make()

    @functools.cached_property
    def calm(self) -> optax.GradientTransformationExtraArgs:
        """The transform with the arguments of `CALM`, if there are any."""
        return self.make(**CALM[self.name]) if self.name in CALM else self.transform

    @functools.cached_property
    def init(self) -> Callable[..., Any]:
        """The compiled `init`."""
        return jax.jit(self.transform.init, compiler_options=zoo.QUICKLY)

    @functools.cached_property
    def update(self) -> Callable[..., Any]:
        """The compiled `update`, which may be traced once a tree of parameters."""
        traced: set[Any] = set()

        @functools.partial(jax.jit, compiler_options=zoo.QUICKLY)
        def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
            key = tuple(zoo.types((updates, params)))
            assert key not in traced, f"{self.name}: a second trace, state changed type"
            result = self.transform.update(updates, state, params)
            traced.add(key)
            return result

        return update


@functools.cache
def subjects() -> tuple[Subject, ...]:
    """All public transforms and optimizers, in order of floor and name.

    An alias, which has another name than its function, is no subject of its own.
    """
    return tuple(
        Subject(name, floor.__name__.rpartition(".")[2], getattr(floor, name))
        for floor in FLOORS
        for name in sorted(floor.__all__)
        if kind(getattr(floor, name)) in ("transform", "compressor")
        and getattr(floor, name).__name__ == name
    )


WHOLE = ("muon", "nordion2")
PARTS = (
    "momentum", "orthogonalize", "low_rank", "submatrix", "second_moment",
    "with_statistics", "weight_norm", "on_matrices", "by_layout",
)  # fmt: skip
"""These optimizers, and parts of every kind of state, meet all laws in any suite."""
ALIKE = {"divide_by_curvature_abs_floor", "divide_by_curvature_mean", "secant_step"}
"""Parts whose state is of the kind of another, which meets the laws in any suite."""


def law(
    applies: Callable[[Subject], Any] | None = None,
    *,
    fast: Callable[[Subject], bool] | None = None,
) -> Any:
    """Runs a test for every subject, or for those that a condition holds for.

    What `fast` does not hold for is marked slow; None: nothing is.
    """
    chosen = [s for s in subjects() if applies is None or applies(s)]
    late = lambda s: fast is not None and not fast(s)
    return pytest.mark.parametrize(
        "subject",
        [pytest.param(s, marks=[pytest.mark.slow] * late(s)) for s in chosen],
        ids=[s.name for s in chosen],
    )


in_float64 = pytest.mark.usefixtures("x64")
"""For laws that two programs are one function: their float32 differs by rounding,
which kernels amplify, each by its own slopes."""


def parts(subject: Subject) -> bool:
    """For `law`: all parts, as optimizers are chains of them, and two optimizers."""
    part = not subject.is_optimizer and subject.name not in ALIKE
    return part or subject.name in WHOLE


def sample(subject: Subject) -> bool:
    """For `law`: a few, where what matters is the kind of state."""
    return subject.name in (*WHOLE, *PARTS)


def is_optimizer(subject: Subject) -> bool:
    """For `law`: whole optimizers only."""
    return subject.is_optimizer


def keeps_units(subject: Subject) -> bool:
    """For `law`: optimizers whose updates scale with the gradient, or not at all."""
    return subject.is_optimizer and subject.name not in OWN_UNITS


def leaf_by_leaf(subject: Subject) -> bool:
    """For `law`: whatever measures no more than a leaf at a time."""
    return subject.name not in WHOLE_TREE


def placed() -> list[str]:
    """The optimizers whose matrices may be dealt to devices; all others have none."""
    return [s.name for s in subjects() if s.is_optimizer and "place" in s.parameters]


def has_rate(subject: Subject) -> bool:
    """For `law`: whatever takes a learning rate."""
    return "learning_rate" in subject.parameters


def is_straight(subject: Subject) -> bool:
    """For `law`: whatever moves by a multiple of its learning rate."""
    return has_rate(subject) and subject.name not in CURVED


def bends(subject: Subject) -> bool:
    """For `law`: whatever takes a learning rate that its updates are no multiple of."""
    return has_rate(subject) and subject.name in CURVED
