# SPDX-License-Identifier: Apache-2.0
"""The place that is chosen on Explicit axes: the one a plan finds cheapest."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax import muon
from orthoptax.matrix import gram_newton_schulz
from orthoptax.sharding import count
from orthoptax.sharding.planning.hardware import HARDWARE, hardware_of

WIDE = (64, 1024)
GRAM = functools.partial(muon, 0.02, polar=gram_newton_schulz())


def mesh(kind=AxisType.Explicit):
    return jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))


def counted(number, spec, make, dtype=jnp.float32):
    """The compiled step without a place, of so many equal leaves."""
    where = NamedSharding(mesh(), spec)
    leaf = jax.ShapeDtypeStruct(WIDE, dtype, sharding=where)
    params = {f"dense_{i}": {"kernel": leaf} for i in range(number)}
    tx = make()
    state = jax.tree.map(
        lambda x: (
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
            if x.shape == WIDE
            else x
        ),
        jax.eval_shape(tx.init, params),
    )
    with jax.set_mesh(mesh()):
        return count(jax.jit(tx.update).lower(params, state, params).compile())


def test_a_lone_matrix_stays_where_sums_are_cheaper():
    """Its long side is cut: a triangle of 64 x 64 a block, not 64 x 1024."""
    found = counted(1, P(None, "fsdp"), GRAM)
    assert {c.kind for c in found.collectives} == {"all-reduce"}
    assert found.result_bytes == 2 * 4 * 64 * 65 // 2 + 2 * 4


def test_a_lone_matrix_cut_on_its_short_side_is_worked_on_by_a_team():
    found = counted(1, P("fsdp"), GRAM)
    moved = [c for c in found.collectives if c.kind == "all-to-all"]
    assert [c.result_bytes for c in moved] == [4 * 64 * 1024 // 8] * 2
    assert {c.kind for c in found.collectives} == {"all-to-all", "all-reduce"}


def test_a_matrix_a_device_goes_whole():
    found = counted(8, P("fsdp"), GRAM)
    assert [c.kind for c in found.collectives] == ["all-to-all"] * 2


def test_without_a_peak_matrices_go_whole(x64):
    found = counted(1, P(None, "fsdp"), GRAM, jnp.float64)
    assert {c.kind for c in found.collectives} == {"all-gather"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_chips_by_what_jax_calls_them(kind, name):
    class Shown:
        class abstract_device:
            device_kind = kind

    assert hardware_of(Shown()) is HARDWARE[name]


def test_chips_that_do_not_show():
    assert hardware_of(AbstractMesh((8,), ("fsdp",))) is None
    assert hardware_of(mesh()) is HARDWARE["cpu"]
