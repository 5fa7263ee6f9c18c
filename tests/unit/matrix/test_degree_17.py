# SPDX-License-Identifier: Apache-2.0
"""Degree 17 against its scalar recurrence and its own degree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import DEGREE_17, Factored, degree_17, schatten

RNG = np.random.default_rng(0)


def scalar(stages, x):
    """The polynomials at singular values, from the definition."""
    for left, right, out in stages:
        y = [np.ones_like(x), x * x]
        for a, b in zip(left, right, strict=True):
            first = sum(c * v for c, v in zip(a, y, strict=True))
            y.append(first * sum(c * v for c, v in zip(b, y, strict=True)))
        x = x * sum(c * v for c, v in zip(out, y, strict=True))
    return x


def matrix_with(s, cols):
    u, _ = np.linalg.qr(RNG.normal(size=(len(s), len(s))))
    v, _ = np.linalg.qr(RNG.normal(size=(cols, len(s))))
    return u, v, u * s @ v.T


@pytest.mark.parametrize("scale", [None, schatten()], ids=["frobenius", "schatten"])
@pytest.mark.parametrize("count", [1, 4])
def test_singular_values_follow_the_scalar_recurrence(count, scale):
    s = np.geomspace(1, 1e-3, 6)
    u, v, x = matrix_with(s, 9)
    with jax.enable_x64(True):
        out = degree_17(DEGREE_17[:count], scale=scale)(jnp.asarray(x))
    norm = 1.01 * np.linalg.norm(s) if scale is None else np.sum(s**4) ** 0.25
    want = u * scalar(DEGREE_17[:count], s / norm) @ v.T
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-10)


def test_bands_are_those_the_docstring_states():
    x = np.geomspace(0.01, 1, 20001) / 1.01
    y = scalar(DEGREE_17[:3], x)
    assert (round(y.min(), 3), round(y.max(), 3)) == (0.969, 1.011)
    np.testing.assert_allclose(scalar(DEGREE_17, x), 1, atol=2e-7)
    np.testing.assert_allclose(scalar((*DEGREE_17, DEGREE_17[3]), x), 1, atol=2e-7)


def test_each_stage_is_an_odd_polynomial_of_degree_17():
    x = np.linspace(0, 1, 18)
    for stage in DEGREE_17:
        p = np.polynomial.Polynomial.fit(x, scalar([stage], x) / 1, 17)
        between = np.linspace(0.01, 0.99, 50)
        np.testing.assert_allclose(p(between), scalar([stage], between), atol=1e-6)
        np.testing.assert_array_equal(scalar([stage], -x), -scalar([stage], x))


def test_five_products_a_stage_two_of_them_long():
    x = jnp.ones((4, 16))
    text = str(jax.make_jaxpr(degree_17())(x))
    assert text.count("dot_general") == 5  # of the loop's body
    text = str(jax.make_jaxpr(degree_17(DEGREE_17[:1], scale=schatten()))(x))
    assert text.count("dot_general") == 5  # the scale's product is the first
    assert "scan" not in text


def test_sixteen_bits_for_the_long_side_alone():
    x = jnp.asarray(matrix_with(np.geomspace(1, 0.01, 32), 96)[2], jnp.float32)
    out = degree_17(compute_dtype=jnp.bfloat16)(x)
    s = np.linalg.svd(np.asarray(out, np.float64), compute_uv=False)
    assert s.min() > 0.85
    assert s.max() < 1.15
    text = jax.jit(degree_17(compute_dtype=jnp.bfloat16)).lower(x).as_text()
    dots = [s.split(" : ")[1] for s in text.splitlines() if "dot_general" in s]
    for types in dots:
        assert types.count("xbf16>") == (2 if "x96x" in types else 0), types


@pytest.mark.parametrize(
    "stages", [[], [Factored(*DEGREE_17[0][:2], (1.0, 2.0))], [((), (), (1.0,) * 5)]]
)
def test_unusable_stages(stages):
    with pytest.raises(
        ValueError, match=r"degree_17: stages with .* not usable\. Expected .*\. Pass"
    ):
        degree_17(stages)
