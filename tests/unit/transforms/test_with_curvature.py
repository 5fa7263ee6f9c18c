# SPDX-License-Identifier: Apache-2.0
"""The clock, the guard and the places of `with_curvature`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from orthoptax.curvature import exact_diagonal, given, hutchinson
from orthoptax.layout import by_layout, on_full_params, on_matrices
from orthoptax.matrix import newton_schulz, svd
from orthoptax.optimizers import adahessian, muon, oasis, sophia_g, sophia_h
from orthoptax.transforms import (
    divide_by_curvature_abs_floor,
    divide_by_curvature_mean,
    orthogonalize,
    secant_step,
    with_curvature,
)

W = jnp.asarray([1.0, -2.0, 3.0])


def reveal():
    """A link whose update is what it was told: the estimate, and whether it is one."""

    def update(updates, state, params=None, *, hessian_diag, hessian_fresh, **extra):
        told = jax.tree.map(lambda d: jnp.append(d, hessian_fresh), hessian_diag)
        return told, state

    init = lambda params: optax.EmptyState()
    return optax.GradientTransformationExtraArgs(init, update)


def cubic(factor=1.0):
    """An objective whose Hessian is diagonal, 6 factor w."""
    return lambda w: factor * jnp.sum(w**3)


def told(tx, factors):
    """(what the link was told at each step, the last state), in one scan."""

    @jax.jit
    def run(factors):
        def step(state, factor):
            updates, state = tx.update(W, state, W, obj_fn=cubic(factor))
            return state, updates

        return lax.scan(step, tx.init(W), factors)

    state, every = run(jnp.asarray(factors))
    return np.asarray(every), state


@pytest.mark.parametrize(
    ("every", "start", "due"),
    [(1, 0, range(7)), (2, 0, [0, 2, 4, 6]), (3, 2, [2, 5]), (1000, 0, [0]),
     (1, 5, [5, 6]), (2, 1000, [])],
)  # fmt: skip
def test_the_clock(every, start, due):
    tx = with_curvature(reveal(), update_every=every, start=start)
    seen, state = told(tx, np.ones(7))
    fresh = np.isin(np.arange(7), list(due))
    np.testing.assert_array_equal(seen[:, -1], fresh)
    np.testing.assert_allclose(seen[:, :-1], np.outer(fresh, 6 * W), rtol=1e-6)
    assert (int(state.count), int(state.estimator.count)) == (7, len(due))


@pytest.mark.parametrize("scanned", [True, False])
def test_the_objective_runs_when_the_clock_says_so(scanned):
    calls = []
    tx = with_curvature(update_every=5)

    def loss(w):
        jax.debug.callback(lambda: calls.append(0))
        return jnp.sum(w**3)

    def step(state, _):
        return tx.update(W, state, W, obj_fn=loss)[1], None

    state = tx.init(W)
    if scanned:
        jax.jit(lambda s: lax.scan(step, s, length=20))(state)
    else:
        once = jax.jit(lambda s: step(s, None)[0])
        for _ in range(20):
            state = once(state)
    jax.effects_barrier()
    assert len(calls) == 4


@pytest.mark.parametrize("bad", [[0], [0, 1], [2], [1, 4]])
def test_an_estimate_that_is_not_finite_is_dropped_and_counted(bad):
    factors = np.ones(5)
    factors[bad] = np.nan
    seen, state = told(with_curvature(reveal()), factors)
    fresh = np.isfinite(factors)
    np.testing.assert_array_equal(seen[:, -1], fresh)
    np.testing.assert_allclose(seen[:, :-1], np.outer(fresh, 6 * W), rtol=1e-6)
    assert (int(state.skipped), int(state.estimator.count)) == (len(bad), 5 - len(bad))


def test_without_the_guard_it_goes_through():
    seen, state = told(with_curvature(reveal(), guard_nonfinite=False), [np.nan])
    assert np.all(np.isnan(seen[0, :-1]))
    assert int(state.skipped) == 0


@pytest.mark.parametrize("make", [adahessian, sophia_h, oasis])
@pytest.mark.parametrize("bad", [0, 2])
def test_optimizers_survive_a_bad_estimate(make, bad):
    tx = make(0.1, update_every=1, estimator=exact_diagonal())
    state, good = tx.init(W), jnp.arange(5) != bad
    update = jax.jit(lambda s, f: tx.update(W, s, W, obj_fn=cubic(f)))
    for factor in jnp.where(good, 1.0, jnp.inf):
        updates, state = update(state, factor)
        assert np.all(np.isfinite(updates))
    leaves = [x for x in jax.tree.leaves(state.inner) if x.shape == W.shape]
    assert all(np.all(np.isfinite(x)) for x in leaves)
    assert int(state.skipped) == 1


def test_given_is_asked_at_every_step_and_passed_on_alone():
    tx = with_curvature(reveal(), given(), update_every=7, start=3)
    state = tx.init(W)
    for fresh in (True, False, True):
        d = {"hessian_diag": 2 * W, "hessian_fresh": fresh}
        seen, state = tx.update(W, state, W, **d)
        np.testing.assert_array_equal(seen, [*(fresh * 2 * W), fresh])
    seen, state = tx.update(W, state, W, hessian_diag=jnp.full(3, np.inf))
    np.testing.assert_array_equal(seen, np.zeros(4))
    assert int(state.skipped) == 1


def test_an_estimator_inside_replaces_that_outside():
    tx = with_curvature(with_curvature(reveal(), given()), exact_diagonal())
    seen, _ = tx.update(W, tx.init(W), W, obj_fn=cubic())
    np.testing.assert_allclose(seen[:3], 6 * W)
    tx = with_curvature(with_curvature(reveal(), exact_diagonal()), given())
    d = {"hessian_diag": W, "obj_fn": cubic()}
    np.testing.assert_allclose(tx.update(W, tx.init(W), W, **d)[0][:3], 6 * W)


def test_integers_pass_by():
    params = {"w": W, "steps": jnp.asarray([3, 4])}
    loss = lambda p: jnp.sum(p["w"] ** 3) * p["steps"][0]
    grads = jax.grad(loss, allow_int=True)(params)
    # A link inside that calls the loss as well.
    tx = with_curvature(secant_step(0.1), hutchinson())
    updates, _ = tx.update(grads, tx.init(params), params, obj_fn=loss)
    assert updates["steps"] is grads["steps"]
    np.testing.assert_allclose(updates["w"], -0.1 * grads["w"] / (6 * 3 * abs(W)))


def test_narrow_parameters_keep_a_wide_curvature():
    w = W.astype(jnp.bfloat16)
    tx = sophia_h(0.1, update_every=1)
    updates, state = tx.update(w, tx.init(w), w, obj_fn=cubic())
    assert updates.dtype == jnp.bfloat16
    assert optax.tree.get(state, "curvature").dtype == jnp.float32


NET = {
    "embed": {"embedding": (5, 4)},
    "dense": {"kernel": (4, 3), "bias": (3,)},
}


def net():
    """(parameters, loss, gradient) of a small network."""
    rng = np.random.default_rng(0)
    draw = lambda s: jnp.asarray(rng.normal(size=s), jnp.float32)
    params = jax.tree.map(draw, NET, is_leaf=lambda s: isinstance(s, tuple))

    def loss(p):
        x = jnp.tanh(
            p["embed"]["embedding"] @ p["dense"]["kernel"] + p["dense"]["bias"]
        )
        return jnp.mean(x**2)

    return params, loss, jax.grad(loss)(params)


def alone(make, names):
    """The update of some leaves, the loss being a function of these."""
    params, loss, grads = net()
    flat = {n: n.split("/") for n in names}
    pick = lambda tree: {n: tree[a][b] for n, (a, b) in flat.items()}

    def of_part(part):
        whole = jax.tree.map(lambda x: x, params)
        for n, (a, b) in flat.items():
            whole[a] = {**whole[a], b: part[n]}
        return loss(whole)

    part, tx = pick(params), make()
    return tx.update(pick(grads), tx.init(part), part, obj_fn=of_part)[0]


REST = ["dense/bias", "embed/embedding"]


def of(updates):
    """The leaves of the rest by name."""
    pairs = (n.split("/") for n in REST)
    return {n: updates[a][b] for n, (a, b) in zip(REST, pairs, strict=True)}


def assert_rest(updates, make):
    for name, want in alone(make, REST).items():
        np.testing.assert_allclose(of(updates)[name], want, rtol=1e-5, err_msg=name)


def sophia():
    return sophia_h(0.1)


@pytest.mark.parametrize(
    "make", [sophia, pytest.param(lambda: adahessian(0.1), marks=pytest.mark.slow)]
)
def test_as_the_rest_of_muon(make):
    params, loss, grads = net()
    classic = newton_schulz()  # `auto` magnifies the rounding of small values
    tx = muon(0.1, rest=make(), polar=classic)
    updates, _ = jax.jit(lambda g, p: tx.update(g, tx.init(p), p, obj_fn=loss))(
        grads, params
    )
    assert_rest(updates, make)
    plain = muon(0.1, rest=optax.identity(), polar=classic)
    matrix = plain.update(grads, plain.init(params), params)[0]["dense"]["kernel"]
    np.testing.assert_allclose(updates["dense"]["kernel"], matrix, rtol=1e-5)


def test_in_a_partition_with_two_clocks():
    params, loss, grads = net()
    make = lambda: sophia_h(0.1, update_every=1)
    other = lambda: adahessian(0.1, update_every=3, start=1)
    labels = {"embed": "s", "dense": {"kernel": "a", "bias": "s"}}
    tx = optax.partition({"s": make(), "a": other()}, labels)
    fn, state = on_full_params(loss, params), tx.init(params)
    updates, state = tx.update(grads, state, params, obj_fn=fn)
    assert_rest(updates, make)
    np.testing.assert_array_equal(updates["dense"]["kernel"], 0)  # not before step 1
    counts = {
        n: int(s.inner_state.estimator.count) for n, s in state.inner_states.items()
    }
    assert counts == {"s": 1, "a": 0}


def test_one_estimate_shared_by_two_groups():
    params, loss, grads = net()
    rule = lambda: divide_by_curvature_mean(refresh_first=True)
    tx = with_curvature(by_layout(matrix=rule(), rest=rule()), exact_diagonal())
    shared, _ = tx.update(grads, tx.init(params), params, obj_fn=loss)
    tx = with_curvature(rule(), exact_diagonal())
    whole, _ = tx.update(grads, tx.init(params), params, obj_fn=loss)
    jax.tree.map(np.testing.assert_array_equal, shared, whole)


def test_beside_orthogonalized_matrices_by_labels():
    """Sophia-G on the rest; the labels are drawn from the whole model."""
    params, _, grads = net()
    x = lambda p: p["embed"]["embedding"] @ p["dense"]["kernel"] + p["dense"]["bias"]
    extra = {
        "logits_fn": x,
        "sample_fn": jax.random.categorical,
        "nll_fn": lambda z, y: (
            optax.losses.softmax_cross_entropy_with_integer_labels(z, y).mean(),
            y.size,
        ),
    }
    tx = muon(0.1, rest=sophia_g(0.1, start=0))
    updates, state = tx.update(grads, tx.init(params), params, **extra)
    curvature = optax.tree.get(state.rest, "curvature")
    assert all(np.all(np.asarray(h) >= 0) for h in jax.tree.leaves(curvature))
    assert len(jax.tree.leaves(curvature)) == 2
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("before", [True, False])
def test_before_and_after_orthogonalization(rng, before):
    g, d = rng.normal(size=(2, 4, 6))
    polar, rule = on_matrices(orthogonalize(svd())), divide_by_curvature_abs_floor()
    tx = with_curvature(optax.chain(*((rule, polar) if before else (polar, rule))),
                        given())  # fmt: skip
    tree = lambda x: {"dense": {"kernel": jnp.asarray(x, jnp.float32)}}
    update = jax.jit(lambda g, d: tx.update(g, tx.init(g), g, hessian_diag=d)[0])
    found = update(tree(g), tree(d))["dense"]["kernel"]
    size = np.maximum(np.abs(d), 1e-3)
    u, _, v = np.linalg.svd(g / size if before else g, full_matrices=False)
    np.testing.assert_allclose(found, u @ v if before else u @ v / size, rtol=1e-3)


def test_a_key_decides_the_draws_and_may_be_donated():
    seen, w, fn = [], jnp.linspace(1.0, 2.0, 16), lambda w: jnp.sum(w) ** 3
    for key in (None, jax.random.key(0), jax.random.key(1)):
        tx = with_curvature(reveal(), hutchinson(), key=key)
        run = jax.jit(lambda s, tx=tx: tx.update(w, s, w, obj_fn=fn), donate_argnums=0)
        for _ in range(2):  # the second time the same buffers would be gone
            updates, _ = run(tx.init(w))
        seen.append(np.asarray(updates))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.any(seen[0] != seen[2])
