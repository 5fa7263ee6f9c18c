# SPDX-License-Identifier: Apache-2.0
"""Which matrices reach the kernel, and that nothing leaks between them."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import svd
from orthoptax.transforms import orthogonalize

RNG = np.random.default_rng(0)


def tree():
    shapes = {"a": (4, 6), "b": (6, 4), "c": (3, 4, 6), "d": (5, 5), "e": (2, 2, 6, 4)}
    return {k: jnp.asarray(RNG.normal(size=s), jnp.float32) for k, s in shapes.items()}


def test_every_matrix_becomes_its_own_polar_factor():
    updates = tree()
    out, _ = orthogonalize(svd()).update(updates, orthogonalize().init(updates))
    for name, x in updates.items():
        u, _, vh = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
        np.testing.assert_allclose(out[name], u @ vh, atol=5e-6, err_msg=name)


def test_tall_and_wide_share_a_stack_and_the_kernel_sees_the_short_side_first():
    seen = set()

    def kernel(x):
        seen.add(x.shape[-2:])
        return x

    updates = tree()
    out, _ = orthogonalize(kernel).update(updates, orthogonalize().init(updates))
    assert seen == {(4, 6), (5, 5)}
    for name in updates:
        np.testing.assert_array_equal(out[name], updates[name])


def test_a_nan_stays_in_its_own_matrix():
    updates = tree()
    updates["c"] = updates["c"].at[1, 0, 0].set(jnp.nan)
    out, _ = orthogonalize().update(updates, orthogonalize().init(updates))
    assert np.isnan(out["c"][1]).all()
    out["c"] = out["c"][jnp.asarray([0, 2])]
    assert all(np.isfinite(x).all() for x in out.values())


def test_a_vector_is_named():
    with pytest.raises(
        ValueError, match=r"'b' of shape \(4,\) is not a matrix\. Expected"
    ):
        orthogonalize().init({"b": jnp.ones(4)})


def test_polar_must_be_a_function():
    with pytest.raises(
        TypeError, match=r"orthogonalize: polar='svd' is not a function"
    ):
        orthogonalize("svd")  # type: ignore[arg-type]
