# SPDX-License-Identifier: Apache-2.0
"""What the compiler makes optax's Muon send under FSDP: what we compare with."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from orthoptax.sharding.compiled.counting import count
from tests.tpu.topologies import compile, mesh

LAYERS = 12
WIDE = {"qkv": (768, 2304), "out": (768, 768), "up": (768, 3072)}
TALL = {"down": (3072, 768)}
ITERATIONS = 5


def test_muon_gathers_every_matrix_in_every_iteration():
    devices = mesh("v5e:2x4", fsdp=8)

    def abstract(leaf):
        spec = PartitionSpec("fsdp") if min(leaf.shape, default=0) >= 768 else ()
        sharding = NamedSharding(devices, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    tx = optax.contrib.muon(0.02)
    params = {
        f"{layer}/{name}": jax.ShapeDtypeStruct(shape, jnp.float32)
        for layer in range(LAYERS)
        for name, shape in (WIDE | TALL).items()
    }
    state = jax.eval_shape(tx.init, params)
    params, state = jax.tree.map(abstract, (params, state))
    outputs = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    counted = count(compile(step, params, state, params, out_shardings=outputs))

    # A wide X is gathered and X X^T too, as matmuls take them: two bytes an element.
    # A tall X is turned, so that its long side is cut: its Gram matrix is summed.
    gathered = 2 * sum(rows * cols + rows * rows for rows, cols in WIDE.values())
    summed = 4 * sum(cols * cols for _, cols in TALL.values())
    expected = LAYERS * ITERATIONS * (gathered + summed)  # 920 MB
    assert counted.result_bytes == pytest.approx(expected, rel=0.01)
    # Sums may be combined, gathers are not; a few more are for the norms.
    gathers = LAYERS * ITERATIONS * 2 * len(WIDE)
    assert gathers < counted.number <= gathers + LAYERS * ITERATIONS + LAYERS
