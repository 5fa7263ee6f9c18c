# SPDX-License-Identifier: Apache-2.0
"""Costs of real programs, against formulas and, without loops, `cost_analysis`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax.layout.stacks import map_stacks
from orthoptax.matrix import JORDAN, newton_schulz
from orthoptax.sharding.compiled.counting import Counted, count
from tests.eight import eight

N = 16


def shape(*dims, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def compiled(fn, *args):
    return jax.jit(fn).lower(*args).compile()


def counted(fn, *args):
    return count(compiled(fn, *args))


@pytest.fixture(scope="module")
def mesh():
    """Two rows of four devices."""
    return jax.make_mesh((2, 4), ("r", "c"), axis_types=(AxisType.Auto,) * 2)


@pytest.fixture(scope="module")
def mapped(mesh):
    """A function of a device's part of an (8, 16) array, counted."""

    def of(fn, into, out):
        fn = jax.shard_map(fn, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)
        return counted(fn, shape(8, 16))

    return of


WHOLE = (
    8 * 16 * 4
)  # bytes of the array; a quarter of it is a device's part under P("c")
RING = [(i, (i + 1) % 4) for i in range(4)]
COLLECTIVES = {  # kind: (function, into, out, group, bytes of result, bytes received)
    "all-gather": (
        lambda x: lax.all_gather(x, "c", tiled=True),
        P("c"), P(), 4, WHOLE, WHOLE * 3 / 4,
    ),
    "all-reduce": (
        lambda x: lax.psum(x, "r"), P("c"), P("c"), 2, WHOLE / 4, 2 * WHOLE / 4 / 2,
    ),
    "reduce-scatter": (
        lambda x: lax.psum_scatter(x, "c", tiled=True),
        P(), P("c"), 4, WHOLE / 4, 3 * WHOLE / 4,
    ),
    "all-to-all": (
        lambda x: lax.all_to_all(x, "c", 1, 0, tiled=True),
        P("c"), P(None, "c"), 4, WHOLE / 4, WHOLE / 4 * 3 / 4,
    ),
    "collective-permute": (
        lambda x: lax.ppermute(x, "c", RING), P("c"), P("c"), 4, WHOLE / 4, WHOLE / 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_each_collective(mapped, kind):
    fn, into, out, group, size, received = COLLECTIVES[kind]
    (found,) = (total := mapped(fn, into, out)).collectives
    assert (found.kind, found.group_size, found.times) == (kind, group, 1)
    assert (found.result_bytes, found.ring_bytes) == (size, received)
    assert (total.result_bytes, total.ring_bytes) == (size, received)
    assert (total.number, total.largest, total.in_branches) == (1, size, ())
    assert "shard_map" in found.where


def test_collectives_over_all_devices(mapped):
    both = ("r", "c")
    total = mapped(lambda x: lax.all_gather(x, both, tiled=True), P(both), P())
    assert total.ring_bytes == WHOLE * 7 / 8


def test_several_arrays_are_one_collective(mapped):
    total = mapped(lambda x: lax.psum((x, x[:1] + 1), "c"), P("c"), P())
    assert total.number == 1
    assert total.result_bytes == WHOLE / 4 + 16 * 4


def test_collectives_in_nested_loops(mapped):
    def inner(x, _):
        return x * lax.psum(x[0, 0], "r"), None

    def outer(i, x):
        return lax.scan(inner, lax.psum(x, "c"), None, length=3)[0] + i

    total = mapped(lambda x: lax.fori_loop(0, 5, outer, x), P("c"), P("c"))
    times = {c.result_bytes: c.times for c in total.collectives}
    assert times == {WHOLE // 4: 5, 4: 5 * 3}
    assert total.number == 20
    assert total.result_bytes == 5 * WHOLE / 4 + 15 * 4
    assert total.ring_bytes == 5 * 2 * 3 / 4 * WHOLE / 4 + 15 * 4
    assert total.largest == WHOLE / 4
    assert total.unknown_trips == 0


def test_collectives_in_branches_are_shown(mapped):
    def fn(x):
        y = lax.psum(x, "c")
        branches = [lambda x: x, lambda x: lax.psum(x, "r"), lambda x: x + 1]
        return lax.switch(jnp.int32(x[0, 0]), branches, y)

    total = mapped(fn, P("c"), P())
    assert total.number == 2
    (found,) = total.in_branches
    assert (found.group_size, found.result_bytes) == (2, WHOLE / 4)
    assert "(in a branch)" in str(total)


def test_products_cut_by_the_compiler(mesh):
    rows = NamedSharding(mesh, P("r", "c"))
    a = shape(64, 64, sharding=rows)
    total = counted(lambda a: lax.with_sharding_constraint(a @ a.T, rows), a)
    # A device holds 32 x 16. It gathers 64 x 16, multiplies along its sixteen columns
    # and sums over a row of devices.
    assert total.flops == 2 * 32 * 64 * 16
    sizes = {(c.kind, c.group_size): c.result_bytes for c in total.collectives}
    assert sizes == {("all-gather", 2): 64 * 16 * 4, ("all-reduce", 4): 32 * 64 * 4}


def test_products_in_fusions():
    total = counted(
        lambda a, b: jnp.sum(jnp.exp(a @ b), 1), shape(64, 32), shape(32, 16)
    )
    assert total.flops == 2 * 64 * 32 * 16


def test_loops_are_multiplied_out():
    def fn(x):
        x = lax.fori_loop(
            0, 7, lambda _, y: lax.fori_loop(2, 5, lambda _, z: z @ x, y), x
        )
        return lax.map(lambda row: x @ row, jnp.stack([x, x]))

    assert counted(fn, shape(N, N)).flops == (7 * 3 + 2) * 2 * N**3


def test_an_optimizer_kernel_in_loops():
    m, n, leaves = 16, 48, 3
    tree = {str(i): shape(m, n) for i in range(leaves)}
    total = counted(lambda t: map_stacks(newton_schulz(), t), tree)
    assert total.flops == leaves * len(JORDAN) * (4 * m * m * n + 2 * m**3)
    assert total.unknown_trips == 0


def test_a_conditional_costs_its_dearest_branch():
    branches = [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x]
    total = counted(
        lambda i, x: lax.switch(i, branches, x) @ x, shape(dtype="int32"), shape(N, N)
    )
    assert total.flops == 3 * 2 * N**3


def test_loops_of_unknown_length_are_said():
    def fn(n, x):
        def body(_, y):
            return lax.fori_loop(0, 4, lambda _, z: z @ x, y)

        return lax.fori_loop(0, n, body, x)

    total = counted(fn, shape(dtype="int32"), shape(N, N))
    assert (total.unknown_trips, total.flops) == (1, 4 * 2 * N**3)
    assert "unknown length" in str(total)


def test_every_loop_of_unknown_length_is_said():
    def fn(n, x):
        inner = lambda _, y: lax.fori_loop(0, n, lambda _, z: z @ x, y)
        return lax.fori_loop(0, 3, lambda _, y: lax.fori_loop(0, n, inner, y), x)

    total = counted(fn, shape(dtype="int32"), shape(N, N))
    assert (total.unknown_trips, total.flops) == (2, 3 * 2 * N**3)


@pytest.mark.parametrize(
    "line", ["call(%x), to_apply=%f", "custom-call(%x), called_computations={%f, %f}"]
)
def test_calls_are_followed(line):
    text = f"""
%f (p: f32[4,4]) -> f32[4,4] {{
  %p = f32[4,4] parameter(0)
  ROOT %d = f32[4,4] dot(%p, %p), lhs_contracting_dims={{1}}
}}
ENTRY %main (x: f32[4,4]) -> f32[4,4] {{
  %x = f32[4,4] parameter(0)
  ROOT %y = f32[4,4] {line}
}}"""
    assert count(text).flops == line.count("%f") * 2 * 4**3


def test_loops_of_unknown_length_without_products_are_not():
    total = counted(
        lambda x: lax.while_loop(lambda y: y < 9, lambda y: 2 * y, x), shape()
    )
    assert total.unknown_trips == 0


def test_factorizations_in_loops():
    total = counted(lambda x: lax.map(jnp.linalg.cholesky, x), shape(3, 40, 40))
    np.testing.assert_allclose(total.factorization_flops, 3 * 40**3 / 3, rtol=1e-12)


def test_unknown_routines_are_named():
    def fn(x):
        y = jax.pure_callback(lambda x: x, x, x)
        return lax.fori_loop(0, 3, lambda _, y: y @ x + jnp.fft.fft(y).real, y)

    total = counted(fn, shape(N, N))
    assert total.flops == 3 * 2 * N**3
    fft, callback = total.not_counted
    assert fft == "fft"
    assert "callback" in callback
    assert f"flops not counted: fft, {callback}" in str(total)


def test_temporaries_and_text():
    program = compiled(lambda x: jnp.linalg.qr(x @ x), shape(N, N))
    total = count(program)
    assert total.temp_bytes == program.memory_analysis().temp_size_in_bytes > 0
    text = count(program.as_text())
    assert text.temp_bytes is None
    assert text == dataclasses.replace(total, temp_bytes=None)


def test_the_table():
    text = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[1024]) -> f32[4096] {
  %x = f32[1024]{0} parameter(0)
  %y = f32[1024]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  %z = f32[1024]{0} all-reduce(%y), replica_groups={{0,1}}, to_apply=%add
  ROOT %w = f32[4096]{0} all-gather(%z), replica_groups={}, metadata={op_name="f/g"}
}"""
    assert str(count("HloModule f, num_partitions=4\n" + text)).splitlines() == [
        "collective  group   bytes  times  ring bytes  where",
        "all-gather      4  16,384      1      12,288  f/g",
        "all-reduce      2   4,096      2       8,192",
        "collectives: 3, bytes of results: 24,576, received: 20,480",
        "flops: 0, of factorizations: 0",
    ]
    assert str(Counted(temp_bytes=5000)).splitlines()[2:] == [
        "bytes of temporaries: 5,000"
    ]


def test_what_is_not_compiled_is_refused():
    lowered = jax.jit(jnp.sin).lower(1.0)
    with pytest.raises(
        TypeError, match=r"count: got Lowered\. Expected .*\. Pass .*compile"
    ):
        count(lowered)
    with pytest.raises(
        ValueError, match=r"no entry .* Expected optimized HLO\. Pass .*"
    ):
        count(lowered.as_text())


PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from orthoptax.sharding.compiled.counting import count

mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
fn = jax.shard_map(lambda x: jax.lax.all_gather(x, "d"), mesh=mesh, in_specs=P("d"),
                   out_specs=P(), check_vma=False)
total = count(jax.jit(fn).lower(jnp.ones(int(sys.argv[1]))).compile())
print("one line more")
print(json.dumps([c._asdict() for c in total.collectives]))
"""


def test_in_a_process_of_its_own():
    (found,) = eight(PROGRAM, "64")
    assert (found["kind"], found["group_size"]) == ("all-gather", 8)
    assert found["result_bytes"] == 64 * 4
