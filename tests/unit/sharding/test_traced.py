# SPDX-License-Identifier: Apache-2.0
"""Operations of traced programs, against the textbooks and the compiled program."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from orthoptax.sharding import count
from orthoptax.sharding.planning.traced import times, traced_flops

N, M = 8, 12
TALL, SQUARE = (3, M, N), (3, N, N)


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


def test_products_count_twice_their_multiplications():
    product = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
    flops = traced_flops(product, shape(3, 4, 5), shape(3, 5, 6))
    assert flops == {"float32": 2 * 3 * 4 * 5 * 6}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (jnp.bfloat16, {"bfloat16": 2 * N**3}),
        (jnp.complex64, {"float32": 8 * N**3}),
    ],
)
def test_products_by_their_dtype(dtype, expected):
    assert traced_flops(jnp.matmul, *[shape(N, N, dtype=dtype)] * 2) == expected


def test_loops_calls_and_branches():
    def fn(x, i):
        x = lax.fori_loop(0, 5, lambda _, y: x @ y, x)
        x = lax.scan(lambda y, _: (jax.jit(jnp.matmul)(y, x), None), x, None, 3)[0]
        branches = [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x]
        return lax.switch(i, branches, x)

    flops = traced_flops(fn, shape(N, N), shape(dtype=jnp.int32))
    assert flops == {"float32": (5 + 3 + 2) * 2 * N**3}


@pytest.mark.parametrize(
    ("platform", "products"), [("cpu", 1), ("tpu", 3), ("cuda", 3), (None, 3)]
)
def test_the_branch_of_a_platform(platform, products):
    def fn(x):
        other = lambda x: x @ x @ x @ x
        by = lambda x: lax.platform_dependent(x, cpu=lambda x: x @ x, default=other)
        return jax.jit(by)(x)

    flops = traced_flops(fn, shape(N, N), platform=platform)
    assert flops.total() == products * 2 * N**3


def test_a_platform_without_a_branch_counts_the_dearest():
    by = lambda x: lax.platform_dependent(x, cpu=lambda x: x @ x, tpu=lambda x: x)
    assert traced_flops(by, shape(N, N), platform="cuda").total() == 2 * N**3


ROUTINES = {  # name: (function, shape, operations of one matrix)
    "cholesky": (jnp.linalg.cholesky, SQUARE, N**3 / 3),
    "eigh": (jnp.linalg.eigh, SQUARE, 9 * N**3),
    "lu": (lambda x: lax.linalg.lu(x)[0], SQUARE, 2 * N**3 / 3),
    "qr": (jnp.linalg.qr, TALL, 2 * (2 * M * N**2 - 2 * N**3 / 3)),
    "svd": (
        lambda x: jnp.linalg.svd(x, full_matrices=False),
        TALL,
        6 * M * N**2 + 20 * N**3,
    ),
    "triangular solve": (
        lambda x: lax.linalg.triangular_solve(x, x, left_side=True),
        SQUARE,
        N * N * N,
    ),
}


@pytest.mark.parametrize("name", ROUTINES)
def test_factorizations(name):
    function, dims, each = ROUTINES[name]
    assert traced_flops(function, shape(*dims)).total() == pytest.approx(3 * each)


@pytest.mark.parametrize("name", ROUTINES)
def test_factorizations_as_the_compiled_program_has_them(name):
    function, dims, _ = ROUTINES[name]
    found = count(jax.jit(function).lower(shape(*dims)).compile())
    assert traced_flops(function, shape(*dims)).total() == pytest.approx(found.flops)


def test_several_times():
    assert times(traced_flops(jnp.matmul, shape(2, 2), shape(2, 2)), 3).total() == 48
