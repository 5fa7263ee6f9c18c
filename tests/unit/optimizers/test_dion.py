# SPDX-License-Identifier: Apache-2.0
"""Dion against its recursion in float64 NumPy, and what its arguments do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import dion, layout
from orthoptax.layout.links import Here
from orthoptax.transforms import low_rank, match_rms, spectral_norm, whole

RNG = np.random.default_rng(0)
SHAPES = {"dense/kernel": (4, 7), "blocks/kernel": (3, 5, 2), "dense/bias": (7,)}
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(4)]


def recursion(w, grads, q, lr, b1, wd):
    """The published lines for one matrix W of outputs x inputs."""
    m = np.zeros_like(w)
    turned = w.shape[0] < w.shape[1]
    for g in grads:
        b = (m + g).T if turned else m + g
        p = np.linalg.qr(b @ q)[0]
        r = b.T @ p
        b = b - (1 - b1) * p @ r.T
        m = b.T if turned else b
        q = r / np.linalg.norm(r, axis=0)
        o = q @ p.T if turned else p @ q.T
        w = w * (1 - lr * wd) - lr * np.sqrt(w.shape[0] / w.shape[1]) * o
    return w, m


def test_against_numpy():
    lr, b1, wd = 0.03, 0.9, 0.4
    with jax.enable_x64(True):
        tx = dion(lr, b1=b1, rank_fraction=0.5, weight_decay=wd)
        params = jax.tree.map(jnp.asarray, PARAMS)
        state, update = tx.init(params), jax.jit(tx.update)
        basis = jax.tree.map(np.asarray, optax.tree.get(state, "basis"))
        for g in GRADS:
            u, state = update(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, u)
        momentum = optax.tree.get(state, "momentum")
    assert {k: q.shape for k, q in basis.items()} == {
        "dense/kernel": (4, 2), "blocks/kernel": (3, 2, 1),
    }  # fmt: skip
    for name, layers in (("dense/kernel", [...]), ("blocks/kernel", range(3))):
        for i in layers:  # kernels are inputs x outputs
            w, m = recursion(
                PARAMS[name][i].T, [g[name][i].T for g in GRADS], basis[name][i],
                lr, b1, wd,
            )  # fmt: skip
            np.testing.assert_allclose(params[name][i].T, w, rtol=1e-9, err_msg=name)
            np.testing.assert_allclose(momentum[name][i].T, m, atol=1e-12)


def test_the_rest_is_adamw_at_the_same_rate_without_decay():
    ours, theirs = dion(0.02, weight_decay=0.7), optax.adamw(0.02, weight_decay=0.0)
    params = {"norm/scale": jnp.ones(7)}
    u, v = (
        jax.jit(lambda p, tx=tx: tx.update(p, tx.init(p), p)[0])(params)
        for tx in (ours, theirs)
    )
    np.testing.assert_array_equal(u["norm/scale"], v["norm/scale"])


def test_arguments_reach_their_links():
    params = {"dense/kernel": jnp.asarray(PARAMS["dense/kernel"], jnp.float32)}

    def step(**arguments):
        tx = dion(1.0, **arguments)
        return jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)

    plain, state = step()
    assert optax.tree.get(state, "momentum")["dense/kernel"].dtype == jnp.float32
    scaled, state = step(
        shape_rule=match_rms, after=optax.scale(2.0), mu_dtype=jnp.bfloat16,
    )  # fmt: skip
    assert optax.tree.get(state, "momentum")["dense/kernel"].dtype == jnp.bfloat16
    ratio = 2 * match_rms(7, 4, ()) / spectral_norm(7, 4, ())
    for name, u in plain.items():
        np.testing.assert_allclose(scaled[name], ratio * u, rtol=1e-5)
    momentum, _ = step(compressor=whole())  # no direction: the gradient itself
    want = -spectral_norm(7, 4, ()) * params["dense/kernel"]
    np.testing.assert_allclose(momentum["dense/kernel"], want, rtol=1e-6)


def test_place_wraps_the_compressor_and_the_scale():
    calls = []

    class Listening(Here):
        def update(self, links, leaves, *args):
            calls.append(sorted(leaves))
            return super().update(links, leaves, *args)

    params = {k: jnp.asarray(v, jnp.float32) for k, v in PARAMS.items()}
    tx = dion(0.1, place=Listening())
    jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
    assert calls == [["blocks/kernel", "dense/kernel"]]


def test_the_layout_routes():
    only = layout.rules(("dense", None), ("blocks", layout.MatrixView((-1,), (-2,))))
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in SHAPES.items()}
    state = jax.eval_shape(dion(0.1, layout=only).init, params)
    assert set(optax.tree.get(state, "basis")) == {"blocks/kernel"}


def test_a_fraction_beside_a_compressor_is_refused():
    match = r"dion: rank_fraction=0.5 beside a compressor.*\. Expected one of them\. "
    with pytest.raises(ValueError, match=match):
        dion(0.1, rank_fraction=0.5, compressor=low_rank())


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"learning_rate": -1.0}, ValueError, "learning_rate=-1.0 is out of range"),
        ({"learning_rate": 0.1, "b1": 1.0}, ValueError, "b1=1.0 is out of range"),
        ({"learning_rate": 0.1, "rank_fraction": 0}, ValueError, "rank_fraction=0 is"),
        ({"learning_rate": 0.1, "rank_fraction": 2}, ValueError, "rank_fraction=2 is"),
    ],
)
def test_bad_numbers(arguments, error, match):
    with pytest.raises(error, match=match + r".*\. Expected .*\. Change "):
        dion(**arguments)


def test_injected_rates_leave_a_static_fraction_alone():
    params = {"dense/kernel": jnp.asarray(PARAMS["dense/kernel"], jnp.float32)}
    tx = optax.inject_hyperparams(dion, static_args="rank_fraction")(
        learning_rate=0.1, rank_fraction=0.5
    )
    assert optax.tree.get(tx.init(params), "basis")["dense/kernel"].shape == (4, 2)
    bare = optax.inject_hyperparams(dion)(learning_rate=0.1, rank_fraction=0.5)
    with pytest.raises(TypeError, match=r"rank_fraction=.*name rank_fraction in stat"):
        bare.init(params)
