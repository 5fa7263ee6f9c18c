# SPDX-License-Identifier: Apache-2.0
"""The iteration against the scalar recurrence of its singular values."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    CUBIC5,
    JORDAN,
    aol,
    block_products,
    newton_schulz,
    schatten,
    spectral,
)
from orthoptax.matrix.pallas import pallas_products

SCHEDULES = {
    "JORDAN": JORDAN,
    "CUBIC5": CUBIC5,
    "mixed degrees": (
        (1.5, -0.5),
        (1.5, -0.5),
        (35 / 16, -35 / 16, 21 / 16, -5 / 16),
        (15 / 8, -10 / 8, 3 / 8),
    ),
}


def scalar(schedule, x):
    """The composition of the polynomials at singular values, in float64."""
    for stage in schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    return x


def matrix_with(values, rows, cols, seed=0):
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    v, _ = np.linalg.qr(rng.normal(size=(cols, rows)))
    return u, np.asarray(values), v, u @ np.diag(values) @ v.T


@pytest.mark.parametrize("name", SCHEDULES)
def test_singular_values_follow_the_scalar_recurrence(name):
    schedule = SCHEDULES[name]
    u, s, v, x = matrix_with(np.geomspace(1, 1e-3, 6), 6, 9)
    with jax.enable_x64(True):
        out = np.asarray(jax.jit(newton_schulz(schedule))(jnp.asarray(x, jnp.float64)))
    want = u @ np.diag(scalar(schedule, s / np.linalg.norm(s))) @ v.T
    np.testing.assert_allclose(out, want, atol=1e-11)


@pytest.mark.parametrize("unroll", [False, True])
def test_loop_and_unrolled_form_agree_and_neighbours_loop(unroll):
    polar = newton_schulz(SCHEDULES["mixed degrees"], unroll=unroll)
    x = jnp.asarray(matrix_with(np.ones(4), 4, 6)[3], jnp.float32)
    text = jax.jit(polar).lower(x).as_text()
    assert text.count("stablehlo.while") == (0 if unroll else 1)
    np.testing.assert_allclose(polar(x), newton_schulz(SCHEDULES["mixed degrees"])(x),
                               atol=1e-6)  # fmt: skip


def test_a_zero_last_coefficient_makes_a_cubic():
    x = jnp.asarray(matrix_with(np.ones(4), 4, 6)[3], jnp.float32)

    def count(schedule):
        text = jax.jit(newton_schulz(schedule, unroll=True)).lower(x).as_text()
        return text.count("stablehlo.dot_general")

    assert count([(1.5, -0.5, 0.0)] * 3) == 2 * 3
    assert count([(1.5, -0.5, 0.1)] * 3) == 3 * 3


@pytest.mark.parametrize(
    ("dtype", "compute", "products"),
    [
        ("float32", None, "f32"),
        ("bfloat16", None, "f32"),
        ("float16", None, "f32"),
        ("float32", "bfloat16", "bf16"),
    ],
)
def test_dtype_of_the_products(dtype, compute, products):
    polar = newton_schulz(compute_dtype=compute)
    x = jnp.ones((4, 6), dtype)
    assert polar(x).dtype == x.dtype
    dots = [
        line
        for line in jax.jit(polar).lower(x).as_text().splitlines()
        if "stablehlo.dot_general" in line
    ]
    assert len(dots) == 3
    assert all(f"x{products}>, tensor<" in line for line in dots)
    assert all(line.rstrip().endswith("xf32>") for line in dots)
    assert all("HIGHEST" in line for line in dots)


@pytest.mark.parametrize("stages", [1, 4])
@pytest.mark.parametrize("scale", [aol, schatten, spectral])
def test_the_first_product_is_the_one_of_the_scale(scale, stages):
    x = jnp.asarray(matrix_with(np.ones(4), 4, 6)[3], jnp.float32)

    def dots(**options):
        polar = newton_schulz(JORDAN[:1] * stages, **options)
        return str(jax.make_jaxpr(polar)(x)).count("dot_general")

    assert dots(scale=scale(), unroll=True) == dots(unroll=True) == 3 * stages
    assert dots(scale=scale()) == 3 * min(stages, 2)  # the first, and the loop's body


def test_a_loop_after_a_scale_that_hands_on_its_product():
    x = jnp.asarray(matrix_with(np.geomspace(1, 0.1, 4), 4, 6)[3], jnp.float32)
    loop, plain = (newton_schulz(scale=aol(), unroll=u) for u in (False, True))
    np.testing.assert_allclose(loop(x), plain(x), atol=1e-6)


def test_sixteen_bit_operands_of_complex_numbers_stay_complex():
    x = jnp.asarray(matrix_with(np.ones(4), 4, 6)[3], jnp.complex64) * 1j
    out = newton_schulz(compute_dtype=jnp.bfloat16)(x)
    assert out.dtype == jnp.complex64
    np.testing.assert_allclose(out, newton_schulz()(x), atol=1e-6)


def test_precision_is_passed_to_every_product():
    text = jax.jit(newton_schulz(precision="default")).lower(jnp.ones((4, 6))).as_text()
    assert "HIGHEST" not in text
    assert text.count("stablehlo.dot_general") == 3


@pytest.mark.parametrize(
    ("options", "sums"),
    [
        ({}, 0),
        ({"precision": "highest"}, 0),
        ({"precision": "high"}, 1),
        ({"compute_dtype": jnp.bfloat16}, 1),
        ({"products": block_products()}, 0),
        ({"products": pallas_products(interpret=True)}, 1),
    ],
)
def test_the_identity_is_an_operand_only_of_what_keeps_float32(options, sums):
    for polar in (
        newton_schulz(JORDAN[:1], **options),
        newton_schulz(JORDAN[:1], scale=schatten(), **options),
    ):
        text = jax.jit(polar).lower(jnp.ones((4, 6))).as_text()
        found = re.findall(r"stablehlo\.add %.*tensor<4x6x", text)
        assert len(found) == sums  # c_0 X + Z X


@pytest.mark.parametrize(
    "schedule", [[], [(1.5,)], [(1.5, float("nan"))], [(1.5, float("inf"), 0.1)]]
)
def test_unusable_schedules(schedule):
    with pytest.raises(
        ValueError, match=r"newton_schulz: schedule .* is not usable\. E"
    ):
        newton_schulz(schedule)


def test_a_scale_must_be_a_function():
    with pytest.raises(
        TypeError, match=r"scale='frobenius' is not a function\. Expected"
    ):
        newton_schulz(scale="frobenius")  # type: ignore[arg-type]
