# SPDX-License-Identifier: Apache-2.0
"""Meshes of TPUs that are not there, and programs compiled for them."""

import jax
from jax.experimental import topologies
from jax.sharding import AxisType

# A collective that runs beside several matmuls would be listed in each of them. Kept
# apart, collectives are the same and compiled in half the time; what differs is the
# memory for temporaries.
APART = {"xla_tpu_enable_async_collective_fusion": False}


def mesh(topology, *, axis_type=AxisType.Auto, **axes):
    """The devices of a topology as a mesh: `mesh("v5p:8x8x8", fsdp=64, tp=8)`."""
    devices = topologies.get_topology_desc(topology, "tpu").devices
    types = (axis_type,) * len(axes)
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=types, devices=devices
    )


def compile(step, *arguments, options=APART, **jitted):
    """A step compiled for the mesh that its abstract arguments are cut over.

    Args:
      step: a function of arrays.
      *arguments: trees of `jax.ShapeDtypeStruct` whose sharding names the mesh.
      options: the compiler's; `None` for its defaults, as memory is measured.
      **jitted: for `jax.jit`, such as `out_shardings` and `donate_argnums`.
    """
    return jax.jit(step, **jitted).lower(*arguments).compile(compiler_options=options)
