# SPDX-License-Identifier: Apache-2.0
"""Steps by an energy against NumPy: skips, the first step, both forms of decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import energy_step

RNG = np.random.default_rng(0)
GRADS = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(4, 2, 2))}
PARAMS = {"a": RNG.normal(size=3), "b": RNG.normal(size=(2, 2))}
LOSSES = (3.0, np.nan, 1.5, 2.0)  # the second step is skipped


def run(tx, losses, dtype="float64"):
    """Parameters after each step, and the last state."""
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), PARAMS)
        state, update, seen = tx.init(params), jax.jit(tx.update), []
        for t, value in enumerate(losses):
            grads = {k: jnp.asarray(g[t], dtype) for k, g in GRADS.items()}
            updates, state = update(grads, state, params, value=jnp.asarray(value))
            params = optax.apply_updates(params, updates)
            seen.append(jax.tree.map(np.asarray, params))
    return seen, state


def expected(lr, c, l2, decay, metric=None):
    """The same in NumPy; a metric {leaf: diagonal} means one energy."""
    w, r, seen = dict(PARAMS), None, []
    for t, f in enumerate(LOSSES):
        if np.isfinite(f):
            root = np.sqrt(f + c)
            d = {k: GRADS[k][t] / (2 * root) + l2 * w[k] for k in w}
            s = {k: d[k] / (1 if metric is None else metric[k]) for k in w}
            r = r or dict.fromkeys(w, root)
            product = {k: d[k] * s[k] for k in w}
            if metric is not None:
                product = dict.fromkeys(w, sum(np.sum(x) for x in product.values()))
            r = {k: r[k] / (1 + 2 * lr * product[k]) for k in w}
            w = {k: w[k] - 2 * lr * r[k] * s[k] - lr * decay * w[k] for k in w}
        seen.append(w)
    return seen


@pytest.mark.parametrize(("l2", "decay"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2)])
def test_an_energy_an_entry(l2, decay):
    tx = energy_step(learning_rate=0.3, c=0.5, l2=l2, weight_decay=decay)
    got, state = run(tx, LOSSES)
    for ours, want in zip(got, expected(0.3, 0.5, l2, decay), strict=True):
        for name in want:
            np.testing.assert_allclose(ours[name], want[name], rtol=1e-12)
    assert (int(state.count), int(state.skipped)) == (4, 1)


def test_one_energy_with_a_metric():
    metric = {"a": np.asarray([1.0, 2.0, 4.0]), "b": np.asarray([[0.5, 3], [1, 1]])}
    over = lambda u, params: {k: x / metric[k].astype(x.dtype) for k, x in u.items()}
    tx = energy_step(optax.stateless(over), learning_rate=0.3, c=0.5, shared=True)
    got, state = run(tx, LOSSES)
    for ours, want in zip(got, expected(0.3, 0.5, 0, 0, metric), strict=True):
        for name in want:
            np.testing.assert_allclose(ours[name], want[name], rtol=1e-12)
    assert state.energy.shape == ()


@pytest.mark.parametrize("value", [-1.0, -3.0, np.inf, np.nan])
@pytest.mark.parametrize("shared", [False, True])
def test_a_loss_that_has_no_root_moves_nothing(value, shared):
    inner = optax.trace(0.9)
    tx = energy_step(inner, c=1.0, weight_decay=0.1, shared=shared)
    _, before = run(tx, [2.0])
    got, after = run(tx, [2.0, value])
    for name in PARAMS:
        np.testing.assert_array_equal(got[1][name], got[0][name])
    kept = lambda state: jax.tree.leaves((state.energy, state.inner))
    for ours, want in zip(kept(after), kept(before), strict=True):
        np.testing.assert_array_equal(ours, want)
    assert (int(after.count), int(after.skipped)) == (2, 1)


def test_the_energy_begins_at_the_first_loss_that_has_a_root():
    tx = energy_step(learning_rate=0.0, c=0.0)
    _, state = run(tx, [-1.0, 9.0, 100.0])
    np.testing.assert_array_equal(state.energy["a"], 3.0)


def test_the_energy_falls_at_any_rate():
    _, state = run(energy_step(learning_rate=1e4), [2.0] * 4, "float32")
    for r in state.energy.values():
        assert np.all(r < np.sqrt(3.0))
        assert np.all(r > 0)


def test_narrow_parameters_keep_a_wide_energy():
    got, state = run(energy_step(), [2.0], "bfloat16")
    assert got[0]["a"].dtype == jnp.bfloat16
    assert state.energy["a"].dtype == jnp.float32


def test_values_that_are_no_loss():
    tx, w = energy_step(), {"w": jnp.ones(2)}
    with pytest.raises(
        ValueError, match=r"missing 'value'\. Expected the loss .*alue="
    ):
        tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match=r"shape \(2,\) .* is no loss\. Expected"):
        tx.update(w, tx.init(w), w, value=jnp.ones(2))
