# SPDX-License-Identifier: Apache-2.0
"""Which schedule a shape is given."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    JORDAN,
    QUINTIC,
    ROOT_BY_SHAPE,
    by_shape,
    frobenius_add,
    newton_schulz,
    small_side_first,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "schedule"),
    [
        ((3, 7), QUINTIC),
        ((7, 3), QUINTIC),  # sides are sorted, also without a turn
        ((2, 3, 7), QUINTIC),  # a batch axis is no side
        ((3, 3), JORDAN),
        ((4, 7), JORDAN),
    ],
)
def test_the_entry_of_the_two_sides(shape, schedule):
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    polar = by_shape({(3, 7): QUINTIC})
    np.testing.assert_array_equal(polar(x), newton_schulz(schedule)(x))
    oriented = small_side_first(polar)(x)
    want = small_side_first(newton_schulz(schedule))(x)
    np.testing.assert_array_equal(oriented, want)


def test_kernel_and_otherwise():
    scale = frobenius_add(5.0)
    polar = by_shape(
        {}, otherwise=QUINTIC, kernel=functools.partial(newton_schulz, scale=scale)
    )
    x = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    np.testing.assert_array_equal(polar(x), newton_schulz(QUINTIC, scale=scale)(x))


def test_the_default_table_is_the_authors():
    made = []

    def kernel(schedule):
        made.append(schedule)
        return lambda x, *, inner: x * len(made)

    by_shape(kernel=kernel)
    assert made == [*ROOT_BY_SHAPE.values(), JORDAN]


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"by_shape: kernel=3 is not a function\. Exp"):
        by_shape(kernel=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"newton_schulz: schedule .* not usable"):
        by_shape({(1, 2): []})
