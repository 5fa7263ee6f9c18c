# SPDX-License-Identifier: Apache-2.0
"""Optimizers with numbers over all leaves, on leaves cut over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax.optimizers import aegd, induced_metric, mfac, sania
from orthoptax.transforms import divide_by_mean_square, newton_direction
from tests import zoo

SPECS = {"w": P("x", None), "b": P("x")}
PARAMS = zoo.tree(0, {"w": (16, 8), "b": (8,)})
MAKE = {
    "aegd": lambda: aegd(0.1, metric=divide_by_mean_square(root=True)),
    "induced_metric": lambda: induced_metric(0.1),
    "mfac": lambda: mfac(0.1, window=3, damping=0.1),
    "sania": lambda: sania(1.0),
    "sania, Newton": lambda: sania(1.0, metric=newton_direction()),
}


def loss(params):
    return sum(jnp.sum(jnp.cos(p) / 2 + p * p) for p in params.values())


def two_steps(tx, params):
    state = tx.init(params)
    for _ in range(2):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, obj_fn=loss)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", MAKE)
def test_cut_leaves_take_the_same_steps(name, kind):
    want, _ = jax.jit(lambda p: two_steps(MAKE[name](), p))(PARAMS)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        cut = {k: jax.device_put(p, NamedSharding(mesh, SPECS[k]))
               for k, p in PARAMS.items()}  # fmt: skip
        got, _ = jax.jit(lambda p: two_steps(MAKE[name](), p))(cut)
    whole = {k: jnp.asarray(np.asarray(p)) for k, p in got.items()}
    zoo.assert_close(whole, want)


def test_the_window_of_mfac_is_cut_as_its_leaves():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    place = {k: NamedSharding(mesh, spec) for k, spec in SPECS.items()}
    state = jax.jit(mfac(0.1, window=4).init)(jax.device_put(PARAMS, place))
    window = optax.tree.get(state, "window")
    shapes = {k: x.addressable_shards[0].data.shape for k, x in window.items()}
    assert shapes == {"w": (4, 2, 8), "b": (4, 1)}
