# SPDX-License-Identifier: Apache-2.0
"""Momentum is recorded as `muon` has it, and no schedule of ours is worse on it."""

import itertools

import jax
import numpy as np
import pytest

from benchmarks import _momentum
from orthoptax.matrix import Hardware, auto, block_products, by_gain, newton_schulz
from orthoptax.optimizers.muon import muon
from orthoptax.train import loop
from tests.polar import ALLOWED, LARGEST, beside_exact

B1 = 0.95


@pytest.mark.slow
def test_recorded_momentum_against_numpy():
    task, steps = _momentum.TASKS["digits"](), 3
    state = loop.start(task, muon, seed=7)
    step = jax.jit(loop.step(task, _momentum.trained, _momentum.LENGTH))
    kernels = {"mix/kernel": 0.0, "up/kernel": 0.0}
    for i in range(steps):
        batch = task.draw(7, i)
        grads = jax.grad(task.loss)(state.params, batch)
        new = {k: np.float64(grads[k.split("/")[0]]["kernel"]) for k in kernels}
        kernels = {k: B1 * m + (1 - B1) * new[k] for k, m in kernels.items()}
        state, _ = step(state, _momentum.RATES["digits"], batch)
    found = _momentum.recorded("digits", steps, seed=7)
    assert found.keys() == kernels.keys()
    for name, m in kernels.items():
        want = B1 * m + (1 - B1) * new[name]
        np.testing.assert_allclose(found[name], want.T, rtol=0, atol=1e-6)
        assert np.abs(want).max() > 1e-4


@pytest.mark.slow
def test_every_matrix_of_a_stack_stands_with_its_short_side_first():
    found = _momentum.recorded("bytes", 2)
    assert len(found) == 2 * 6
    shapes = {x.shape for x in found.values()}
    assert shapes == {(64, 64), (64, 256)}
    up = found["blocks/up/kernel/0"]
    assert (type(up), up.dtype) == (np.ndarray, np.float32)


ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8}
HALVED = Hardware(halve=32)
KERNELS = {
    "classic": lambda dtype: newton_schulz(compute_dtype=dtype),
    "auto": lambda dtype: auto(compute_dtype=dtype, hardware=HALVED),
    "by_gain": lambda dtype: by_gain(compute_dtype=dtype, products=block_products()),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", _momentum.TASKS)
def test_no_worse_than_the_classic_stages_on_momentum(task, dtype):
    # Wide matrices take the Gram form. No exceptions; in bfloat16 the band is of those
    # singular values that rounding the matrix leaves.
    kernels = {name: jax.jit(make(dtype)) for name, make in KERNELS.items()}
    every = _momentum.recordings(task, (3, 30, 100))
    worse = []
    for (steps, found), name in itertools.product(every.items(), ("auto", "by_gain")):
        for leaf, x in found.items():
            classic, ours = (
                beside_exact(kernels[kernel], x, ROUNDING[dtype])
                for kernel in ("classic", name)
            )
            band, cosine = ours.band - classic.band, ours.cosine - classic.cosine
            if band > ALLOWED or cosine < -ALLOWED or ours.norm > LARGEST:
                worse.append((name, steps, leaf, band, cosine, ours.norm))
    assert worse == []
