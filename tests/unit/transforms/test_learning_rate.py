# SPDX-License-Identifier: Apache-2.0
"""One state whatever the rate is; schedules count from zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import scale_by_learning_rate


def test_number_array_and_schedule_have_one_state():
    params = {"w": jnp.ones(2)}
    states = [
        scale_by_learning_rate(rate).init(params)
        for rate in (0.1, jnp.asarray(0.1), lambda count: 0.1 * count)
    ]
    assert len({jax.tree.structure(s) for s in states}) == 1


def test_a_schedule_is_called_with_an_int32_count_from_zero():
    seen = []

    def schedule(count):
        seen.append((int(count), count.dtype))
        return 2.0

    tx = scale_by_learning_rate(schedule)
    state = tx.init({"w": jnp.ones(2)})
    for _ in range(3):
        out, state = tx.update({"w": jnp.ones(2)}, state)
    assert seen == [(0, jnp.int32), (1, jnp.int32), (2, jnp.int32)]
    np.testing.assert_array_equal(out["w"], -2.0)


def test_sixteen_bit_updates_are_scaled_in_float32():
    u = {"w": jnp.full(1, 1.0078125, jnp.bfloat16)}
    out, _ = scale_by_learning_rate(1 / 3).update(u, scale_by_learning_rate().init(u))
    assert out["w"].dtype == jnp.bfloat16
    assert out["w"][0] == jnp.asarray(-np.float32(1.0078125) / 3, jnp.bfloat16)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
def test_bad_rates(rate):
    with pytest.raises(
        ValueError, match=r"learning_rate=.* is out of range\. Expected"
    ):
        scale_by_learning_rate(rate)


@pytest.mark.parametrize("rate", [None, "0.1", True])
def test_rates_that_are_no_numbers(rate):
    with pytest.raises(TypeError, match=r"learning_rate=.* is not a number\. Expected"):
        scale_by_learning_rate(rate)
