# SPDX-License-Identifier: Apache-2.0
"""Means over axes and over runs, and which axes AdaHessian takes by itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.curvature import average_axes, average_blocks, given, spatial_average
from orthoptax.optimizers import adahessian
from orthoptax.optimizers._windows import window_axes


def test_axes_are_asked_for_leaf_by_leaf(rng):
    tree = {"conv": rng.normal(size=(3, 2, 4)), "w": rng.normal(size=(3, 2))}
    average = average_axes(lambda path, leaf: (0,) if path == "conv" else ())
    found = spatial_average({k: jnp.asarray(v) for k, v in tree.items()}, average)
    want = np.broadcast_to(tree["conv"].mean(0), (3, 2, 4))
    np.testing.assert_allclose(found["conv"], want, rtol=1e-5)
    np.testing.assert_array_equal(found["w"], tree["w"].astype(np.float32))


def test_runs_are_consecutive_in_c_order(rng):
    w = rng.normal(size=(4, 6))
    found = average_blocks(3)("w", jnp.asarray(w))
    want = np.repeat(w.reshape(8, 3).mean(1), 3).reshape(4, 6)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    vector = jnp.arange(6.0)
    np.testing.assert_array_equal(average_blocks(3)("b", vector), vector)
    every = average_blocks(3, where=lambda path, leaf: True)
    np.testing.assert_allclose(every("b", vector), [1, 1, 1, 4, 4, 4])


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("Conv_0/kernel", (2, 3, 4, 5), (0, 1)),
        ("Conv_0/kernel", (3, 4, 5), (0,)),
        ("Conv_0/kernel", (3, 3, 1, 5), (0, 1)),  # depthwise
        ("Dense_0/kernel", (4, 5), ()),
        ("blocks/up/kernel", (3, 4, 5), ()),  # layers of Dense
        ("query/kernel", (4, 2, 3), ()),
        ("unheard_of", (2, 3, 4, 5), ()),
    ],
)
def test_windows_of_convolutions(name, shape, axes):
    assert window_axes(name, np.zeros(shape)) == axes


def test_adahessian_averages_over_windows(rng):
    d = np.abs(rng.normal(size=(2, 3, 4, 5)))
    tree = lambda x: {"Conv_0": {"kernel": jnp.asarray(x, jnp.float32)}}
    tx, g = adahessian(1.0, estimator=given()), tree(np.ones(d.shape))
    updates, _ = tx.update(g, tx.init(g), g, hessian_diag=tree(d))
    mean = np.broadcast_to(d.mean((0, 1)), d.shape)
    want = -1 / (mean + 1e-4)
    np.testing.assert_allclose(updates["Conv_0"]["kernel"], want, rtol=1e-4)
