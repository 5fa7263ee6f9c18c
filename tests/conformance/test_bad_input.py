# SPDX-License-Identifier: Apache-2.0
"""Bad input is refused at construction or in `init`, in the form all errors have."""

import jax
import jax.numpy as jnp
import optax
import pytest

from orthoptax.layout import describe, flax
from orthoptax.transforms import match_rms, original
from tests import zoo
from tests.conformance.discovery import OWN_SCALE, is_optimizer, law
from tests.conformance.supply import EXTRA

FORM = r"(?s)^[\w.]+: .+\. Expected .+\. .+\.$"  # thing and wrong; expected; what to do


def routes(subject):
    """For `law`: whatever asks a layout which leaves are matrices."""
    return subject.on_matrices or "layout" in subject.parameters


@law(lambda subject: subject.numbers())
@pytest.mark.parametrize("bad", [-1.0, -1, float("nan")])
def test_numbers_out_of_range(subject, bad):
    for name in subject.numbers():
        with pytest.raises(ValueError, match=FORM) as error:
            subject.make(**{name: bad})
        assert name in str(error.value)
        assert str(bad) in str(error.value)


@law(lambda subject: subject.numbers())
@pytest.mark.parametrize("bad", ["0.1", None, True])
def test_numbers_of_another_kind(subject, bad):
    for name in subject.numbers():
        with pytest.raises(TypeError, match=FORM):
            subject.make(**{name: bad})


def asks_for_floats(subject):
    """For `law`: every optimizer, and whatever asks a layout."""
    return subject.is_optimizer or routes(subject)


@law(asks_for_floats)
def test_integer_leaves(subject):
    params = {"dense": {"kernel": jnp.ones((4, 8), jnp.int32)}}
    with pytest.raises(TypeError, match=FORM) as error:
        subject.transform.init(params)
    for part in ("dense/kernel", "(4, 8)", "int32", "floating"):
        assert part in str(error.value)


@law(lambda subject: subject.on_matrices and subject.floor == "transforms")
def test_vectors_are_no_matrices(subject):
    tx = subject.constructor()  # not inside on_matrices, which would make a matrix
    step = lambda params: tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=FORM) as error:
        jax.eval_shape(step, {"gain": jnp.ones(4)})
    for part in (subject.name, "'gain'", "(4,)", "on_matrices"):
        assert part in str(error.value)


@law(asks_for_floats)
def test_empty_trees(subject):
    tx = subject.transform
    state = tx.init({})  # optax's own tools ask this of every transform
    with pytest.raises(ValueError, match=FORM):
        tx.update({}, state, {})


@law(routes)
def test_leaves_that_the_layout_does_not_know(subject):
    with pytest.raises(ValueError, match=FORM) as error:
        subject.transform.init({"dense": {"unknown": jnp.ones((4, 8))}})
    assert "dense/unknown" in str(error.value)
    assert "(4, 8)" in str(error.value)


def has_the_rate_of_adamw(subject):
    """For `law`: whatever shares AdamW's rate under its default shape rule."""
    return ruled(subject) and subject.name not in OWN_SCALE


def ruled(subject):
    """For `law`: whatever takes a shape rule and the optimizer of the rest."""
    return {"shape_rule", "rest"} <= set(subject.parameters)


@law(has_the_rate_of_adamw)
def test_another_rate_scale_without_rest(subject):
    with pytest.raises(ValueError, match=FORM) as error:
        subject.make(shape_rule=original)
    assert "shape_rule=original" in str(error.value)
    assert "rest=" in str(error.value)


@law(lambda subject: ruled(subject) and not has_the_rate_of_adamw(subject))
def test_a_scale_of_its_own_asks_for_no_rest(subject):
    params = zoo.structs(zoo.SMALL)
    for rule in (None, original, match_rms):
        tx = subject.make(shape_rule=rule)
        assert jax.tree.leaves(jax.eval_shape(tx.init, params))


@law(ruled)
def test_another_rate_scale_with_rest(subject):
    params = zoo.structs(zoo.SMALL)
    for choice in ({"rest": optax.sgd(0.1)}, {}):
        rule = original if choice else match_rms
        tx = subject.make(shape_rule=rule, **choice)
        assert jax.tree.leaves(jax.eval_shape(tx.init, params))


@law(is_optimizer)
def test_callables_are_asked_for(subject):
    for name in {"polar", "layout"} & set(subject.parameters):
        with pytest.raises(TypeError, match=FORM):
            subject.make(**{name: "newton_schulz"})


def test_empty_trees_are_not_described():
    with pytest.raises(ValueError, match=FORM):
        describe({})


def test_the_zoo_holds_every_role():
    table = describe(zoo.structs())
    roles = {row.role for row in table.rows}
    assert roles >= {
        "dense", "dense, scanned", "dense, experts", "convolution", "attention",
        "attention output", "embedding", "head", "gain or bias",
    }  # fmt: skip
    assert {len(row.shape) for row in table.rows} >= {0, 1, 2, 3, 4}
    # Exactly those leaves go to the matrices that a reader would send there.
    assert {row.name for row in table.rows if row.view is not None} == {
        "square/kernel", "tall/kernel", "wide/kernel", "row/kernel", "conv/kernel",
        "blocks/up/kernel", "attention/query/kernel", "attention/out/kernel",
        "experts/up/kernel",
    }  # fmt: skip
    assert flax()("norm/scale", jnp.ones(8)) is None


@law(lambda subject: subject.needs)
def test_what_is_needed_is_asked_for(subject):
    tx, params = subject.constructor(**subject.required({})), zoo.structs(zoo.SMALL)
    for name in subject.needs:
        others = [n for n in subject.needs if n != name]

        def step(p, others=others):
            told = {n: EXTRA[n](p, p) for n in others}
            return tx.update(p, tx.init(p), p, **told)

        with pytest.raises(ValueError, match=FORM) as error:
            jax.eval_shape(step, params)
        assert f"missing '{name}'" in str(error.value)
        assert f"tx.update(updates, state, params, {name}=...)" in str(error.value)
