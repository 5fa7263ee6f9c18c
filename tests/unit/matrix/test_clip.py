# SPDX-License-Identifier: Apache-2.0
"""Bounds on singular values against NumPy's SVD, with the exact polar factor inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import clipped_decay, hard_cap, spectral_clip, svd
from tests.zoo import QUICKLY

RNG = np.random.default_rng(0)
SHAPE = (3, 4, 6)
X = RNG.normal(size=SHAPE)


def mapped(x, function):
    """The matrix whose singular values went through a function."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return u @ (function(s)[..., None] * vh)


def double(function, x):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(function, compiler_options=QUICKLY)(jnp.asarray(x)))


EXACT = {
    "clip": (spectral_clip(0.9, 1.6, polar=svd()), lambda s: np.clip(s, 0.9, 1.6)),
    "clip, inert end": (spectral_clip(-0.5, 0.8, polar=svd()),
                        lambda s: np.minimum(s, 0.8)),
    "cap": (hard_cap(0.7, polar=svd()), lambda s: np.minimum(s, 0.7)),
    "decay": (clipped_decay(0.7, 0.25, polar=svd()),
              lambda s: 0.75 * s + 0.25 * np.minimum(s, 0.7)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_against_numpy_both_ways_up(name):
    function, scalar = EXACT[name]
    want = mapped(X, scalar)
    np.testing.assert_allclose(double(function, X), want, atol=1e-12)
    tall = np.swapaxes(X, -1, -2)
    np.testing.assert_allclose(
        double(function, tall), np.swapaxes(want, -1, -2), atol=1e-12
    )


DEFAULT = {
    "clip": (spectral_clip(0.5, 0.8), lambda s: np.clip(s, 0.5, 0.8)),
    "cap": (hard_cap(0.7), lambda s: np.minimum(s, 0.7)),
    "decay": (clipped_decay(0.7), lambda s: (s + np.minimum(s, 0.7)) / 2),
}
ITERATED = {
    name: jax.jit(function, compiler_options=QUICKLY)
    for name, (function, _) in DEFAULT.items()
}


@pytest.mark.parametrize("name", DEFAULT)
def test_default_polar_comes_near_in_single_precision(name):
    x = jnp.asarray(X, jnp.float32)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        out = ITERATED[name](x)
    np.testing.assert_allclose(out, mapped(X, DEFAULT[name][1]), atol=2e-4)


@pytest.mark.parametrize("name", ["clip", "cap"])
def test_a_second_time_changes_nothing(name):
    once = ITERATED[name](jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(ITERATED[name](once), once, atol=2e-4)


@pytest.mark.parametrize("name", ["clip", "cap"])
def test_the_cap_holds_also_where_the_polar_factor_is_unfinished(name):
    u, _, vh = np.linalg.svd(X, full_matrices=False)
    x = jnp.asarray((u * [3.0, 0.7, 1e-4, 1e-7]) @ vh, jnp.float32)
    top = np.linalg.svd(ITERATED[name](x), compute_uv=False)[:, 0]
    assert top.max() < {"clip": 0.8, "cap": 0.7}[name] + 1e-4


@pytest.mark.parametrize("name", DEFAULT)
def test_zero_nan_and_batch(name):
    x = X.astype(np.float32)
    x[0] = 0
    x[1, 2, 3] = np.nan
    out = np.asarray(ITERATED[name](jnp.asarray(x)))
    np.testing.assert_array_equal(out[0], 0)
    assert np.isnan(out[1]).any()
    alone = np.asarray(ITERATED[name](jnp.asarray(X[[2, 2, 2]], jnp.float32)))
    np.testing.assert_allclose(out[2], alone[0], atol=1e-6)


def test_sixteen_bit_and_traced_bounds():
    x = jnp.asarray(X[0], jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        out = jax.jit(lambda x, cap, c: clipped_decay(cap, c)(x))(x, 0.7, 0.5)
    assert out.dtype == jnp.bfloat16
    want = mapped(np.asarray(x, np.float64), DEFAULT["decay"][1])
    np.testing.assert_allclose(np.asarray(out, np.float64), want, atol=1e-2)
    bounds = jnp.asarray([0.5, 0.8])
    traced = jax.jit(lambda x, b: spectral_clip(b[0], b[1])(x))
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(traced(x, bounds), ITERATED["clip"](x), atol=1e-5)


def test_hard_cap_forms_small_products_only():
    text = jax.jit(hard_cap()).lower(jnp.ones((3, 50))).as_text()
    assert "tensor<50x50xf32>" not in text


@pytest.mark.parametrize("make", [spectral_clip, hard_cap, clipped_decay])
def test_the_polar_must_be_a_function(make):
    with pytest.raises(
        TypeError, match=r"polar='svd' is not a function\. Expected a function\. Pass"
    ):
        make(polar="svd")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: hard_cap(-1.0), "hard_cap: cap=-1.0 is out of range"),
        (
            lambda: clipped_decay(1.0, 1.5),
            "clipped_decay: strength=1.5 is out of range",
        ),
        (
            lambda: spectral_clip(0.5, float("nan")),
            "spectral_clip: upper=nan is out of",
        ),
        (
            lambda: spectral_clip(0.9, 0.5),
            "spectral_clip: lower=0.9 is above upper=0.5",
        ),
    ],
)
def test_bad_numbers(make, name):
    with pytest.raises(ValueError, match=rf"{name}.*\. Expected .*\. (Change|Swap)"):
        make()


def test_a_full_strength_is_the_cap():
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(
        jax.jit(clipped_decay(0.7, 1.0))(x), ITERATED["cap"](x), atol=1e-6
    )
