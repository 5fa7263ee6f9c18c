# SPDX-License-Identifier: Apache-2.0
"""What every polar kernel must obey, one for each way to compute; see `KERNELS`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    CUBIC5,
    POLAR_EXPRESS_101,
    TURBO,
    Hardware,
    aol,
    auto,
    by_shape,
    cans,
    degree_17,
    eigh,
    frobenius,
    gelfand,
    gram_newton_schulz,
    newton_schulz,
    schatten,
    small_side_first,
    spectral,
    svd,
)

KERNELS = {
    "jordan": newton_schulz(),
    "cubic": newton_schulz(CUBIC5),
    "polar_express": newton_schulz(
        POLAR_EXPRESS_101, scale=frobenius(factor=1.01), unroll=True
    ),
    "aol": newton_schulz(TURBO, scale=aol()),
    "schatten": newton_schulz(scale=schatten()),
    "spectral": newton_schulz(scale=spectral()),
    "cans": newton_schulz(cans(3, first=1), scale=gelfand()),
    "gram": gram_newton_schulz(),
    "degree_17": degree_17(),
    "auto": auto(hardware=Hardware(halve=4)),
    "by_shape": by_shape({(4, 9): CUBIC5}),
    "svd": svd(),
    "eigh": eigh(),
}
ROWS = {"aol"}  # divides each row by a number of its own: not the same under rotations
SHAPES = [(5, 5), (4, 9), (1, 6)]
RNG = np.random.default_rng(0)


def random(shape):
    return RNG.normal(size=shape)


def rotation(n):
    return np.linalg.qr(random((n, n)))[0]


def signed_permutation(n):
    return np.diag(RNG.choice([-1.0, 1.0], n))[RNG.permutation(n)]


@pytest.fixture(autouse=True)
def _double_and_strict():
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_equivariance(name, shape):
    polar = small_side_first(jax.jit(KERNELS[name]))
    x, v = random(shape), rotation(shape[1])
    u = (signed_permutation if name in ROWS else rotation)(shape[0])
    o, turned, odd, large = np.asarray(
        polar(jnp.asarray(np.stack([x, u @ x @ v, -x, 3.7e8 * x])))
    )
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    near(turned, u @ o @ v)
    near(odd, -o)
    near(large, o)
    if name not in ROWS or shape[0] != shape[1]:  # else it divides columns, not rows
        back = polar(jnp.asarray(np.broadcast_to(x.T, (4, *x.T.shape))))
        near(back, np.broadcast_to(o.T, back.shape))


@pytest.mark.parametrize("name", KERNELS)
def test_batch_equals_loop_and_zero_and_nan_stay_apart(name):
    x = random((5, 3, 7))
    x[1] = 0
    x[2, 0, 0] = np.nan
    out = np.asarray(jax.jit(KERNELS[name])(jnp.asarray(x)))
    assert np.all(out[1] == 0)
    assert np.isnan(out[2]).any()
    for i in (0, 3, 4):  # these not compiled as a whole
        alone = KERNELS[name](jnp.asarray(x[i]))
        np.testing.assert_allclose(out[i], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", KERNELS)
def test_batches_of_none_and_of_many_axes(name):
    for shape in ((0, 3, 7), (0, 2, 3, 3), (2, 1, 4, 3, 7)):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        out = jax.eval_shape(KERNELS[name], x)
        assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert KERNELS[name](jnp.zeros((0, 3, 7))).shape == (0, 3, 7)


@pytest.mark.parametrize("name", KERNELS)
def test_complex_matrices_have_complex_polar_factors(name):
    x = random((4, 6)) + 1j * random((4, 6))
    scaled = x
    if name in ROWS:
        scaled = x / np.sqrt(np.abs(x @ x.conj().T).sum(-1, keepdims=True))
    u, _, vh = np.linalg.svd(scaled, full_matrices=False)
    o = np.asarray(jax.jit(KERNELS[name])(jnp.asarray(x)))
    mapped = u.conj().T @ o @ vh.conj().T  # diagonal and real
    np.testing.assert_allclose(mapped, np.diag(np.diag(mapped).real), atol=1e-9)
    assert np.diag(mapped).real.min() > 0.4


@pytest.mark.parametrize("name", KERNELS)
def test_sixty_decades_in_single_precision(name):
    x, polar = random((4, 9)), jax.jit(KERNELS[name])
    one, *others = (
        polar(jnp.asarray(x, jnp.float32) * size) for size in (1.0, 2.0**-100, 2.0**100)
    )
    for other in others:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", KERNELS)
def test_sixteen_bits_come_and_go_in_sixteen_bits(name, dtype):
    x = jnp.asarray(random((4, 9)), dtype)
    out = jax.eval_shape(KERNELS[name], x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
