# SPDX-License-Identifier: Apache-2.0
"""What steps do to numbers: they move, descend, and meet zero, NaN and any scale."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from orthoptax.layout import flax
from tests import zoo
from tests.conformance.discovery import (
    ABSOLUTE,
    CALM,
    DEGREE,
    FEASIBLE,
    STILL,
    has_rate,
    in_float64,
    is_optimizer,
    keeps_units,
    law,
    leaf_by_leaf,
    parts,
    sample,
)

quick = functools.partial(jax.jit, compiler_options=zoo.QUICKLY)


@functools.cache
def matrices():
    """The names of the zoo's leaves that are matrices."""
    leaves = zip(zoo.names(zoo.structs()), jax.tree.leaves(zoo.structs()), strict=True)
    return [name for name, leaf in leaves if flax()(name, leaf) is not None]


def first_update(subject, grads, steps=1):
    """The update of the last of equal steps, by name."""
    params = zoo.tree()
    state = subject.init(params)
    for _ in range(steps):
        updates, state = subject.update(grads, state, params)
    return zoo.by_name(updates)


def poisoned(name, index):
    """Gradients with one NaN."""
    grads = zoo.by_name(zoo.tree(1))
    grads[name] = grads[name].copy()
    grads[name][index] = np.nan
    structure = jax.tree.structure(zoo.tree())
    return jax.tree.unflatten(structure, [jnp.asarray(g) for g in grads.values()])


@law(is_optimizer, fast=parts)
def test_every_leaf_moves(subject):
    updates = first_update(subject, zoo.tree(1))
    assert len(updates) == len(zoo.names(zoo.structs()))
    for name, u in updates.items():
        assert np.all(np.isfinite(u)), name
        assert np.max(np.abs(u)) > 1e-6, name


@law(is_optimizer, fast=parts)
def test_descends_on_a_quadratic(subject):
    target = feasible(subject, zoo.tree(2, zoo.SMALL, scale=0.3))
    # The rate falls: with steps of one length, sparse ones above all circle the target.
    rate = lambda count: 0.1 * (1 - count / 60)
    tx = subject.make(learning_rate=rate, **CALM.get(subject.name, {}))

    def distance(params):
        return optax.tree.norm(optax.tree.sub(params, target), squared=True) / 2

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(distance)(params)
        told = {"value": value, "obj_fn": distance, "grad_fn": jax.grad(distance)}
        updates, state = tx.update(grads, state, params, **told)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params):
        (params, _), _ = lax.scan(step, (params, tx.init(params)), length=60)
        return distance(params)

    start = feasible(subject, zoo.tree(3, zoo.SMALL, scale=0.1))
    assert run(start) < 0.2 * distance(start)


def feasible(subject, tree):
    """A tree whose matrix is where the optimizer can keep it."""
    inside = FEASIBLE.get(subject.name, lambda w: w)
    return {**tree, "tall": {"kernel": inside(tree["tall"]["kernel"])}}


@law(fast=sample)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20])
def test_gradients_of_any_scale_stay_finite(subject, scale):
    for steps in (1, 2):
        updates = first_update(subject, zoo.tree(1, scale=scale), steps)
        for name, u in updates.items():
            assert np.all(np.isfinite(u)), name


@law(is_optimizer, fast=parts)
def test_zero_gradients_move_no_matrix(subject):
    still = subject
    if subject.name in STILL:
        tx = subject.make(**STILL[subject.name])
        still = types.SimpleNamespace(init=tx.init, update=quick(tx.update))
    updates = first_update(still, zoo.tree(1, scale=0))
    for name in matrices():
        assert not np.any(updates[name]), name


@law(is_optimizer, fast=parts)
def test_tiny_gradients_move_every_matrix(subject):
    updates = first_update(subject, zoo.tree(1, scale=1e-20))
    least = 1e-6 * 1e-20 ** DEGREE.get(subject.name, 0)
    for name in matrices():
        assert np.max(np.abs(updates[name])) > least, name


