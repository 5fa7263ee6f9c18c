# SPDX-License-Identifier: Apache-2.0
"""`plan`: where the matrices of a model go on a mesh, from shapes alone."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from orthoptax import optimizers
from orthoptax._types import Place
from orthoptax.sharding.planning.hardware import HARDWARE
from orthoptax.sharding.planning.models import AXES, MODELS, model, read_shapes, specs
from orthoptax.sharding.planning.plan import Plan
from orthoptax.sharding.planning.plan import plan as compare_placements
from orthoptax.train.config import UsageError, parts, unknown

RATE = 0.02  # of the optimizer that is traced; no cost depends on it
AXIS = re.compile(r"(\w+)=(\d+)")
DTYPES = ("float32", "bfloat16", "float16")
EXAMPLE = "--mesh fsdp=512,tp=8"


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Choose where an optimizer works on its matrices, on a mesh that need not exist.

    Parameters are cut as is usual for the names of the mesh axes: dp replicates, fsdp
    cuts everything, tp as Megatron does, expert the stacks of experts.
    """

    mesh: str
    """The axes of the mesh and their sizes, for example fsdp=512,tp=8."""
    model: str | None = None
    """A public model: gpt2-small, llama3-8b, llama3-405b, deepseek-v3-like, ..."""
    shapes: Path | None = None
    """Instead of a model a JSON file such as {"mlp/up/kernel": [4096, 14336]}."""
    hardware: str = "v5p"
    """The chip: v4, v5e, v5p, v6e, a100, h100, h200, cpu."""
    optimizer: str = "muon"
    """Its name."""
    dtype: str = "float32"
    """Of parameters and gradients: float32, bfloat16 or float16."""
    transport: str | None = None
    """What updates are rounded to while they travel. None given: not rounded."""
    stacked: bool = False
    """Whether a model's layers are stacked, as scan has them; else a leaf each."""
    json: bool = False
    """Print JSON instead of a table."""


def plan(settings: PlanSettings) -> None:
    """Prints the plan.

    Raises: UsageError for a mesh that cannot be read and names that are not known.
    """
    found = planned(settings)
    print(found.to_json() if settings.json else found)


def planned(settings: PlanSettings) -> Plan:
    """The plan that the settings ask for.

    Raises: UsageError, see `plan`.
    """
    sizes = mesh_sizes(settings.mesh)
    optimizer = _optimizer(settings.optimizer)
    if settings.hardware not in HARDWARE:
        raise unknown("hardware", settings.hardware, HARDWARE, "--hardware")
    for option in ("dtype", "transport"):
        value = getattr(settings, option)
        if value is not None and value not in DTYPES:
            raise unknown(option, value, DTYPES, f"--{option}")
    try:
        tree = _tree(settings)
        return compare_placements(
            tree,
            sizes,
            specs(tree, sizes),
            settings.hardware,
            optimizer=optimizer,
            transport=settings.transport,
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        expected = "shapes, a mesh and an optimizer that fit each other"
        raise UsageError(*parts(error, expected, "Change one of them")) from error


def mesh_sizes(text: str) -> dict[str, int]:
    """The axes of a mesh written as 'fsdp=512,tp=8', in that order.

    Raises: UsageError for text that cannot be read, an axis that no default sharding
      knows, one that is there twice, a size of 0.
    """
    sizes: dict[str, int] = {}
    for word in text.split(","):
        matched = AXIS.fullmatch(word.strip())
        if matched is None:
            wrong = f"--mesh {text!r} cannot be read at {word.strip()!r}"
            expected = "axis=size, separated by commas"
            raise UsageError(wrong, expected, f"Write for example {EXAMPLE}")
        name, size = matched[1], int(matched[2])
        if name not in AXES:
            raise unknown("mesh axis", name, AXES, "--mesh")
        if name in sizes or not size:
            wrong = f"--mesh {text!r} has {name!r} {'twice' if size else 'of size 0'}"
            expected = "each axis once, with one device or more"
            raise UsageError(wrong, expected, f"Write for example {EXAMPLE}")
        sizes[name] = size
    return sizes


def _optimizer(name: str) -> Callable[[Place], Any]:
    """The named optimizer as a function of the place of its matrices."""
    known = {
        each: make
        for each in optimizers.__all__
        if "place" in inspect.signature(make := getattr(optimizers, each)).parameters
    }
    if name not in known:
        raise unknown("optimizer", name, known, "--optimizer")
    return lambda place: known[name](RATE, place=place)


def _tree(settings: PlanSettings) -> Any:
    """The parameters' shapes."""
    if (settings.model is None) == (settings.shapes is None):
        count = "neither" if settings.model is None else "both"
        raise UsageError(
            f"{count} of --model and --shapes given",
            "one of them",
            "Write for example --model llama3-8b",
        )
    dtype = jnp.dtype(settings.dtype)
    if settings.shapes is not None:
        return read_shapes(settings.shapes, dtype)
    name = str(settings.model)
    if name not in MODELS:
        raise unknown("model", name, MODELS, "--model")
    return model(name, dtype, stacked=settings.stacked)
