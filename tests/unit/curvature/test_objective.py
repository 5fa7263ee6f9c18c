# SPDX-License-Identifier: Apache-2.0
"""What a caller gets wrong is said while tracing: what came, and what to call."""

import jax
import jax.numpy as jnp
import optax
import pytest

from orthoptax.curvature import (
    average_blocks,
    exact_diagonal,
    gauss_newton_bartlett,
    given,
    hutchinson,
)
from orthoptax.layout import on_full_params
from orthoptax.optimizers import adahessian, oasis, sophia_g, sophia_h
from orthoptax.transforms import divide_by_curvature_mean, with_curvature

PARAMS = {"a": jnp.ones(3), "b": jnp.ones(2)}


def loss(params):
    """A loss that looks at every leaf."""
    return jnp.sum(params["a"] ** 2) * jnp.sum(params["b"] ** 2)


def step(tx, **extra):
    """The types of a step; nothing runs."""
    update = lambda p: tx.update(p, tx.init(p), p, **extra)
    return jax.eval_shape(update, PARAMS)


@pytest.mark.parametrize("make", [adahessian, sophia_h, oasis])
def test_a_missing_objective(make):
    with pytest.raises(ValueError, match="missing 'obj_fn'") as error:
        step(make(0.1))
    assert "Call tx.update(updates, state, params, obj_fn=...)" in str(error.value)


@pytest.mark.parametrize("name", ["logits_fn", "sample_fn", "nll_fn"])
def test_a_missing_part_of_the_likelihood(name):
    extra = {"logits_fn": loss, "sample_fn": loss, "nll_fn": loss}
    del extra[name]
    with pytest.raises(ValueError, match=rf"missing '{name}'.*{name}=...") as error:
        step(sophia_g(0.1, start=0), **extra)
    assert "gauss_newton_bartlett" in str(error.value)


def test_a_missing_diagonal():
    with pytest.raises(ValueError, match=r"missing 'hessian_diag'.*with_curvature"):
        step(divide_by_curvature_mean())
    with pytest.raises(ValueError, match=r"missing 'hessian_diag'.*hessian_diag=..."):
        step(with_curvature(estimator=given()))


@pytest.mark.parametrize(
    ("fn", "action"),
    [
        (lambda p: p["a"] ** 2, "Take the mean"),
        (lambda p: (loss(p), p), "has_aux=True"),
        (lambda p: jnp.sum(p["a"]).astype(int), "one real number"),
        (lambda p: {"loss": loss(p)}, "one real number"),
    ],
)
def test_an_objective_that_is_no_number(fn, action):
    with pytest.raises(TypeError, match="obj_fn returned") as error:
        step(adahessian(0.1), obj_fn=fn)
    assert action in str(error.value)


def test_an_objective_that_is_no_function():
    with pytest.raises(TypeError, match="obj_fn=3 is not a function"):
        step(adahessian(0.1), obj_fn=3)


def test_aux_is_dropped_where_it_was_told_of():
    for estimator in (hutchinson(has_aux=True), exact_diagonal(has_aux=True)):
        tx = adahessian(0.1, estimator=estimator)
        step(tx, obj_fn=lambda p: (loss(p), "anything"))
        with pytest.raises(TypeError, match="Drop has_aux"):
            step(tx, obj_fn=loss)


def test_a_tracer_of_another_trace():
    # Inside a jit of the caller's jax itself says it, when that ends, and not before.
    leaked = []
    jax.eval_shape(leaked.append, jax.ShapeDtypeStruct((), jnp.float32))
    tx, fn = adahessian(0.1), lambda p: loss(p) * leaked[0]
    with pytest.raises(ValueError, match=r"another trace.*inside the jitted step"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, obj_fn=fn)
    update = jax.jit(lambda p: tx.update(p, tx.init(p), p, obj_fn=fn))
    with pytest.raises(jax.errors.UnexpectedTracerError):
        update(PARAMS)


@pytest.mark.parametrize("make", [adahessian, sophia_h, oasis])
def test_masked_without_on_full_params(make):
    tx = optax.masked(make(0.1), {"a": True, "b": False})
    with pytest.raises(TypeError, match=r"some are masked.*on_full_params"):
        step(tx, obj_fn=loss)
    whole, _ = step(tx, obj_fn=on_full_params(loss, PARAMS))
    assert whole["a"].shape == (3,)


def test_an_error_of_the_objective_itself_is_left_alone():
    def broken(params):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        step(adahessian(0.1), obj_fn=broken)
    masked = optax.masked(adahessian(0.1), {"a": True, "b": False})
    with pytest.raises(KeyError, match="mine"):
        step(masked, obj_fn=on_full_params(broken, PARAMS))


def test_a_likelihood_without_its_count():
    extra = {
        "logits_fn": lambda p: p["a"],
        "sample_fn": lambda key, logits: logits,
        "nll_fn": lambda logits, labels: jnp.mean(logits),
    }
    tx = with_curvature(estimator=gauss_newton_bartlett())
    with pytest.raises(TypeError, match=r"nll_fn returned.*nll.size"):
        step(tx, **extra)


def test_arguments_of_the_wrapper():
    with pytest.raises(ValueError, match="update_every=0"):
        with_curvature(update_every=0)
    with pytest.raises(ValueError, match="start=-1"):
        with_curvature(start=-1)
    with pytest.raises(TypeError, match=r"jax.random.key\(seed\)"):
        with_curvature(key=jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="n_samples=0"):
        hutchinson(0)


def test_a_diagonal_unlike_the_parameters():
    tx = with_curvature(estimator=given())
    with pytest.raises(ValueError, match="the diagonal is a tree"):
        step(tx, hessian_diag={"a": jnp.ones(3)})


def test_runs_that_do_not_fit_a_leaf():
    with pytest.raises(ValueError, match=r"'w' of shape \(3, 3\).*where="):
        average_blocks(2)("w", jnp.ones((3, 3)))