@law(leaf_by_leaf, fast=sample)
@pytest.mark.parametrize("name", ["square/kernel", "embed/embedding"])
def test_nan_stays_in_its_leaf(subject, name):
    updates = first_update(subject, poisoned(name, (0, 0)))
    assert np.any(np.isnan(updates.pop(name)))
    for other, u in updates.items():
        assert np.all(np.isfinite(u)), other


@law(lambda subject: not leaf_by_leaf(subject), fast=parts)
def test_nan_reaches_every_leaf_or_nothing_moves(subject):
    updates = first_update(subject, poisoned("embed/embedding", (0, 0)))
    seen = {(bool(np.all(np.isnan(u))), bool(np.any(u))) for u in updates.values()}
    assert seen in ({(True, True)}, {(False, False)})


@law(leaf_by_leaf, fast=sample)
def test_nan_stays_in_its_layer(subject):
    name = "blocks/up/kernel"
    updates = first_update(subject, poisoned(name, (1, 0, 0)))
    assert np.any(np.isnan(updates[name][1]))
    assert np.all(np.isfinite(updates[name][[0, 2]]))


@functools.cache
def without_units(subject):
    """The optimizer with the numbers it compares gradients with switched off."""
    if subject.name not in ABSOLUTE:
        return subject
    tx = subject.make(**ABSOLUTE[subject.name])
    return types.SimpleNamespace(init=quick(tx.init), update=quick(tx.update))


@law(keeps_units, fast=parts)
@pytest.mark.parametrize("power", [-66, -7, 9, 66])
def test_matrix_direction_ignores_powers_of_two(subject, power):
    for steps in (1, 2):
        expected = first_update(without_units(subject), zoo.tree(1), steps)
        grads = zoo.tree(1, scale=2.0**power)
        updates = first_update(without_units(subject), grads, steps)
        factor = np.float32(2.0**power) ** DEGREE.get(subject.name, 0)
        for name in matrices():
            np.testing.assert_array_equal(
                updates[name], factor * expected[name], err_msg=name
            )


@in_float64
@law(keeps_units, fast=parts)
@pytest.mark.parametrize("scale", [3e-11, 0.7, 3e9])
def test_matrix_direction_ignores_scale(subject, scale):
    expected = first_update(without_units(subject), zoo.tree(1), 2)
    updates = first_update(without_units(subject), zoo.tree(1, scale=scale), 2)
    factor = scale ** DEGREE.get(subject.name, 0)
    pick = lambda u, factor: {name: factor * u[name] for name in matrices()}
    zoo.assert_close(pick(updates, 1), pick(expected, factor), 1e-5)


@law(fast=sample)
def test_hard_matrices_stay_finite(subject):
    hard = {name: {"kernel": m} for name, m in zoo.hard_matrices().items()}
    grads = jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), hard)
    params = jax.tree.map(jnp.ones_like, grads)
    state = subject.init(params)
    for _ in range(2):
        updates, state = subject.update(grads, state, params)
        for name, u in zoo.by_name(updates).items():
            assert np.all(np.isfinite(u)), name


@law(has_rate, fast=parts)
def test_schedules_count_from_zero(subject):
    seen, rates = [], jnp.asarray([0.25, 0.5])

    def schedule(count):
        seen.append((count.shape, count.dtype))
        return rates[count]

    params, grads = zoo.tree(0, zoo.SMALL), zoo.tree(1, zoo.SMALL)
    ours = subject.only_ours()  # stock optax has tests of its own

    def two(rate, later):
        tx = subject.make(learning_rate=rate, **ours)
        first, state = tx.update(grads, tx.init(params), params)
        tx = subject.make(learning_rate=later, **ours)
        return first, tx.update(grads, state, params)[0]

    scheduled = jax.jit(lambda: two(schedule, schedule))()
    constant = jax.jit(two)(*rates)
    zoo.assert_close(scheduled[0], constant[0])
    zoo.assert_close(scheduled[1], constant[1])
    assert set(seen) == {((), jnp.dtype("int32"))}
