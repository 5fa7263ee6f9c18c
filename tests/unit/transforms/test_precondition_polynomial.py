# SPDX-License-Identifier: Apache-2.0
"""The polynomial as a link: over its scale, in range, refused without a product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import precondition_polynomial

VALUES = np.asarray([5.0, 2.0, 1.0])
G = np.asarray([1.0, -3.0, 2.0])


# At the outer ones tr(B^2) is a float32, but the square of tr(B), or a product B (B G),
# is none: only what was divided by the trace first is.
@pytest.mark.parametrize("unit", [6e-20, 1e-12, 1.0, 1e12, 3e18])
def test_divided_by_its_scale_the_unit_of_the_matrix_is_not_seen(unit):
    # Degree 2 of 3 is det(B) B^-1, and e_2 = 5*2 + 5*1 + 2*1.
    values = unit * VALUES
    product = lambda tree: {"w": jnp.asarray(values, jnp.float32) * tree["w"]}
    traces = [float(np.sum(values**j)) for j in (1, 2)]
    tx, g = precondition_polynomial(traces, matvec=product), {"w": jnp.asarray(G)}
    out = jax.jit(lambda g: tx.update(g, tx.init(g))[0])(g)["w"]
    np.testing.assert_allclose(out, 10 / VALUES * G / 17, rtol=1e-5)


def test_degree_zero_is_the_identity():
    tx, g = precondition_polynomial(), {"w": jnp.asarray(G)}
    assert tx.update(g, tx.init(g))[0] is g


def test_traces_need_a_product_and_a_sign():
    with pytest.raises(TypeError, match="matvec=None is not a function"):
        precondition_polynomial([1.0])
    with pytest.raises(ValueError, match=r"tr\(B\)=0.0 is not positive"):
        precondition_polynomial([0.0], matvec=lambda x: x)
