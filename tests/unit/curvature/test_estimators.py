# SPDX-License-Identifier: Apache-2.0
"""Estimators are right in the mean, and vary as they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.curvature import (
    empirical_fisher,
    exact_diagonal,
    finite_difference,
    gauss_newton_bartlett,
    given,
    hutchinson,
    normal,
    rademacher,
    reverse_over_reverse,
)
from orthoptax.curvature.probes import codes, draw
from orthoptax.sharding.planning.traced import traced_flops

DRAWS = 4000


def dense(diagonal=False):
    """(parameters of two equal leaves, objective, its Hessian)."""
    h = np.random.default_rng(0).normal(size=(6, 6))
    h = np.diag(np.diag(h)) if diagonal else h + h.T
    h[:3, 3:] += 3 * np.eye(3) * (not diagonal)  # what equal probes would add
    h[3:, :3] += 3 * np.eye(3) * (not diagonal)

    def loss(params):
        x = jnp.concatenate([params["a"], params["b"]])
        return x @ jnp.asarray(h, x.dtype) @ x / 2

    return {"a": jnp.ones(3), "b": -jnp.ones(3)}, loss, h


def estimates(estimator, params, draws=DRAWS, **extra):
    """(draws, size): one diagonal a key."""

    def one(key):
        state = estimator.init(params)
        d, _ = estimator.estimate(state, params, None, jnp.zeros((), int), key, **extra)
        return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(d)])

    return np.asarray(
        jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), draws))
    )


@functools.cache
def sampled(probe, n):
    params, loss, _ = dense()
    return estimates(hutchinson(n, probe=probe), params, obj_fn=loss)


def spread(h, probe, n):
    """The variance of one estimate, by the formula."""
    off = np.sum(h**2, axis=1) - np.diag(h) ** 2
    return (off + 2 * np.diag(h) ** 2 * (probe is normal)) / n


@pytest.mark.parametrize(
    ("probe", "n"), [(rademacher, 1), (rademacher, 4), (normal, 1)]
)
def test_hutchinson_is_unbiased_and_varies_as_one_over_probes(probe, n):
    _, _, h = dense()
    found, var = sampled(probe, n), spread(h, probe, n)
    error = np.abs(found.mean(0) - np.diag(h))
    assert np.all(error < 5 * np.sqrt(var / DRAWS))
    np.testing.assert_allclose(found.var(0), var, rtol=0.25)


def test_one_rademacher_probe_is_exact_on_a_diagonal_hessian():
    params, loss, h = dense(diagonal=True)
    found = estimates(hutchinson(), params, 3, obj_fn=loss)
    np.testing.assert_allclose(found, np.broadcast_to(np.diag(h), (3, 6)), rtol=1e-5)


def test_first_samples_are_those_of_the_first_estimate():
    params, loss, _ = dense()
    estimator, key, zero = hutchinson(1, first_samples=4), jax.random.key(1), 0
    ask = lambda e, s: e.estimate(s, params, None, zero, key, obj_fn=loss)
    first, state = ask(estimator, estimator.init(params))
    later, after = ask(estimator, state)
    for ours, n in ((first, 4), (later, 1)):
        theirs, _ = ask(hutchinson(n), hutchinson().init(params))
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    assert int(after.count) == 2


def test_the_exact_diagonal(x64):
    params, loss, h = dense()
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    d, _ = exact_diagonal().estimate(None, wide, None, 0, None, obj_fn=loss)
    np.testing.assert_allclose(np.r_[d["a"], d["b"]], np.diag(h), rtol=1e-12)


@pytest.mark.parametrize("hvp", [reverse_over_reverse, finite_difference()])
def test_products_agree(x64, hvp):
    params, quadratic, h = dense()
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    loss = lambda p: quadratic(p) + sum(jnp.sum(x**4) for x in p.values())
    key, state = jax.random.key(3), hutchinson().init(params)
    ask = lambda e: e.estimate(state, params, None, 0, key, obj_fn=loss)[0]
    ours = ask(hutchinson(hvp=hvp))
    z = draw(rademacher, key, params, 0, 0)
    z = np.r_[z["a"], z["b"]]
    wanted = z * ((h + 12 * np.eye(6)) @ z)  # the fourth powers are at one
    np.testing.assert_allclose(np.r_[ours["a"], ours["b"]], wanted, atol=1e-5)


@functools.cache
def classifier():
    """(weights, inputs) of a linear softmax over three classes, five rows."""
    rng = np.random.default_rng(2)
    return rng.normal(size=(2, 3)), rng.normal(size=(5, 2))


def of_labels(x, left=5):
    """Extra arguments of `gauss_newton_bartlett`, the mean over the first `left`."""

    def nll_fn(logits, labels):
        each = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -jnp.mean(each[:left]), left

    return {
        "logits_fn": lambda w: jnp.asarray(x, jnp.float32) @ w,
        "sample_fn": jax.random.categorical,
        "nll_fn": nll_fn,
    }


@pytest.mark.parametrize("left", [5, 3])
def test_bartlett_is_unbiased_for_the_gauss_newton_diagonal(left):
    w, x = classifier()
    p = np.exp(x @ w)
    p /= p.sum(1, keepdims=True)
    exact = np.einsum("bi,bc->bic", x**2, p * (1 - p))[:left].mean(0).reshape(-1)
    params = jnp.asarray(w, jnp.float32)
    found = estimates(gauss_newton_bartlett(), params, **of_labels(x, left))
    assert np.all(found >= 0)
    error = np.abs(found.mean(0) - exact)
    assert np.all(error < 5 * found.std(0) / np.sqrt(DRAWS))


def test_devices_draw_labels_of_their_own():
    extra = {
        "logits_fn": lambda w: w,
        "sample_fn": lambda key, m: m + jax.random.normal(key, m.shape),
        "nll_fn": lambda m, y: (jnp.mean((m - y) ** 2) / 2, m.size),
        "axis_name": "i",
    }

    def one(w):
        key = jax.random.key(0)
        return gauss_newton_bartlett().estimate(None, w, None, 0, key, **extra)[0]

    found = np.asarray(jax.pmap(one, axis_name="i")(jnp.zeros((8, 3))))
    assert len(np.unique(found, axis=0)) == 8


def test_empirical_fisher_squares_the_gradient():
    g = {"w": jnp.asarray([1.0, -3.0], jnp.bfloat16)}
    d, _ = empirical_fisher(4).estimate(None, g, g, 0, None)
    assert d["w"].dtype == jnp.float32
    np.testing.assert_array_equal(d["w"], [4.0, 36.0])


def test_given_answers_at_every_step():
    assert given().clocked is False
    assert given().estimate((), None, None, 0, None, hessian_diag=2.0)[0] == 2.0


def test_mixed_dtypes_and_integers():
    params = {
        "a": jnp.asarray([1.0, 2.0], jnp.bfloat16),
        "b": jnp.asarray([3.0], jnp.float32),
        "steps": jnp.asarray([4, 5]),
    }

    def loss(p):
        wide = p["a"].astype(jnp.float32)
        return jnp.sum(wide**3 * p["steps"]) + jnp.sum(p["b"] ** 2)

    key, zero = jax.random.key(0), jnp.zeros((), int)
    for estimator in (hutchinson(), hutchinson(3), exact_diagonal()):
        state = estimator.init(params)
        d, _ = estimator.estimate(state, params, None, zero, key, obj_fn=loss)
        assert {n: x.dtype for n, x in d.items()} == dict.fromkeys(d, jnp.float32)
        np.testing.assert_allclose(d["a"], [24.0, 60.0], rtol=1e-2)
        np.testing.assert_allclose(d["b"], [2.0], rtol=1e-5)
        np.testing.assert_array_equal(d["steps"], [0, 0])


def test_probes_are_of_their_own_leaf_and_sample():
    key, leaf = jax.random.key(0), jnp.zeros(64)
    z = draw(rademacher, key, {"a": leaf, "b": leaf}, 0, 0)
    assert abs(float(z["a"] @ z["b"])) < 40
    assert abs(float(z["a"] @ draw(rademacher, key, {"a": leaf}, 0, 1)["a"])) < 40
    more = draw(rademacher, key, {"0": leaf, "a": leaf, "b": leaf}, 0, 0)
    np.testing.assert_array_equal(more["a"], z["a"])  # another leaf changes nothing


def test_two_paths_of_one_checksum_are_told_apart():
    found = codes(["plumless", "buckeroo"])  # CRC-32 of both: 0x4ddb0c25
    assert len(set(found.values())) == 2


def layers(params):
    """A network of four equal layers, wide enough that products are all that counts."""
    x = jnp.ones((8, 32))
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


def test_one_probe_costs_three_gradients_at_most():
    params = [jax.ShapeDtypeStruct((32, 32), jnp.float32)] * 4
    estimator = hutchinson()

    def estimate(params):
        state, key = estimator.init(params), jax.random.key(0)
        return estimator.estimate(state, params, None, 0, key, obj_fn=layers)[0]

    gradient = traced_flops(jax.grad(layers), params).total()
    assert traced_flops(estimate, params).total() <= 3 * gradient


def test_temporaries_do_not_grow_with_the_number_of_probes():
    params = [jax.ShapeDtypeStruct((32, 32), jnp.float32)] * 4

    def temporaries(n):
        estimator = hutchinson(n)

        def estimate(params, key):
            state = estimator.init(params)
            return estimator.estimate(state, params, None, 0, key, obj_fn=layers)[0]

        compiled = jax.jit(estimate).lower(params, jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(64) <= temporaries(2) + 64
