# SPDX-License-Identifier: Apache-2.0
"""Signs, with 0 for 0 and NaN for NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import sign


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_signs(dtype):
    tx = sign()
    u = {"w": jnp.asarray([[-3.0, 0.0, -0.0], [1e-30, jnp.nan, jnp.inf]], dtype)}
    out, _ = jax.jit(tx.update)(u, tx.init(u))
    assert out["w"].dtype == dtype
    np.testing.assert_array_equal(
        out["w"].astype(jnp.float32), [[-1, 0, 0], [1, np.nan, 1]]
    )


def test_complex_entries_have_length_one():
    tx = sign()
    out, _ = jax.jit(tx.update)(jnp.asarray([3 + 4j, 0]), tx.init(None))
    np.testing.assert_allclose(out, [0.6 + 0.8j, 0], rtol=1e-6)
