# SPDX-License-Identifier: Apache-2.0
"""What optax does with a transform: wrap it, mask it, map over it, inject into it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests import zoo
from tests.conformance.discovery import (
    RATE,
    bends,
    in_float64,
    is_straight,
    law,
    parts,
    sample,
)
from tests.conformance.test_programs import steps


def gradients():
    """Those of two steps, exact in float32, in which `optax.MultiSteps` adds up."""
    single = [zoo.tree(seed, zoo.SMALL, jnp.float32) for seed in (1, 2)]
    return jax.tree.map(lambda g: g.astype(float), single)


def masked(v):
    """Whether a leaf was left out."""
    return isinstance(v, optax.MaskedNode)


@law()
def test_is_a_transform_that_ignores_unknown_arguments(subject):
    tx = subject.transform
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    params = zoo.structs(zoo.SMALL)
    state = jax.eval_shape(tx.init, params)
    plain = jax.make_jaxpr(tx.update)(params, state, params)
    unknown = lambda g, s, p: tx.update(g, s, p, unknown=3, other={"a": p})
    assert str(jax.make_jaxpr(unknown)(params, state, params)) == str(plain)


@law()
def test_params_may_be_missing_or_are_named(subject):
    tx, grads = subject.transform, zoo.structs(zoo.SMALL)
    state = jax.eval_shape(tx.init, grads)
    assert answer(lambda g, s: tx.update(g, s)[0], grads, state) in (
        zoo.types(grads),
        "missing 'params'. Expected the parameters. "
        "Call tx.update(updates, state, params).",
    )


def answer(fn, *arguments):
    """The types that a function returns, or what its ValueError says."""
    try:
        return zoo.types(jax.eval_shape(fn, *arguments))
    except ValueError as error:
        return str(error).partition(".update: ")[2]


def plain_chain(tx):
    return optax.chain(optax.clip_by_global_norm(1e6), tx, optax.identity())


def named_chain(tx):
    return optax.named_chain(("first", optax.identity()), ("ours", tx))


def apply_if_finite(tx):
    return optax.apply_if_finite(tx, 2)


@in_float64
@law(fast=sample)
@pytest.mark.parametrize(
    "wrap",
    [named_chain, apply_if_finite, pytest.param(plain_chain, marks=pytest.mark.slow)],
)
def test_wrapped_is_the_same(subject, wrap):
    params = zoo.tree(0, zoo.SMALL)
    ours = scanned(wrap(subject.transform), params, gradients())[0]
    expected = steps(subject, params, gradients())[0]
    zoo.assert_close(ours, expected)


@in_float64
@law(fast=sample)
def test_multi_steps_accumulates(subject):
    tx = optax.MultiSteps(subject.transform, 2).gradient_transformation()
    params, twice = zoo.tree(0, zoo.SMALL), [g for g in gradients() for _ in range(2)]
    expected = steps(subject, params, gradients())[0]
    ours = scanned(tx, params, twice)[0]
    zoo.assert_close(ours, expected)


@in_float64
@law(fast=sample)
def test_lookahead_runs_the_fast_weights(subject):
    params = zoo.tree(0, zoo.SMALL)
    tx = optax.lookahead(subject.transform, sync_period=5, slow_step_size=0.5)
    pair = optax.LookaheadParams.init_synced(params)
    ours = scanned(tx, pair, gradients())[0]
    expected = steps(subject, params, gradients())[0]
    zoo.assert_close(ours.fast, expected)
    zoo.assert_same(ours.slow, params)


@law(fast=sample)
def test_schedule_free_runs(subject):
    params = zoo.tree(0, zoo.SMALL)
    tx = optax.contrib.schedule_free(subject.transform, 0.1)
    ours = scanned(tx, params, gradients())[0]
    assert zoo.types(ours) == zoo.types(params)
    for name, leaf in zoo.by_name(ours).items():
        assert np.all(np.isfinite(leaf)), name


def scanned(tx, params, gradients):
    """Parameters and state after steps in one scan, which fixes the state's types."""

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params, gradients):
        return lax.scan(step, (params, tx.init(params)), gradients)[0]

    return run(params, jax.tree.map(lambda *g: jnp.stack(g), *gradients))


