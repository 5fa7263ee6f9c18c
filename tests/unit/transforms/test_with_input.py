# SPDX-License-Identifier: Apache-2.0
"""What went in and what came out, combined."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import momentum, with_input


def test_combines_each_leaf_of_input_and_output(rng):
    g = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    graft = lambda before, after: after * jnp.linalg.norm(before)
    tx = with_input(optax.scale(3.0), graft)
    found, _ = tx.update(
        {k: jnp.asarray(v, jnp.float32) for k, v in g.items()}, tx.init(g)
    )
    for k, v in g.items():
        np.testing.assert_allclose(found[k], 3 * v * np.linalg.norm(v), rtol=1e-6)


def test_state_and_extra_arguments_are_the_inner_links():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    tx = with_input(optax.GradientTransformationExtraArgs(lambda p: {"n": 1}, update))
    assert tx.init(None) == {"n": 1}
    tx.update(jnp.ones(2), {"n": 1}, None, value=3.0)
    assert seen == {"value": 3.0}


def test_sixteen_bits_are_combined_in_float32():
    # 300^2 overflows float16; the root of the sum does not.
    norm = lambda before, after: after * jnp.sqrt(jnp.sum(before**2))
    tx = with_input(optax.scale(0.5), norm)
    found, _ = tx.update(jnp.full((4,), 300, jnp.float16), tx.init(None))
    assert found.dtype == jnp.float16
    assert np.isinf(found).all()  # 150 * 600 is beyond float16, as it should be
    found, _ = tx.update(jnp.full((4,), 30, jnp.float16), tx.init(None))
    np.testing.assert_array_equal(found, np.full(4, 15 * 60, np.float16))


def test_no_arguments_pass_everything():
    tx = with_input()
    assert tx.update(jnp.ones(2), tx.init(None))[0].tolist() == [1, 1]
    assert with_input(momentum(0.5)).init({"w": jnp.ones(2)}).count == 0


def test_combine_must_be_a_function():
    with pytest.raises(
        TypeError, match=r"with_input: combine=2 is not.*Expected.*Pass"
    ):
        with_input(optax.identity(), 2)
