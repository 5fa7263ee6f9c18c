# SPDX-License-Identifier: Apache-2.0
"""Each ball's direction: of unit norm, and the one that attains the dual norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    column_ball,
    frobenius_ball,
    frobenius_max,
    row_ball,
    sign_ball,
    spectral_ball,
    svd,
)

X = np.random.default_rng(0).normal(size=(2, 3, 5))  # two matrices, 3 rows, 5 columns
SINGULAR = lambda x: np.linalg.svd(x, compute_uv=False)
LENGTHS = lambda x, axis: np.sqrt(np.sum(x**2, axis=axis))
BALLS = {  # the ball, its norm, the dual norm, all written out
    "spectral": (
        spectral_ball(svd()), lambda x: SINGULAR(x).max(), lambda x: SINGULAR(x).sum()
    ),
    "frobenius": (frobenius_ball(), np.linalg.norm, np.linalg.norm),
    "sign": (sign_ball(), lambda x: np.abs(x).max(), lambda x: np.abs(x).sum()),
    "row": (
        row_ball(), lambda x: LENGTHS(x, 1).max(), lambda x: LENGTHS(x, 1).sum()
    ),
    "column": (
        column_ball(), lambda x: LENGTHS(x, 0).max(), lambda x: LENGTHS(x, 0).sum()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BALLS)
def test_unit_norm_and_dual_norm(name):
    ball, norm, dual = BALLS[name]
    with jax.enable_x64(True):
        for x in (X, X.swapaxes(-1, -2)):
            for m, d in zip(x, np.asarray(ball(jnp.asarray(x))), strict=True):
                assert norm(d) == pytest.approx(1, rel=1e-12)
                assert np.sum(m * d) == pytest.approx(dual(m), rel=1e-12)


@pytest.mark.parametrize("name", BALLS)
def test_zero_slices_have_direction_zero(name):
    x = X.copy()
    x[0] = 0  # a matrix
    x[1, 2], x[1, :, 4] = 0, 0  # a row and a column
    d = np.asarray(BALLS[name][0](jnp.asarray(x, jnp.float32)))
    assert np.all(np.isfinite(d))
    assert not np.any(d[0])
    assert not np.any(np.abs(d[1, 2]) > 1e-6)
    assert not np.any(np.abs(d[1, :, 4]) > 1e-6)


@pytest.mark.parametrize("name", ["frobenius", "row", "column"])
@pytest.mark.parametrize("exponent", [-100, 100])
def test_directions_do_not_depend_on_scale(name, exponent):
    x = jnp.asarray(X, jnp.float32)
    ball = BALLS[name][0]
    np.testing.assert_array_equal(ball(x * 2.0**exponent), ball(x))


def test_rows_and_columns_of_any_scale_side_by_side():
    """Each slice has a scale of its own: none is lost beside a larger one."""
    x = jnp.asarray(X[0] * [[1e-30], [1.0], [1e30]], jnp.float32)
    np.testing.assert_allclose(
        row_ball()(x), X[0] / LENGTHS(X[0], 1)[:, None], rtol=1e-5
    )
    np.testing.assert_allclose(
        column_ball()(x.mT), (X[0] / LENGTHS(X[0], 1)[:, None]).T, rtol=1e-5
    )


def test_sixteen_bits_sum_in_float32():
    x = jnp.full((1, 4096), 1, jnp.bfloat16)  # a bfloat16 sum would stop at 256
    d = frobenius_ball()(x)
    assert d.dtype == jnp.bfloat16
    assert float(d[0, 0]) == pytest.approx(1 / 64)


def test_a_scale_of_the_callers():
    d = row_ball(frobenius_max(10.0))(jnp.asarray([[3.0, 4.0], [30.0, 40.0]]))
    np.testing.assert_allclose(d, [[0.3, 0.4], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("ball", "argument"),
    [(spectral_ball, "polar"), (frobenius_ball, "scale"), (row_ball, "scale"),
     (column_ball, "scale")],
)  # fmt: skip
def test_what_is_no_function(ball, argument):
    match = rf"{ball.__name__}: {argument}='x' is not .*\. Expected a func.*\. Pass for"
    with pytest.raises(TypeError, match=match):
        ball("x")
