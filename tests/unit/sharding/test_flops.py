# SPDX-License-Identifier: Apache-2.0
"""Products and factorizations, as the CPU compiler writes them and as others do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from orthoptax.sharding.compiled.counting import count


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


def compiled(fn, *args):
    return jax.jit(fn).lower(*args).compile()


def conv(a, b, **how):
    how = {"window_strides": (1, 1), "padding": "SAME", **how}
    return lax.conv_general_dilated(a, b, **how)


IMAGE, KERNEL = shape(2, 4, 9, 8), shape(6, 4, 3, 3)
PRODUCTS = {
    "matrices": (jnp.matmul, shape(64, 128), shape(128, 32)),
    "one row": (jnp.matmul, shape(1, 128), shape(128, 32)),
    "large": (jnp.matmul, shape(512, 512), shape(512, 512)),
    "batched": (jnp.matmul, shape(3, 5, 64, 32), shape(3, 5, 32, 16)),
    "transposed": (lambda a, b: a.T @ b.T, shape(64, 48), shape(32, 64)),
    "vector": (jnp.matmul, shape(64, 128), shape(128)),
    "two axes": (lambda a, b: jnp.tensordot(a, b, 2), shape(8, 6, 4), shape(6, 4, 10)),
    "several": (lambda a, b: a @ b @ a @ b, shape(16, 24), shape(24, 16)),
    "integers": (jnp.matmul, shape(8, 16, dtype="int8"), shape(16, 4, dtype="int8")),
    "convolution": (conv, IMAGE, KERNEL),
    "strided": (lambda a, b: conv(a, b, window_strides=(2, 3)), IMAGE, KERNEL),
    "valid": (lambda a, b: conv(a, b, padding="VALID"), IMAGE, KERNEL),
    "dilated": (lambda a, b: conv(a, b, rhs_dilation=(2, 1)), IMAGE, KERNEL),
    "between": (
        lambda a, b: conv(a, b, lhs_dilation=(2, 3), padding=[(2, 1), (-1, 3)],
                          window_strides=(4, 2)), IMAGE, KERNEL,
    ),
    "groups": (
        lambda a, b: conv(a, b, feature_group_count=2), IMAGE, shape(6, 2, 3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_of_cost_analysis(name):
    program = compiled(*PRODUCTS[name])
    total = count(program)
    assert total.flops == program.cost_analysis()["flops"]
    assert (total.factorization_flops, total.not_counted) == (0, ())


@pytest.mark.parametrize(
    ("dtype", "each"), [("bfloat16", 2), ("float16", 2), ("complex64", 8)]
)
def test_products_of_other_types(dtype, each):
    args = shape(64, 32, dtype=dtype), shape(32, 48, dtype=dtype)
    assert count(compiled(jnp.matmul, *args)).flops == each * 64 * 32 * 48


def only_r(x):
    return jnp.linalg.qr(x, mode="r")


B, M, K = 3, 40, 24
FACTORIZATIONS = {
    # R takes 2 k^2 (m - k/3), and so does Q.
    "qr": (jnp.linalg.qr, [shape(B, M, K)], 4 * K**2 * (M - K / 3)),
    "whole q": (
        lambda x: jnp.linalg.qr(x, mode="complete"), [shape(B, M, K)],
        2 * K**2 * (M - K / 3) + 4 * M**2 * K - 4 * M * K**2 + 4 * K**3 / 3,
    ),
    "r": (only_r, [shape(B, M, K)], 2 * K**2 * (M - K / 3)),
    "wide r": (only_r, [shape(B, K, M)], 2 * K**2 * (M - K / 3)),
    "cholesky": (jnp.linalg.cholesky, [shape(B, M, M)], M**3 / 3),
    "triangular": (
        lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True),
        [shape(B, M, M), shape(B, M, K)], M**2 * K,
    ),
    "triangular right": (
        lax.linalg.triangular_solve, [shape(B, M, M), shape(B, K, M)], M**2 * K,
    ),
    "solve": (
        jnp.linalg.solve, [shape(B, M, M), shape(B, M, K)], 2 * M**3 / 3 + 2 * M**2 * K,
    ),
    "eigh": (jnp.linalg.eigh, [shape(B, M, M)], 9 * M**3),
    "svd": (
        lambda x: jnp.linalg.svd(x, full_matrices=False),
        [shape(B, M, K)], 6 * M * K**2 + 20 * K**3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_factorizations(name):
    fn, args, each = FACTORIZATIONS[name]
    total = count(compiled(fn, *args))
    np.testing.assert_allclose(total.factorization_flops, B * each, rtol=1e-12)
    assert (total.flops, total.not_counted) == (total.factorization_flops, ())


def test_complex_factorizations():
    total = count(compiled(jnp.linalg.cholesky, shape(M, M, dtype="complex64")))
    np.testing.assert_allclose(total.flops, 4 * M**3 / 3, rtol=1e-12)


def program(out, line, *taken):
    """One operation on arrays of these types."""
    names = "abc"[: len(taken)]
    lines = [
        f"{n} = {t} parameter({i})"
        for i, (n, t) in enumerate(zip(names, taken, strict=True))
    ]
    body = "\n  ".join([*lines, f"ROOT r = {out} {line}"])
    return count(f"ENTRY main {{\n  {body}\n}}")


TPU = {  # (out, left, right, attributes, multiplications)
    "plain": ("[64,32]", "[64,48]", "[48,32]", "dim_labels=bf_io->bf", 64 * 32 * 48),
    "turned": ("[64,32]", "[48,64]", "[32,48]", "dim_labels=fb_oi->bf", 64 * 32 * 48),
    "batched": (
        "[8,64,32]", "[8,64,48]", "[8,48,32]",
        "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf",
        8 * 64 * 32 * 48,
    ),
    "batched twice": (
        "[8,3,64,32]", "[8,3,64,48]", "[8,3,48,32]",
        "window={size=8x3 stride=7x2 lhs_dilate=8x3}, dim_labels=01bf_01io->01bf",
        8 * 3 * 64 * 32 * 48,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TPU)
def test_products_as_tpu_writes_them(name):
    out, left, right, attributes, pairs = TPU[name]
    out, left, right = (f"f32{dims}{{1,0:T(8,128)S(1)}}" for dims in (out, left, right))
    assert (
        program(out, f"convolution(a, b), {attributes}", left, right).flops == 2 * pairs
    )


@pytest.mark.parametrize("pad", [-1, 0, 2])
@pytest.mark.parametrize("between", [1, 2, 3, 4])
def test_windows_against_a_loop(pad, between):
    for taken, size, stride, apart in itertools.product(
        (1, 5), (1, 4), (1, 2, 6), (1, 3)
    ):
        out = 4
        meet = [
            0 <= (at := o * stride + k * apart - pad) <= (taken - 1) * between
            and at % between == 0
            for o in range(out)
            for k in range(size)
        ]
        window = (
            f"size={size} stride={stride} pad={pad}_9 lhs_dilate={between} "
            f"rhs_dilate={apart}"
        )
        total = program(
            f"f32[2,{out},7]{{2,1,0}}",
            f"convolution(a, b), window={{{window}}}, dim_labels=b0f_0io->b0f",
            f"f32[2,{taken},3]{{2,1,0}}",
            f"f32[{size},3,7]{{2,1,0}}",
        )
        assert total.flops == 2 * 2 * 3 * 7 * sum(meet)


def test_a_product_of_cublas():
    config = (
        '{"gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["2"],'
        '"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}'
    )
    total = program(
        "(f32[3,8,16]{2,1,0}, s8[4096]{0})",
        f'custom-call(a, b), custom_call_target="__cublas$gemm", config={config}',
        "f32[3,32,8]{2,1,0}",
        "f32[3,16,32]{2,1,0}",
    )
    assert total.flops == 2 * 3 * 8 * 16 * 32
    assert total.not_counted == ()


SQUARE, TALL = f"f32[5,{K},{K}]{{2,1,0}}", f"f32[5,{M},{K}]{{2,1,0}}"
ROUTINES = {  # (out, operation, arrays, operations for each of five)
    "cholesky": (SQUARE, "cholesky(a), lower=true", [SQUARE], K**3 / 3),
    "solve": (
        TALL, "triangular-solve(a, b), left_side=false", [SQUARE, TALL], M * K**2,
    ),
    "QrDecompositionBlock": (
        f"({TALL}, f32[5,{K}]{{1,0}})", "", [TALL], 2 * K**2 * (M - K / 3),
    ),
    "Cholesky": (SQUARE, "", [SQUARE], K**3 / 3),
    "InvertDiagBlocksLowerTriangular": (SQUARE, "", [SQUARE], K**3 / 3),
    "LuDecompositionBlock": (
        f"({TALL}, s32[5,{K}]{{1,0}})", "", [TALL], M * K**2 - K**3 / 3,
    ),
    "cusolver_potrf_ffi": (f"({SQUARE}, s32[5]{{0}})", "", [SQUARE], K**3 / 3),
    "cusolver_orgqr_ffi": (
        TALL, "", [TALL, f"f32[5,{K}]{{1,0}}"], 2 * K**2 * (M - K / 3),
    ),
    "__cublas$triangularSolve": (
        f"({TALL}, s8[64]{{0}})", "", [SQUARE, TALL], M * K**2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTINES)
def test_factorizations_of_other_compilers(name):
    out, line, taken, each = ROUTINES[name]
    operands = ", ".join("ab"[: len(taken)])
    call = f'custom-call({operands}), custom_call_target="{name}"'
    total = program(out, line or call, *taken)
    np.testing.assert_allclose(total.factorization_flops, 5 * each, rtol=1e-12)
    assert total.not_counted == ()


@pytest.mark.parametrize(
    "name", ["ConcatBitcast", "AsyncCollectiveStart", "MoveToHost"]
)
def test_routines_that_cost_nothing(name):
    total = program(TALL, f'custom-call(a), custom_call_target="{name}"', TALL)
    assert (total.flops, total.not_counted) == (0, ())


def test_other_routines_are_named():
    call = 'custom-call(a), custom_call_target="tpu_custom_call"'
    assert program(TALL, call, TALL).not_counted == ("tpu_custom_call",)
    assert program(TALL, "ragged-dot(a, a, a)", TALL).not_counted == ("ragged-dot",)


def test_a_convolution_without_labels_is_refused():
    with pytest.raises(
        ValueError, match=r"convolution 'r' .* Expected dim_labels.* Pass "
    ):
        program(TALL, "convolution(a, a)", TALL)
