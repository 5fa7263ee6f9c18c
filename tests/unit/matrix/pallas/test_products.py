# SPDX-License-Identifier: Apache-2.0
"""Symmetric products: the two forms agree, and each runs where it should."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from orthoptax.matrix import JORDAN
from orthoptax.matrix.pallas import pallas_products

FORMS = {"XLA": pallas_products(), "kernel": pallas_products(interpret=True)}
forms = pytest.mark.parametrize("products", FORMS.values(), ids=FORMS)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def gram(x):
    x = np.asarray(x, np.float64)
    return x @ x.swapaxes(-1, -2)


def positive(rng, *shape):
    """Symmetric matrices of norm 1 in float64."""
    a = gram(normal(rng, *shape))
    return a / np.linalg.norm(a, 2, axis=(-2, -1))[..., None, None]


@forms
@pytest.mark.parametrize("shape", [(256, 100), (2, 1, 300, 170), (0, 256, 8)])
def test_gram_of_any_sides_and_axes_in_front(products, shape, rng):
    x = normal(rng, *shape)
    found = jax.jit(products.gram)(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, gram(x), rtol=0, atol=2e-4)


@forms
def test_a_stage_of_two_polynomials_of_one_matrix(products, rng):
    a = positive(rng, 2, 257, 400)
    b = a @ a - 0.5 * a
    plus = 3 * a
    weights = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, 4.0]])
    arrays = [jnp.asarray(z, jnp.float32) for z in (a, b, plus, weights)]
    w = weights[:, :, None, None]
    expected = w[:, 0] * (a @ b) + w[:, 1] * plus + w[:, 2] * np.eye(257)
    found = jax.jit(products.combined)(*arrays)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    found = jax.jit(products.commuting)(*arrays[:2])
    np.testing.assert_allclose(found, a @ b, rtol=0, atol=1e-6)


@forms
def test_axes_in_front_are_broadcast(products, rng):
    a = positive(rng, 256, 256)
    one = jnp.asarray(a, jnp.float32)
    two = jnp.stack([one, 2 * one])[:, None]
    weights = np.arange(6.0).reshape(2, 3)  # of the second axis of (2, 2, 256, 256)
    found = products.combined(one, two, None, weights)
    factor = np.array([1.0, 2.0])[:, None, None, None]
    w = weights[:, :, None, None]
    expected = factor * w[:, 0] * (a @ a) + w[:, 2] * np.eye(256)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


@forms
def test_jordans_iteration(products, rng):
    """Two stages, whose coefficients a loop hands on, against singular values."""
    x = normal(rng, 256, 320)
    x /= np.linalg.norm(x)

    def stage(x, c):
        a = products.gram(x)
        m = products.combined(a, a, a, (c[2], c[1], c[0]))
        return jnp.matmul(m, x, precision="highest"), None

    found, _ = jax.jit(functools.partial(jax.lax.scan, stage))(
        x, jnp.asarray(JORDAN[:2], jnp.float32)
    )
    u, s, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    for c0, c1, c2 in JORDAN[:2]:
        s = s * (c0 + c1 * s**2 + c2 * s**4)
    np.testing.assert_allclose(found, (u * s) @ v, rtol=0, atol=2e-6)


@forms
def test_vmap_and_weights_of_each_matrix(products, rng):
    a = positive(rng, 3, 256, 300)
    weights = np.arange(9.0).reshape(3, 3)
    fn = jax.vmap(lambda a, w: products.combined(a, a, a, w))
    found = jax.jit(fn)(jnp.asarray(a, jnp.float32), jnp.asarray(weights, jnp.float32))
    w = weights[:, :, None, None]
    expected = w[:, 0] * (a @ a) + w[:, 1] * a + w[:, 2] * np.eye(256)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "check_vma"), [("XLA", True), ("XLA", False), ("kernel", False)]
)
def test_each_device_works_on_its_own_inside_shard_map(form, check_vma, rng):
    """JAX interprets no kernel where it tracks which arrays differ: there XLA alone."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x, plus = normal(rng, 8, 256, 64), positive(rng, 1, 256, 256)
    products, cut = FORMS[form], PartitionSpec("d")

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(cut, PartitionSpec()),
        out_specs=cut,
        check_vma=check_vma,
    )
    def step(x, plus):
        return products.combined(plus, x @ x.mT, plus, (0.0, 2.0, 1.0))

    found = jax.jit(step)(x, jnp.asarray(plus, jnp.float32))
    expected = np.broadcast_to(2 * plus + np.eye(256), (8, 256, 256))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_strict_promotion(form, rng):
    products = FORMS[form]
    a = jnp.asarray(positive(rng, 2, 256, 256), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = products.combined(a, a.astype(jnp.float32), a, (1.0, 2.0, 3.0))
    assert found.dtype == jnp.float32


@forms
def test_zero_stays_zero(products):
    x = jnp.zeros((256, 128))
    np.testing.assert_array_equal(products.gram(x), np.zeros((256, 256)))


@pytest.mark.parametrize("form", FORMS)
def test_dtypes_of_operands_and_results(form, rng):
    x = normal(rng, 256, 300)
    short = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)
    interpret = form == "kernel"
    exact = pallas_products(interpret=interpret).gram(jnp.asarray(x, jnp.bfloat16))
    assert exact.dtype == jnp.float32
    np.testing.assert_allclose(exact, gram(short), rtol=0, atol=1e-3)
    make = functools.partial(pallas_products, interpret=interpret)
    coarse = make(compute_dtype=jnp.bfloat16).gram(x)
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, gram(short), rtol=0, atol=1e-3)
    stored = make(dtype=jnp.bfloat16).gram(x)
    assert stored.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(stored, np.float64), gram(x), rtol=2**-8, atol=1e-3
    )


