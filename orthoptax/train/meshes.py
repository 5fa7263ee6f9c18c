# SPDX-License-Identifier: Apache-2.0
"""A comparison on a mesh of devices: how it is cut, and what the optimizers are told.

Parameters are cut as `orthoptax.sharding.planning.models.specs` says, batches over 'dp'
and 'fsdp'; every optimizer of ours is given `whole_matrices`. Stock ones are left to
the compiler. Only rounding tells the numbers from those of one device.
"""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from orthoptax._types import Place
from orthoptax.sharding.planning.models import specs as usual_specs
from orthoptax.sharding.state import state_specs
from orthoptax.sharding.whole import whole_matrices
from orthoptax.train.chains import ChainOptimizer
from orthoptax.train.config import UsageError, unknown
from orthoptax.train.names import Constructor
from orthoptax.train.plan import mesh_sizes
from orthoptax.train.tasks import Task

AXES = ("dp", "fsdp", "tp")
EXAMPLES = ("dp", "fsdp")  # the axes over which examples differ

S = TypeVar("S", bound=Any)


class Where(NamedTuple):
    """A mesh and the specs of the parameters on it."""

    mesh: Mesh
    specs: Any

    def put(self, state: S, tx: optax.GradientTransformation) -> S:
        """A run's state as shapes, each with its sharding."""
        opt_state = state_specs(tx, state.params, self.specs, mesh=self.mesh)
        specs = type(state)(self.specs, opt_state, PartitionSpec())
        return jax.tree.map(
            lambda x, spec: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec)
            ),
            state,
            specs,
        )

    @property
    def whole(self) -> NamedSharding:
        """On every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def share(self, batches: np.ndarray) -> jax.Array:
        """Batches that every process has, each on the devices that want it."""
        shape, sharding = batches.shape, self.batches
        return jax.make_array_from_callback(shape, sharding, lambda at: batches[at])

    @property
    def batches(self) -> NamedSharding:
        """How several batches lie, (count, examples, ...)."""
        cut = tuple(axis for axis in EXAMPLES if axis in self.mesh.shape)
        return NamedSharding(self.mesh, PartitionSpec(None, cut or None))


def onto(
    text: str, task: Task, constructors: Mapping[str, Constructor]
) -> tuple[Task, dict[str, Constructor]]:
    """The task on a mesh written as 'fsdp=4,tp=2', and its optimizers told of it.

    Raises: UsageError for a mesh that cannot be read, that has more devices than there
      are, or over which the examples of a batch cannot be shared out.
    """
    where = _where(text, task)
    place = whole_matrices(where.specs, mesh=where.mesh)
    told = {name: _told(make, place) for name, make in constructors.items()}
    return task._replace(where=where), told


def _where(text: str, task: Task) -> Where:
    """The mesh that the text asks for, checked."""
    sizes = mesh_sizes(text)
    for axis in sizes:
        if axis not in AXES:  # this model has no experts
            raise unknown("mesh axis", axis, AXES, "--mesh")
    size, there = math.prod(sizes.values()), jax.device_count()
    if size > there:
        raise UsageError(
            f"--mesh {text} is of {size} devices and jax has {there}, "
            f"{jax.default_backend()}",
            f"a mesh of at most {there}",
            f"Change --mesh, or set JAX_NUM_CPU_DEVICES={size} to have as many on CPU",
        )
    if size < there and jax.process_count() > 1:
        raise UsageError(
            f"--mesh {text} is of {size} devices and the processes have {there}",
            "a mesh of all of them",
            "Change --mesh",
        )
    shares = math.prod(sizes.get(axis, 1) for axis in EXAMPLES)
    examples = task.batch[0]
    if examples % shares:
        raise UsageError(
            f"--mesh {text} cuts a batch of {examples} examples into {shares}",
            f"dp times fsdp to be a divisor of {examples}",
            "Change --mesh",
        )
    mesh = jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        (AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:size],
    )
    return Where(mesh, usual_specs(jax.eval_shape(lambda: task.initial(0)), sizes))


def _told(constructor: Constructor, place: Place) -> Constructor:
    """An optimizer with its place, if it takes one."""
    if isinstance(constructor, ChainOptimizer):
        return ChainOptimizer(constructor.text, place)
    if "place" not in inspect.signature(constructor).parameters:
        return constructor
    return functools.partial(constructor, place=place)
