# SPDX-License-Identifier: Apache-2.0
"""AEGD, SANIA, M-FAC and the induced metric, beside other optimizers and alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.layout import on_full_params
from orthoptax.optimizers import aegd, induced_metric, mfac, muon, sania
from orthoptax.transforms import (
    divide_by_curvature_abs_floor,
    divide_by_mean_square,
    newton_direction,
    of_log_graph,
    regularize_gradient,
    with_curvature,
)

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
PARAMS = {"dense": {"kernel": draw(3, 4)}, "head": {"kernel": draw(4, 2)}}
X, Y = draw(8, 3), draw(8, 2)


def loss(params):
    hidden = jnp.tanh(X @ params["dense"]["kernel"])
    return jnp.mean((hidden @ params["head"]["kernel"] - Y) ** 2)


VALUE, GRADS = jax.value_and_grad(loss)(PARAMS)
TOLD = {"value": VALUE, "obj_fn": loss, "grad_fn": jax.grad(loss)}
MAKE = {
    "aegd": lambda: aegd(0.1),
    "aegd with a metric": lambda: aegd(0.1, metric=divide_by_mean_square(root=True)),
    "induced metric": lambda: induced_metric(0.1, metric=of_log_graph),
    "mfac": lambda: mfac(0.1, window=2, damping=0.1),
    "sania": lambda: sania(1.0),
    "sania, Newton": lambda: sania(1.0, metric=newton_direction(tolerance=1e-12)),
    "sania, Hutchinson": lambda: sania(
        1.0, metric=with_curvature(divide_by_curvature_abs_floor(floor=0.1))
    ),
    "regularized": lambda: optax.chain(regularize_gradient(), optax.sgd(0.1)),
}


FAST = {"mfac", "sania, Hutchinson", "regularized"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in MAKE]
)
def test_a_group_steps_as_if_the_rest_were_constant(name):
    head, gradient = {"head": PARAMS["head"]}, {"head": GRADS["head"]}
    of_head = lambda p: loss({**PARAMS, **p})
    alone = {"value": VALUE, "obj_fn": of_head, "grad_fn": jax.grad(of_head)}
    full = {k: on_full_params(v, PARAMS) if callable(v) else v for k, v in TOLD.items()}
    labels = {"dense": "other", "head": "ours"}
    split = optax.partition({"ours": MAKE[name](), "other": optax.sgd(0.1)}, labels)
    masked = optax.masked(MAKE[name](), {"dense": False, "head": True})

    @jax.jit
    def run(params, grads):
        one = lambda tx, g, p, told: tx.update(g, tx.init(p), p, **told)[0]["head"]
        every = optax.with_extra_args_support
        return [
            one(every(MAKE[name]()), gradient, head, alone),
            one(muon(0.1, rest=MAKE[name]()), grads, params, TOLD),
            one(every(split), grads, params, full),
            one(every(masked), grads, params, full),
        ]

    want, *others = run(PARAMS, GRADS)
    assert np.any(want["kernel"])
    for found in others:
        np.testing.assert_allclose(
            found["kernel"], want["kernel"], rtol=1e-4, atol=1e-6
        )


def test_inside_a_stock_mask_the_remedy_is_named():
    masked = optax.masked(
        sania(1.0, metric=newton_direction()), {"dense": False, "head": True}
    )
    with pytest.raises(TypeError, match=r"masked.*Expected.*on_full_params\(obj_fn"):
        masked.update(GRADS, masked.init(PARAMS), PARAMS, **TOLD)


def test_the_learning_rate_multiplies_the_length_of_sania():
    def two(rate):
        tx = sania(rate)
        return tx.update(GRADS, tx.init(PARAMS), PARAMS, value=VALUE)

    (once, state), (half, other) = two(1.0), two(0.5)
    np.testing.assert_allclose(
        half["head"]["kernel"], once["head"]["kernel"] / 2, rtol=1e-6
    )
    assert optax.tree.get(state, "step_size") == optax.tree.get(other, "step_size")


def test_near_its_minimum_newtons_step_is_shortened():
    # On w^2/2 + c the model is exact: one step ends where the loss is f_star.
    tx, w = sania(1.0, f_star=0.3, metric=newton_direction()), jnp.asarray([2.0])
    fn = lambda p: jnp.sum(p * p) / 2 + 0.1
    u, state = tx.update(jax.grad(fn)(w), tx.init(w), w, value=fn(w), obj_fn=fn)
    np.testing.assert_allclose(fn(w + u), 0.3, rtol=1e-5)
    assert 0 < optax.tree.get(state, "step_size") < 1


@pytest.mark.parametrize("make", [aegd, induced_metric, mfac, sania])
def test_integers_and_empty_trees_are_refused(make):
    tx = make(0.1)
    with pytest.raises(TypeError, match=r"'w' of shape \(3,\) has dtype int32\. Expec"):
        tx.init({"w": jnp.ones(3, jnp.int32)})
    state = tx.init({})
    with pytest.raises(
        ValueError, match=rf"{make.__name__}\.update: the tree is empty"
    ):
        tx.update({}, state, {}, value=1.0)


def test_what_mfac_cannot_hold_is_refused():
    params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.bfloat16)}
    with pytest.raises(
        ValueError, match=r"takes 64,000,000 bytes\. Expected at most m"
    ):
        jax.eval_shape(mfac(0.1, max_bytes=63_999_999).init, params)
    jax.eval_shape(mfac(0.1, max_bytes=64_000_000).init, params)


@pytest.mark.parametrize(("damping", "rests"), [(0.06, True), (0.04, False)])
def test_without_noise_mfac_rests_if_its_damping_is_large(damping, rests):
    # At rate 0.1 and curvature 1 the bound is 0.05. NumPy inverts F as it is written.
    h, m = np.asarray([1.0, 0.3, 0.05]), 8
    tx, w, window = mfac(0.1, window=m, damping=damping), np.ones(3), np.zeros((m, 3))

    @jax.jit
    def run(w):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(h * w, state, w)
            return (w + updates, state), w + updates

        return jax.lax.scan(step, (w, tx.init(w)), length=150)[1]

    want = []
    for t in range(150):
        window[t % m] = h * w
        fisher = damping * np.eye(3) + window.T @ window / m
        w = w - 0.1 * np.linalg.solve(fisher, h * w)
        want.append(w)
    seen = np.asarray(run(jnp.ones(3)))
    np.testing.assert_allclose(seen[:20], want[:20], rtol=1e-3, atol=1e-5)
    for steps in (seen, np.asarray(want)):
        assert (np.abs(steps[-20:]).max() < 1e-3) == rests
