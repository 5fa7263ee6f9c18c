# SPDX-License-Identifier: Apache-2.0
"""The link that records: what it says of Muon, and of what is not Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.diagnostics import record
from orthoptax.layout import by_layout, describe, flax, on_matrices
from orthoptax.matrix import auto, newton_schulz, svd
from orthoptax.optimizers import muon
from orthoptax.transforms import (
    decoupled,
    momentum,
    orthogonalize,
    scale_by_learning_rate,
    scale_by_shape,
)
from tests import zoo

SQUARE = {
    "a": {"kernel": (64, 64)},
    "b": {"kernel": (2, 64, 64)},
    "norm": {"scale": (64,)},
}
SQUARE = {"a": SQUARE["a"], "blocks": SQUARE["b"], "norm": SQUARE["norm"]}
FORM = r"^record(\.update)?: .+\. Expected .+\. .+\.$"


def after_a_step(tx, grads, params=None):
    """The state after one step."""
    params = zoo.tree(0, SQUARE) if params is None else params
    return jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[1])(grads, params)


def get(state, name):
    """A statistic, found as a user finds it."""
    return optax.tree.get(state, name)


def test_muon_orthogonalizes_all_that_the_layout_calls_matrices():
    params, grads = zoo.tree(), zoo.tree(1)
    state = after_a_step(muon(0.02, polar=svd(), after=record()), grads, params)
    assert get(state, "matrices") == describe(params).matrices == 12
    assert get(state, "orthogonalized") == 12


@pytest.mark.parametrize(
    ("polar", "least", "most"),
    [(newton_schulz(), 0.25, 0.5), (auto(), 0.02, 0.12)],
)
def test_iterations_count_as_orthogonal(polar, least, most):
    state = after_a_step(muon(0.02, polar=polar, after=record()), zoo.tree(1, SQUARE))
    assert get(state, "orthogonalized") == get(state, "matrices") == 3
    for error in get(state, "orthogonality_error").values():
        assert np.all((error > least) & (error < most))


@pytest.mark.parametrize("polar", [lambda x: x, jnp.sign, jnp.zeros_like])
def test_what_is_not_muon_counts_as_nothing(polar):
    state = after_a_step(muon(0.02, polar=polar, after=record()), zoo.tree(1, SQUARE))
    assert get(state, "orthogonalized") == 0
    assert get(state, "matrices") == 3
    for error in get(state, "orthogonality_error").values():
        np.testing.assert_allclose(error, 1, atol=0.12)  # of 4 probes of 64 rows


def test_a_matrix_sent_to_adam_is_missing():
    layout = flax(("a/kernel$", None))
    tx = muon(0.02, layout=layout, after=record())
    state = after_a_step(tx, zoo.tree(1, SQUARE))
    assert get(state, "orthogonalized") == get(state, "matrices") == 2
    assert set(get(state, "update_rms")) == {"blocks/kernel"}


def test_nan_counts_as_nothing_and_stays_in_its_matrix():
    grads = zoo.tree(1, SQUARE)
    grads["blocks"]["kernel"] = grads["blocks"]["kernel"].at[1, 0, 0].set(np.nan)
    state = after_a_step(muon(0.02, after=record()), grads)
    assert get(state, "orthogonalized") == 2
    for name in ("orthogonality_error", "update_rms", "spectral_norm"):
        assert np.isfinite(get(state, name)["a/kernel"])
        np.testing.assert_array_equal(
            np.isnan(get(state, name)["blocks/kernel"]), [False, True]
        )


def test_sizes_are_per_unit_of_rate_and_without_decay():
    params, grads = zoo.tree(0, SQUARE), zoo.tree(1, SQUARE)
    state = after_a_step(
        muon(1e-5, weight_decay=0.3, polar=svd(), after=record()), grads
    )
    # match_rms makes the root-mean-square 0.2, whatever the shape.
    weight = np.sqrt(np.mean(np.square(params["blocks"]["kernel"]), axis=(1, 2)))
    for name, batch in (("a/kernel", ()), ("blocks/kernel", (2,))):
        assert get(state, "update_rms")[name].shape == batch
        np.testing.assert_allclose(get(state, "update_rms")[name], 0.2, rtol=1e-4)
        spectral = get(state, "spectral_norm")[name]
        np.testing.assert_allclose(spectral, 0.2 * np.sqrt(64), rtol=1e-3)
    ratio = get(state, "update_to_weight")["blocks/kernel"]
    np.testing.assert_allclose(ratio, 0.2 / weight, rtol=1e-4)


def test_updates_pass_unchanged():
    params, grads = zoo.tree(), zoo.tree(1)
    results = []
    for after in (None, record()):
        tx = muon(0.02, after=after)
        results.append(jax.jit(lambda g, p, tx=tx: tx.update(g, tx.init(p), p)[0]))
    zoo.assert_close(*(run(grads, params) for run in results), 1e-6)
    alone = {"w": zoo.tree(1)["tall"]["kernel"]}
    tx = record()
    zoo.assert_same(tx.update(alone, tx.init(alone), alone)[0], alone)


def test_tolerance_is_an_argument_that_may_be_traced():
    params, grads = zoo.tree(0, SQUARE), zoo.tree(1, SQUARE)

    @jax.jit
    def counted(tolerance):
        tx = on_matrices(record(tolerance=tolerance))
        return tx.update(grads, tx.init(params), params)[1].links[0].orthogonalized

    assert [int(counted(t)) for t in (0.0, 0.5, 2.0)] == [0, 0, 3]


def test_keys_advance_and_may_be_given():
    params = {"w": zoo.tree()["square"]["kernel"]}

    def errors(tx):
        state, found = tx.init(params), []
        for _ in range(2):
            _, state = tx.update(params, state, params)
            found.append(float(state.orthogonality_error["w"]))
        return found

    default, same, other = (
        errors(record(key=key)) for key in (None, jax.random.key(0), jax.random.key(1))
    )
    assert default == same
    assert default[0] != default[1]
    assert default[0] != other[0]


def test_a_given_key_outlives_donation():
    key, params = jax.random.key(5), {"w": jnp.eye(3)}
    tx = record(key=key)
    step = jax.jit(lambda s: tx.update(params, s, params)[1], donate_argnums=0)
    step(tx.init(params))
    assert not key.is_deleted()
    step(tx.init(params))


def test_before_the_first_update_nothing_is_said():
    state = record().init({"w": jnp.ones((5, 3, 2))})
    assert state.matrices == 5
    assert state.orthogonalized == state.count == 0
    for name in (
        "orthogonality_error",
        "update_rms",
        "update_to_weight",
        "spectral_norm",
    ):
        np.testing.assert_array_equal(getattr(state, name)["w"], np.zeros(5))


def test_the_program_does_not_grow_with_the_layers():
    def products(layers):
        names = [f"layer_{i}" for i in range(layers)]
        params = {n: jax.ShapeDtypeStruct((8, 16 - 8 * (n == names[0])), jnp.float32)
                  for n in names}  # fmt: skip
        tx = record()
        state = jax.eval_shape(tx.init, params)
        jaxpr = jax.make_jaxpr(tx.update)(params, state, params)
        return str(jaxpr).count("dot_general[")

    assert products(2) == products(20) == 2 * 6


def test_costs_at_most_a_twentieth():
    # Loop-free, since the body of a loop is counted once: stages unrolled, one leaf a
    # stack. Drawing the probes may loop, so it is added by hand.
    width, layers = 128, 2
    sizes = {
        "q": (1, 1),
        "k": (1, 1),
        "v": (1, 1),
        "o": (1, 1),
        "up": (1, 4),
        "down": (4, 1),
    }
    params = {
        f"layer_{i}": {
            name: {"kernel": jax.ShapeDtypeStruct((a * width, b * width), jnp.float32)}
            for name, (a, b) in sizes.items()
        }
        for i in range(layers)
    }
    params["embed"] = {"embedding": jax.ShapeDtypeStruct((256, width), jnp.float32)}

    def flops(*after):
        matrix = optax.chain(
            momentum(),
            on_matrices(
                orthogonalize(newton_schulz(unroll=True), max_leaves=1),
                scale_by_shape(),
                *after,
            ),
            decoupled(0.1),
            scale_by_learning_rate(0.02),
        )
        tx = by_layout(matrix=matrix, rest=optax.adamw(0.02))
        state = jax.eval_shape(tx.init, params)
        lowered = jax.jit(tx.update).lower(params, state, params)
        return lowered.compile().cost_analysis()["flops"]

    optimizer, both = flops(), flops(record())
    products = 5 * sum(  # the least that five stages take: two products of the gram
        layers * 2 * 2 * width**3 * max(a, b) for a, b in sizes.values()
    )
    assert optimizer > products  # nothing was counted once for many
    draws = 4 * layers * len(sizes) * width
    assert both > optimizer
    assert both - optimizer + 200 * draws < 0.05 * optimizer


@pytest.mark.parametrize("arguments", [{"tolerance": -1.0}, {"tolerance": np.nan},
                                       {"probes": 0}, {"steps": 0}])  # fmt: skip
def test_numbers_out_of_range(arguments):
    with pytest.raises(ValueError, match=FORM):
        record(**arguments)


def test_untyped_keys_are_refused():
    with pytest.raises(TypeError, match=FORM):
        record(key=jax.random.PRNGKey(0))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=FORM) as error:
        record().init({"dense": {"bias": jnp.ones(8)}})
    assert "dense/bias" in str(error.value)


def test_params_are_needed():
    tx, w = record(), {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=FORM):
        tx.update(w, tx.init(w))
