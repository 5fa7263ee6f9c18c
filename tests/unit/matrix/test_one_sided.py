# SPDX-License-Identifier: Apache-2.0
"""The one-sided polar factor against NumPy's SVD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import Inner, one_sided_polar
from tests.zoo import QUICKLY

X = np.random.default_rng(0).normal(size=(2, 4, 6))


def factor(x, alpha=0.0):
    """U V^T (sum of the singular values)^alpha."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh * (s.sum(-1) ** alpha)[..., None, None]


def double(polar, x):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(polar, compiler_options=QUICKLY)(jnp.asarray(x)))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("left", [None, True, False])
def test_the_side_of_full_rank_gives_the_polar_factor(left, alpha):
    wide = X if left is not False else np.swapaxes(X, -1, -2)
    polar = one_sided_polar(left=left, alpha=alpha)
    np.testing.assert_allclose(double(polar, wide), factor(wide, alpha), atol=1e-10)


def test_the_default_side_is_the_shorter_one():
    tall = np.swapaxes(X, -1, -2)
    np.testing.assert_allclose(
        double(one_sided_polar(), tall), factor(tall), atol=1e-10
    )
    text = jax.jit(one_sided_polar()).lower(jnp.ones((50, 3))).as_text()
    assert "tensor<50x50xf32>" not in text


def test_the_other_side_drops_the_null_directions():
    # K is 6 x 6 of rank 4; the two null directions must be cut, not blown up.
    np.testing.assert_allclose(
        double(one_sided_polar(left=False, alpha=1.0), X), factor(X, 1.0), atol=1e-8
    )


def test_directions_at_the_rounding_of_k_are_dropped():
    u, _, vh = np.linalg.svd(X[0], full_matrices=False)
    keep = np.asarray([1.0, 0.5, 0.25, 1e-9])
    out = double(one_sided_polar(), (u * keep) @ vh)
    np.testing.assert_allclose(out, (u * [1, 1, 1, 0]) @ vh, atol=1e-6)


def test_centering_before_and_after():
    tall = np.swapaxes(X, -1, -2)
    center = lambda x: x - x.mean(axis=-2, keepdims=True)
    want = center(factor(center(tall), 0.5))
    got = double(one_sided_polar(alpha=0.5, center=True), tall)
    np.testing.assert_allclose(got, want, atol=1e-10)
    assert np.abs(got - factor(tall, 0.5)).max() > 0.1


def test_an_absolute_floor_counts_and_wipes_out_what_is_below_it():
    tiny = 1e-12 * X[0]
    out = double(one_sided_polar(eps=1e-15), tiny)
    # all eigenvalues are the floor, so K's inverse root is 1/sqrt(floor) everywhere
    np.testing.assert_allclose(out, tiny / np.sqrt(1e-15), rtol=1e-9)
    scaled = double(one_sided_polar(eps=1e-15, alpha=1.0), tiny)
    np.testing.assert_allclose(scaled, 4 * np.sqrt(1e-15) * out, rtol=1e-9)


COMPILED = jax.jit(one_sided_polar(alpha=1.0), compiler_options=QUICKLY)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e30])
def test_nuclear_norm_over_the_range_of_single_precision(size):
    x = jnp.asarray(np.float32(size) * X.astype(np.float32))
    out = np.asarray(COMPILED(x), np.float64) / size
    np.testing.assert_allclose(out, factor(X, 1.0), rtol=0, atol=2e-5)


def test_zero_nan_and_dtype():
    x = X.copy()
    x[0] = 0
    out = np.asarray(COMPILED(jnp.asarray(x, jnp.float32)))
    np.testing.assert_array_equal(out[0], 0)
    np.testing.assert_allclose(out[1], factor(X[1], 1.0), atol=2e-5)
    x[0, 1, 1] = np.nan
    np.testing.assert_array_equal(COMPILED(jnp.asarray(x, jnp.float32))[1], out[1])
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        struct = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
        assert jax.eval_shape(one_sided_polar(alpha=1.0, center=True), struct) == struct


def test_complex_matrices():
    x = X[0] + 1j * X[1]
    out = double(one_sided_polar(alpha=1.0), x)
    np.testing.assert_allclose(out, factor(x, 1.0), atol=1e-10)


def test_cut_columns_on_the_left_side():
    cut = jax.pmap(
        lambda x: one_sided_polar(alpha=1.0)(x, inner=Inner("tp")),
        axis_name="tp",
        devices=jax.devices()[:2],
    )
    x = X.astype(np.float32)
    whole = np.concatenate(np.asarray(cut(np.stack(np.split(x, 2, -1)))), axis=-1)
    np.testing.assert_allclose(whole, COMPILED(jnp.asarray(x)), atol=1e-5)


@pytest.mark.parametrize("options", [{"left": False}, {"center": True, "left": True}])
def test_what_needs_whole_matrices_says_so(options):
    def call(x):
        return one_sided_polar(**options)(x, inner=Inner("tp"))  # type: ignore[call-arg]

    with pytest.raises(
        ValueError,
        match=r"one_sided_polar: the long axis is cut over 'tp'\. Exp.*\. Pl",
    ):
        jax.vmap(call, axis_name="tp")(jnp.asarray(X, jnp.float32))


@pytest.mark.parametrize("name", ["alpha", "eps"])
def test_bad_numbers(name):
    with pytest.raises(
        ValueError, match=rf"one_sided_polar: {name}=-1\.0 is out of range\. Exp.*\. Ch"
    ):
        one_sided_polar(**{name: -1.0})
