# SPDX-License-Identifier: Apache-2.0
"""The topologies there are, and that programs compiled for them are for TPUs."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from orthoptax.sharding.compiled.counting import count
from tests.tpu.topologies import compile, mesh

WIDTHS = [
    ("v5e:2x4", {"fsdp": 8}),
    ("v5e:16x16", {"fsdp": 16, "tp": 16}),
    ("v5p:8x8x8", {"fsdp": 64, "tp": 8}),
]


@pytest.mark.parametrize(("topology", "axes"), WIDTHS)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_rows_are_gathered_over_the_axis_that_cuts_them(topology, axes, axis_type):
    devices = mesh(topology, axis_type=axis_type, **axes)
    assert devices.axis_types == (axis_type,) * len(axes)
    cut = NamedSharding(devices, PartitionSpec("fsdp"))
    whole = NamedSharding(devices, PartitionSpec())
    x = jax.ShapeDtypeStruct((1024, 256), jnp.float32, sharding=cut)
    counted = count(compile(lambda x: x, x, out_shardings=whole))
    width = axes["fsdp"]
    assert counted.number == 1
    assert counted.result_bytes == 1024 * 256 * 4
    assert counted.ring_bytes == 1024 * 256 * 4 * (width - 1) // width


def test_the_branch_for_tpus_is_compiled():
    def step(x):
        return lax.platform_dependent(
            x, cpu=lambda x: x, tpu=lambda x: x @ x, default=lambda x: x
        )

    whole = NamedSharding(mesh("v5e:2x4", fsdp=8), PartitionSpec())
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=whole)
    assert count(compile(step, x)).flops == 2 * 256**3
