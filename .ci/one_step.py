# SPDX-License-Identifier: Apache-2.0
"""Import orthoptax and take one compiled step, with run-time dependencies only."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import optax

import orthoptax

# What the extras bring; none of it may be needed, so none of it may be here.
EXTRAS = (
    *("chex", "equinox", "flax", "haiku", "hypothesis", "matplotlib", "orbax"),
    *("pytest", "rich", "sklearn", "tyro"),
)


def loss(params, inputs, targets):
    """Squared error of one dense layer."""
    outputs = inputs @ params["dense"]["kernel"] + params["dense"]["bias"]
    return jnp.mean((outputs - targets) ** 2)


def main():
    """Fail unless one step of muon lowers the loss and no extra was there."""
    present = [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert not present, f"expected run-time dependencies only, found {present}"

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "dense": {"kernel": jax.random.normal(keys[0], (8, 4)), "bias": jnp.zeros(4)}
    }
    data = jax.random.normal(keys[1], (32, 8)), jax.random.normal(keys[2], (32, 4))
    tx = orthoptax.muon(0.02)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, *data)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    stepped, _ = step(params, tx.init(params))
    before, after = loss(params, *data), loss(stepped, *data)
    assert after < before, f"expected a lower loss, got {before} -> {after}"
    print(f"{orthoptax.__file__}: loss {before:.4f} -> {after:.4f}")
    print(f"Python {sys.version.split()[0]}, jax {jax.__version__}")


main()