def test_other_numbers_and_small_matrices_run_in_xla(x64, rng):
    x = rng.standard_normal((256, 40))
    products = FORMS["kernel"]
    for given in (
        jnp.asarray(x),
        jnp.asarray(x + 1j * x[::-1]),
        jnp.asarray(x, jnp.float16),
        jnp.asarray(x[:255], jnp.float32),
    ):
        assert "pallas_call" not in str(jax.make_jaxpr(products.gram)(given))
    taken = jnp.asarray(x, jnp.float32)
    assert "pallas_call" in str(jax.make_jaxpr(products.gram)(taken))
    z = x + 1j * x[::-1]
    found = products.gram(jnp.asarray(z))
    assert found.dtype == jnp.complex128
    np.testing.assert_allclose(found, z @ z.conj().T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [256, 1100])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_form_is_chosen_where_the_program_is_lowered(m, dtype):
    a = jax.ShapeDtypeStruct((2, m, m), dtype)
    products = FORMS["XLA"]
    fn = lambda a, b: products.combined(a, b, a, (1.0, 2.0, 3.0))
    traced = jax.jit(fn).trace(a, a)
    for platform, kernels in ("tpu", 1), ("cpu", 0), ("cuda", 0):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("tpu_custom_call") == kernels
        assert text.count("dot_general") == 1 - kernels


def test_pallas_is_not_loaded_before_it_is_needed():
    program = (
        "import sys, orthoptax, orthoptax.matrix.pallas as room\n"
        "room.pallas_products()\n"
        "print(any(name.startswith('jax.experimental.pallas') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"pallas_products: precision='most' .* Pass"):
        pallas_products(precision="most")
    a, b = jnp.zeros((4, 4)), jnp.zeros((4, 5))
    with pytest.raises(ValueError, match=r"\[\(4, 4\), \(4, 5\)\] do not commute"):
        FORMS["XLA"].commuting(a, b)
    with pytest.raises(ValueError, match=r"\[\(4, 4\), \(4, 5\)\] do not commute"):
        FORMS["XLA"].combined(a, a, b, (1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"weights of shape \(2,\) are not three"):
        FORMS["XLA"].combined(a, a, None, (1.0, 2.0))
