# SPDX-License-Identifier: Apache-2.0
"""Every matrix leaves with the root-mean-square asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import rms_align

U = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


def run(tx, u, dtype=jnp.float32):
    out = jax.jit(tx.update)({"w": jnp.asarray(u, dtype)}, tx.init({}))[0]["w"]
    assert out.dtype == dtype
    return np.asarray(out, np.float64)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("target", [0.2, 3.0])
def test_root_mean_square_of_each_matrix(scale, target):
    sizes = np.asarray([1, 1e3, 1e-3], np.float32)[:, None, None]
    out = run(rms_align(target), np.float32(scale) * sizes * U)
    rms = np.sqrt(np.mean(out**2, axis=(-2, -1)))
    np.testing.assert_allclose(rms, target, rtol=1e-5)
    ratio = out / U
    np.testing.assert_allclose(ratio, ratio[:, :1, :1] + 0 * ratio, rtol=1e-4)


def test_the_authors_epsilon():
    norm = np.linalg.norm(U.astype(np.float64), axis=(-2, -1), keepdims=True)
    want = U * 0.2 * np.sqrt(20) / (norm + 3.0)
    np.testing.assert_allclose(run(rms_align(eps=3.0), U), want, rtol=1e-5)


def test_zero_stays_zero_beside_others():
    u = U.copy()
    u[1] = 0
    out = run(rms_align(), u)
    assert not out[1].any()
    assert np.all(np.isfinite(out))


def test_sixteen_bits_are_summed_in_float32():
    rms = np.sqrt(np.mean(run(rms_align(), np.full((64, 64), 300.0), jnp.float16) ** 2))
    assert rms == pytest.approx(0.2, rel=1e-3)  # the sum of squares is 3.7e8


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"target=-1.0 is out of .*\. Expected .*\."):
        rms_align(-1.0)
    match = r"rms_align: leaf 'w' of shape \(2,\) is not a matrix\. Expected .*\. Wrap"
    with pytest.raises(ValueError, match=match):
        run(rms_align(), np.ones(2))
