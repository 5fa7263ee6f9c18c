# SPDX-License-Identifier: Apache-2.0
"""Functions of all parameters, called with some of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthoptax.layout import by_layout, on_full_params

MASKED = optax.MaskedNode()
PARAMS = {"a": jnp.asarray([1.0, 2.0]), "b": {"c": jnp.asarray(3.0), "d": None}}


def loss(p):
    return jnp.sum(p["a"] ** 2) * p["b"]["c"]


def test_what_is_masked_is_filled_and_the_rest_differentiated():
    fn = on_full_params(loss, PARAMS)
    part = {"a": jnp.asarray([2.0, 0.0]), "b": {"c": MASKED, "d": None}}
    assert float(fn(part)) == 12.0
    grads = jax.grad(fn)(part)
    np.testing.assert_array_equal(grads["a"], [12.0, 0.0])
    assert isinstance(grads["b"]["c"], optax.MaskedNode)


def test_a_mask_of_a_whole_branch():
    part = {"a": jnp.asarray([2.0, 0.0]), "b": MASKED}
    assert float(on_full_params(loss, PARAMS)(part)) == 12.0


def test_a_gradient_is_masked_as_what_came_in():
    part = {"a": MASKED, "b": {"c": jnp.asarray(1.0), "d": None}}
    found = on_full_params(jax.grad(loss), PARAMS)(part)
    assert isinstance(found["a"], optax.MaskedNode)
    assert float(found["b"]["c"]) == 5.0


def test_other_arguments_and_results_are_left_alone():
    fn = on_full_params(lambda p, x, *, y: (p["b"]["c"], x, y), PARAMS)
    assert fn({"a": MASKED, "b": MASKED}, 1, y=2) == (3.0, 1, 2)


def test_groups_within_groups():
    """`partition` outside, `by_layout` inside: each fills what it left out."""
    params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    params["norm"] = {"scale": jnp.ones(3)}
    seen = []

    def update(updates, state, params=None, *, value_fn, **extra):
        seen.append(value_fn(params))
        return updates, state

    link = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    labels = {"dense": {"kernel": "x", "bias": "x"}, "norm": {"scale": "y"}}
    inside = by_layout(matrix=link, rest=link)
    tx = optax.partition({"x": inside, "y": optax.identity()}, labels)
    fn = on_full_params(lambda p: len(jax.tree.leaves(p)), params)
    tx.update(params, tx.init(params), params, value_fn=fn)
    assert seen == [3, 3]
