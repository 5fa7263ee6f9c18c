# SPDX-License-Identifier: Apache-2.0
"""Scales that read the Gram matrix, against float64 NumPy and singular values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import aol, gelfand, local, schatten, spectral

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 9))
Z = X + 1j * RNG.normal(size=X.shape)


def rows(x):
    """sqrt(d), (..., m, 1)."""
    gram = np.abs(x @ np.swapaxes(x, -1, -2).conj())
    return np.sqrt(gram.sum(-1, keepdims=True))


def schatten_norm(p, x):
    s = np.linalg.svd(x, compute_uv=False)
    return np.sum(s**p, -1)[..., None, None] ** (1 / p)


def largest(x):
    return np.linalg.svd(x, compute_uv=False)[..., :1, None]


SCALES = {  # constructor, what it divides by, what its epsilon does to that
    "aol": (aol, rows, lambda n, e: np.sqrt(np.maximum(n**2, e))),
    "schatten": (
        schatten,
        functools.partial(schatten_norm, 4),
        lambda n, e: np.sqrt(np.maximum(n**2, e)),
    ),
    "spectral": (spectral, largest, np.add),
    "gelfand 3": (
        lambda eps=None: gelfand(3, eps),
        functools.partial(schatten_norm, 6),
        np.add,
    ),
    "gelfand 5": (
        lambda eps=None: gelfand(5, eps),
        functools.partial(schatten_norm, 10),
        np.add,
    ),
}


@pytest.mark.parametrize("x", [X, Z], ids=["real", "complex"])
@pytest.mark.parametrize("name", SCALES)
def test_against_numpy(name, x):
    make, norm, floor = SCALES[name]
    with jax.enable_x64(True):
        for eps in (None, 20.0):
            got, gram, _ = make(eps)(jnp.asarray(x), local)
            want = x / (norm(x) if eps is None else floor(norm(x), eps))
            np.testing.assert_allclose(got, want, rtol=1e-12)
            square = want @ np.swapaxes(want, -1, -2).conj()
            np.testing.assert_allclose(gram, square, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCALES)
def test_no_singular_value_exceeds_one(name):
    for x in (X, X * [[[1.0], [1e-4], [1.0], [1e-9]]], np.ones((2, 5))):
        y = SCALES[name][0]()(jnp.asarray(x, jnp.float32), local).x
        s = np.linalg.svd(np.asarray(y, np.float64), compute_uv=False)
        assert s.max() <= 1 + 1e-6
        assert s.max() > 0.4  # and they are not far below


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("name", SCALES)
def test_the_size_of_the_input_has_no_effect(name, size):
    scale, x = SCALES[name][0](), jnp.asarray(X, jnp.float32)
    for got, want in zip(scale(x * size, local)[:2], scale(x, local)[:2], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("eps", [None, 1e-7])
def test_zero_stays_zero_and_nan_stays_in_its_matrix(name, eps):
    x = jnp.asarray(X, jnp.float32).at[0].set(0.0).at[1, 0, 0].set(jnp.nan)
    x = x.at[2, 3].set(0.0)  # one row
    y, gram = (np.asarray(v) for v in SCALES[name][0](eps)(x, local)[:2])
    assert np.all(y[0] == 0)
    assert np.all(gram[0] == 0)
    assert np.isnan(y[1]).any()
    assert np.isfinite(y[2]).all()
    assert np.all(y[2, 3] == 0)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: aol(-1.0), "eps=-1.0 is out of range"),
        (lambda: schatten(float("nan")), "eps=nan is out of range"),
        (lambda: spectral(-1.0), "eps=-1.0 is out of range"),
        (lambda: gelfand(5, -1.0), "eps=-1.0 is out of range"),
        (lambda: gelfand(4), "degree=4 is no power it can take"),
    ],
)
def test_bad_numbers(make, wrong):
    with pytest.raises(ValueError, match=rf": {wrong}\. Expected .*\. \w+ "):
        make()
