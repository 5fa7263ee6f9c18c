# SPDX-License-Identifier: Apache-2.0
"""What a state is: arrays of fixed types, documented, free of configuration."""

import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import zoo
from tests.conformance.discovery import has_rate, law, parts, sample

MANIFESTS = pathlib.Path(__file__).parent / "manifests"
DTYPES = ("float32", "bfloat16", "float16", "float64")
FLOAT16 = pytest.param("float16", marks=pytest.mark.slow)


def types_of_a_step(tx, params, grads):
    """(state before, state after, updates) as paths, shapes, dtypes, weak types."""
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, grads, state, params)
    return zoo.types(state), zoo.types(after), zoo.types(updates)


@law()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", FLOAT16])
def test_types_stay(subject, dtype):
    with jax.enable_x64(dtype == "float64"):
        params = zoo.structs(dtype=dtype)
        before, after, updates = types_of_a_step(subject.transform, params, params)
    assert before == after
    assert updates == zoo.types(params)


@law(fast=parts)
@pytest.mark.parametrize("dtype", ["bfloat16", FLOAT16])
def test_types_stay_with_narrow_gradients(subject, dtype):
    # Without stock optax: adamw answers 16-bit gradients in the parameters' float32.
    tx = subject.make(**subject.only_ours())
    params, grads = zoo.structs(), zoo.structs(dtype=dtype)
    before, after, updates = types_of_a_step(tx, params, grads)
    assert before == after
    assert updates == zoo.types(grads)


@law(lambda subject: subject.dtypes(), fast=sample)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("option", DTYPES)
def test_types_stay_with_each_state_dtype(subject, dtype, option):
    for name in subject.dtypes():
        with jax.enable_x64("float64" in (dtype, option)):
            tx = subject.make(**{name: jnp.dtype(option)})
            params = zoo.structs(zoo.SMALL, dtype)
            before, after, updates = types_of_a_step(tx, params, params)
        assert before == after
        assert updates == zoo.types(params)


@law(fast=sample)
def test_narrow_parameters_step(subject):
    params = zoo.tree(0, zoo.SMALL, jnp.bfloat16)
    state = subject.init(params)
    updates, after = subject.update(params, state, params)
    assert zoo.types(after) == zoo.types(state)
    assert zoo.types(updates) == zoo.types(params)
    for name, u in zoo.by_name(updates).items():
        assert np.all(np.isfinite(u.astype(np.float32))), name


@law()
def test_init_on_shapes_under_jit_and_eagerly_agree(subject):
    params = zoo.tree(shapes=zoo.SMALL)
    eager = subject.transform.init(params)
    shapes = jax.eval_shape(subject.transform.init, zoo.structs(zoo.SMALL))
    assert zoo.types(shapes) == zoo.types(eager)
    zoo.assert_same(subject.init(params), eager)


@law(fast=parts)
def test_promotion_is_spelled_out(subject):
    # Without stock optax: its adamw raises under these settings.
    tx = subject.make(**subject.only_ours())
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in ("float32", "bfloat16"):
            before, after, _ = types_of_a_step(
                tx, zoo.structs(), zoo.structs(dtype=dtype)
            )
            assert before == after


@law(lambda subject: subject.numbers())
def test_state_does_not_depend_on_numbers(subject):
    params = zoo.tree(shapes=zoo.SMALL)
    expected = subject.transform.init(params)
    for name, value in subject.numbers().items():
        changed = subject.make(**{name: value / 2 if value else 0.1})
        zoo.assert_same(changed.init(params), expected)
        zeroed = subject.make(**{name: 0.0})
        zoo.assert_same(zeroed.init(params), expected)


@law(has_rate)
def test_state_does_not_depend_on_what_the_rate_is(subject):
    # Without stock optax: its link of the rate counts only for a schedule.
    params, ours = zoo.tree(shapes=zoo.SMALL), subject.only_ours()
    expected = subject.make(**ours).init(params)
    for rate in (jnp.asarray(0.1), lambda count: 0.1 / (1 + count)):
        zoo.assert_same(subject.make(learning_rate=rate, **ours).init(params), expected)


@law()
def test_state_is_documented_tuples_of_arrays(subject):
    state = subject.transform.init(zoo.tree(shapes=zoo.SMALL))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    for part in tuples(state):
        if type(part).__module__.startswith("orthoptax"):
            assert type(part).__name__.endswith("State")
            for field in part._fields:
                assert field in inspect.getdoc(type(part)), (type(part), field)


def tuples(tree):
    """Every named tuple in a state, outermost first."""
    if isinstance(tree, optax.MaskedNode):
        return
    if hasattr(tree, "_fields"):
        yield tree
    if isinstance(tree, (tuple, list, dict)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from tuples(part)


@law()
def test_state_is_as_in_the_manifest(subject):
    state = jax.eval_shape(subject.transform.init, zoo.structs())
    lines = [f"{name} {shape} {dtype}\n" for name, shape, dtype, _ in zoo.types(state)]
    path = MANIFESTS / f"{subject.name}.txt"
    if not path.exists():
        path.write_text("".join(lines))
        pytest.fail(f"{path.name}: written just now. Review it, then run again.")
    assert path.read_text().splitlines(keepends=True) == lines