@law(fast=sample)
def test_masks_and_missing_leaves(subject):
    params, grads = zoo.tree(0, zoo.SMALL), zoo.tree(1, zoo.SMALL)
    tx = subject.transform
    frozen = lambda tree, value: {**tree, "square": value}
    labels = {"tall": "ours", "square": "other"}
    only = optax.masked(tx, {"tall": True, "square": False})
    none = optax.masked(tx, {"tall": False, "square": False})
    split = optax.partition({"ours": tx, "other": optax.sgd(0.5)}, labels)

    @jax.jit
    def run(grads, params):
        one = lambda tx, g, p: tx.update(g, tx.init(p), p)[0]
        box = {"bias": optax.MaskedNode()}
        return [
            one(tx, {"tall": grads["tall"]}, {"tall": params["tall"]}),
            one(tx, frozen(grads, None), frozen(params, None)),
            one(tx, frozen(grads, box), frozen(params, box)),
            one(only, grads, params),
            one(split, grads, params),
            one(none, grads, params),
        ]

    alone, with_none, with_masked, with_mask, parted, nothing = run(grads, params)
    for other in (with_none, with_masked, with_mask, parted):
        zoo.assert_close(other["tall"], alone["tall"])
    assert with_none["square"] is None
    assert masked(with_masked["square"]["bias"])
    zoo.assert_same(with_mask["square"], grads["square"])
    zoo.assert_close(parted["square"]["bias"], -0.5 * grads["square"]["bias"])
    zoo.assert_same(nothing, grads)


@law()
def test_map_params_gives_every_leaf_a_sharding(subject):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params, tx = zoo.structs(zoo.SHARDED), subject.transform
    state = jax.eval_shape(tx.init, params)
    replicated = NamedSharding(mesh, P())

    def sharding(leaf):
        axis = next((i for i, n in enumerate(leaf.shape) if n % 8 == 0), None)
        return (
            replicated if axis is None else NamedSharding(mesh, P(*[None] * axis, "x"))
        )

    shardings = jax.tree.map(sharding, params)

    def per_param(leaf, sharding, like):
        if masked(leaf):
            return leaf
        assert leaf.shape == like.shape
        return sharding

    specs = optax.tree.map_params(
        tx,
        per_param,
        state,
        shardings,
        params,
        transform_non_params=lambda v: jax.tree.map(lambda _: replicated, v),
        is_leaf=masked,
    )
    assert jax.tree.structure(specs) == jax.tree.structure(state)
    placed = jax.jit(tx.init, out_shardings=specs)(zoo.tree(0, zoo.SHARDED))
    wanted = dict(zip(zoo.names(params), jax.tree.leaves(shardings), strict=True))
    for name, leaf in zip(zoo.names(placed), jax.tree.leaves(placed), strict=True):
        for param, sharding in wanted.items():
            if name.endswith(f"momentum/{param}"):
                assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), name


@in_float64
@law(lambda subject: subject.only_keywords(), fast=sample)
def test_inject_hyperparams(subject):
    factory = subject.lift(
        optax.inject_hyperparams(subject.constructor, static_args=subject.counts())
    )
    params = zoo.tree(0, zoo.SMALL)
    expected = steps(subject, params, gradients())[0]
    ours = scanned(factory(**subject.required({})), params, gradients())[0]
    zoo.assert_close(ours, expected)


def injected(subject):
    """(update with the rate it was made with, with twice that, the state before).

    The rate is doubled in the state. There is no decay: then the rate is a factor.
    """
    make = subject.lift(optax.inject_hyperparams(subject.constructor))
    tx = make(learning_rate=RATE)
    params, grads = zoo.tree(0, zoo.SMALL), gradients()[0]
    state, update = tx.init(params), jax.jit(tx.update)
    assert set(subject.numbers()) <= set(state.hyperparams)
    for name in {"weight_decay"} & set(state.hyperparams):
        state.hyperparams[name] = jnp.zeros_like(state.hyperparams[name])
    once, _ = update(grads, state, params)
    state.hyperparams["learning_rate"] *= 2
    twice, _ = update(grads, state, params)
    return once, twice, state.inner_state


@law(is_straight, fast=parts)
def test_injected_rate_can_be_changed(subject):
    once, twice, _ = injected(subject)
    zoo.assert_close(twice, jax.tree.map(lambda u: 2 * u, once))


@law(bends, fast=parts)
def test_injected_rate_is_that_of_the_step(subject):
    _, twice, state = injected(subject)
    tx, params = subject.make(learning_rate=2 * RATE), zoo.tree(0, zoo.SMALL)
    expected, _ = jax.jit(tx.update)(gradients()[0], state, params)
    zoo.assert_close(twice, expected)
