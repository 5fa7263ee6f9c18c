# SPDX-License-Identifier: Apache-2.0
"""The sliding window against the Fisher matrix in NumPy, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import inverse_fisher

RNG = np.random.default_rng(0)
GRADS = {"a": RNG.normal(size=(7, 3)), "b": RNG.normal(size=(7, 2, 2))}
GRADS["s"] = RNG.normal(size=7)
FLAT = np.concatenate([GRADS[k].reshape(7, -1) for k in sorted(GRADS)], axis=1)


def outputs(tx, steps, dtypes="float64"):
    """(all entries of the result of each update, the last state)."""
    names = dict.fromkeys(GRADS, dtypes) if isinstance(dtypes, str) else dtypes
    with jax.enable_x64(dtypes == "float64"):
        told = [{k: jnp.asarray(g[k], names[k]) for k in g} for g in steps]
        state, update, out = tx.init(told[0]), jax.jit(tx.update), []
        for g in told:
            updates, state = update(g, state)
            flat = [np.ravel(np.asarray(updates[k], np.float64)) for k in sorted(g)]
            out.append(np.concatenate(flat))
    return out, state


def steps(scale=1.0):
    return [{k: scale * g[t] for k, g in GRADS.items()} for t in range(7)]


def expected(window, damping, gradients=FLAT):
    """F^-1 g of every step."""
    rows, out = np.zeros((window, FLAT.shape[1])), []
    for t, g in enumerate(gradients):
        rows[t % window] = g
        fisher = damping * np.eye(len(g)) + rows.T @ rows / window
        out.append(np.linalg.solve(fisher, g))
    return out


@pytest.mark.parametrize("window", [1, 3, 10])
def test_against_the_matrix(window):
    got, state = outputs(inverse_fisher(window, damping=0.2), steps())
    for ours, want in zip(got, expected(window, 0.2), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-10)
    for name, rows in state.window.items():
        np.testing.assert_array_equal(rows[6 % window], GRADS[name][6])


def test_float32_keeps_its_digits_where_a_difference_would_not():
    # Woodbury's difference is off by |g|^2 / (m damping) roundings, here 1e6 of them.
    got, _ = outputs(inverse_fisher(3, damping=1e-6), steps(), "float32")
    for ours, want in zip(got, expected(3, 1e-6), strict=True):
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4 * np.max(np.abs(want)))


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    bad = {**steps()[1], "a": np.asarray([1.0, np.nan, 2.0])}
    tx, good = inverse_fisher(3, damping=0.2), [steps()[t] for t in (0, 2, 3)]
    got, state = outputs(tx, [good[0], bad, *good[1:]])
    want = expected(3, 0.2, FLAT[[0, 2, 3]])
    assert not np.any(got.pop(1))
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert (int(state.count), int(state.skipped)) == (4, 1)


def test_a_skipped_gradient_leaves_the_window_as_it_was():
    tx, bad = (
        inverse_fisher(3),
        {k: np.full_like(g[0], np.inf) for k, g in GRADS.items()},
    )
    (_, before), (_, after) = outputs(tx, steps()[:1]), outputs(tx, [steps()[0], bad])
    kept = lambda state: jax.tree.leaves((state.cosines, state.norms, state.window))
    for ours, theirs in zip(kept(after), kept(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_gradients_whose_squares_are_no_float32(scale):
    got, _ = outputs(inverse_fisher(3, damping=0.2), steps(scale)[:1], "float32")
    square = float(FLAT[0] @ FLAT[0])
    want = FLAT[0] / (0.2 / scale + scale * square / 3)
    np.testing.assert_allclose(got[0], want, rtol=1e-5)


def test_equal_gradients_have_an_answer():
    got, _ = outputs(inverse_fisher(64, damping=1e-9), steps()[:1] * 5, "float32")
    for ours in got:
        cosine = ours @ FLAT[0] / np.linalg.norm(ours) / np.linalg.norm(FLAT[0])
        np.testing.assert_allclose(cosine, 1.0, rtol=1e-3)


def test_leaves_of_mixed_dtypes():
    dtypes = {"a": "bfloat16", "b": "float32", "s": "float16"}
    rounded = [{k: np.asarray(jnp.asarray(g[k], dtypes[k]), np.float64) for k in g}
               for g in steps()]  # fmt: skip
    flat = [np.concatenate([np.ravel(g[k]) for k in sorted(g)]) for g in rounded]
    got, state = outputs(inverse_fisher(3, damping=0.2), steps(), dtypes)
    assert {k: str(x.dtype) for k, x in state.window.items()} == dtypes
    assert state.norms.dtype == jnp.float32
    for ours, want in zip(got, expected(3, 0.2, flat), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-2, atol=1e-5)


def test_too_large_a_window_is_refused_before_it_is_allocated():
    params = {"w": jax.ShapeDtypeStruct((124_000_000,), jnp.float32)}
    says = (
        r"124,000,000 parameters takes 507,904,000,000 bytes\. Expected at most .*8,5"
    )
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(inverse_fisher(1024).init, params)
    state = jax.eval_shape(inverse_fisher(1024, max_bytes=2**40).init, params)
    assert state.window["w"].shape == (1024, 124_000_000)


@pytest.mark.parametrize("window", [0, 1.5, True])
def test_windows_that_are_none(window):
    with pytest.raises((TypeError, ValueError), match="inverse_fisher: window="):
        inverse_fisher(window)
