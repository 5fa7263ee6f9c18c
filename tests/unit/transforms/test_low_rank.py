# SPDX-License-Identifier: Apache-2.0
"""Dion's compressor against its lines in float64 NumPy, and its identities."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix.qr import cholesky_qr, householder_qr, randomized_cholesky_qr
from orthoptax.transforms import error_feedback, low_rank

RNG = np.random.default_rng(0)


def compressed(tx, b, basis=None):
    """(out, kept, new basis, basis before) of a matrix or stack, in float64."""
    with jax.enable_x64(True):
        tree = {"w": jnp.asarray(b, jnp.float64)}
        state = tx.init(tree)
        if basis is not None:
            state = state._replace(basis={"w": jnp.asarray(basis)})
        pair, after = jax.jit(tx.update)(tree, state)
        before = np.asarray(state.basis["w"])
    return *(np.asarray(x["w"]) for x in (*pair, after.basis)), before


def power_step(b, q, steps, eps):
    """The published lines for one matrix of at least as many rows as columns."""
    r = q
    for _ in range(steps):
        p = np.linalg.qr(b @ r)[0]
        r = b.T @ p
    q = r / (np.linalg.norm(r, axis=0) + eps)
    return p @ q.T, p @ r.T, q


@pytest.mark.parametrize(
    ("steps", "eps", "tall"), [(1, 0.0, True), (1, 0.3, False), (3, 0.3, True)]
)
def test_against_numpy(steps, eps, tall):
    tx = low_rank(rank=2, steps=steps, eps=eps, tall=tall)
    for shape in ((7, 4), (4, 7)):
        b = RNG.normal(size=(3, *shape))  # each matrix of the stack by itself
        out, kept, new, q = compressed(tx, b)
        turn = tall and shape[0] < shape[1]
        assert q.shape == (3, shape[0] if turn else shape[1], 2)
        for i in range(3):
            want = power_step(b[i].T if turn else b[i], q[i], steps, eps)
            o, k = (x.T if turn else x for x in want[:2])
            np.testing.assert_allclose(out[i], o, atol=1e-12)
            np.testing.assert_allclose(kept[i], k, atol=1e-12)
            np.testing.assert_allclose(abs(new[i]), abs(want[2]), atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
def test_full_rank_keeps_all_of_the_matrix(shape):
    b = RNG.normal(size=shape)
    _, kept, _, _ = compressed(low_rank(), b)
    np.testing.assert_allclose(kept, b, atol=1e-12)


def test_at_full_rank_the_momentum_leaves_as_b1_of_itself():
    g, b1 = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32), 0.7
    tx = error_feedback(b1, low_rank())
    state, update = tx.init({"w": g}), jax.jit(tx.update)
    for t in range(1, 4):
        total = g + state.momentum["w"]
        _, state = update({"w": g}, state)
        np.testing.assert_allclose(
            state.momentum["w"], b1 * total, rtol=2e-5, atol=1e-5
        )
        heavy = sum(b1**i for i in range(1, t + 1)) * g  # of a constant gradient
        np.testing.assert_allclose(state.momentum["w"], heavy, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_right_singular_vectors_give_the_polar_factor(shape):
    b = RNG.normal(size=shape)
    u, _, vh = np.linalg.svd(b, full_matrices=False)
    basis = vh.T if shape[0] >= shape[1] else u
    out, _, new, _ = compressed(low_rank(), b, basis)
    np.testing.assert_allclose(out, u @ vh, atol=1e-12)
    np.testing.assert_allclose(abs(new), abs(basis), atol=1e-12)  # and stay


def test_power_iterations_find_the_leading_directions():
    u, v = (np.linalg.qr(RNG.normal(size=(n, 4)))[0] for n in (9, 6))
    sizes = np.asarray([8.0, 0.1, 1e-4, 1e-4])
    out, kept, _, _ = compressed(low_rank(rank=2, steps=4), (u * sizes) @ v.T)
    u, v, sizes = u[:, :2], v[:, :2], sizes[:2]
    np.testing.assert_allclose(out, u @ v.T, atol=1e-9)
    np.testing.assert_allclose(kept, (u * sizes) @ v.T, atol=1e-9)


def test_the_rank_of_an_update_is_that_of_the_basis():
    out, kept, _, _ = compressed(low_rank(rank=3), RNG.normal(size=(8, 6)))
    for x in (out, kept):
        assert np.linalg.matrix_rank(x, tol=1e-10) == 3
    assert np.linalg.norm(out, 2) <= np.sqrt(3)  # three terms of length 1


@pytest.mark.parametrize(
    ("arguments", "rank"),
    [
        ({}, 10), ({"rank_fraction": 0.25}, 3), ({"rank_fraction": 1e-9}, 1),
        ({"rank_fraction": 0.25, "multiple_of": 4}, 4), ({"rank": 7}, 7),
        ({"rank_fraction": 0.9, "multiple_of": 8}, 10),
    ],
)  # fmt: skip
def test_rank(arguments, rank):
    params = {"w": jax.ShapeDtypeStruct((2, 12, 10), jnp.float32)}
    state = jax.eval_shape(low_rank(**arguments).init, params)
    assert state.basis["w"].shape == (2, 10, rank)


def test_equal_shapes_have_bases_of_their_own_by_name():
    like = jnp.zeros((6, 4))
    basis = lambda tx, *names: tx.init(dict.fromkeys(names, like)).basis
    one, more = basis(low_rank(), "a"), basis(low_rank(), "b", "a", "c")
    np.testing.assert_array_equal(one["a"], more["a"])
    assert not np.allclose(more["a"], more["b"])
    other = basis(low_rank(key=jax.random.key(1)), "a")["a"]
    assert not np.allclose(other, one["a"])
    assert np.std(basis(low_rank(), "a")["a"]) == pytest.approx(1, abs=0.5)


def test_zero_gives_zero_and_leaves_the_basis():
    out, kept, new, q = compressed(low_rank(rank=2), np.zeros((5, 3)))
    assert not np.any(out)
    assert not np.any(kept)
    np.testing.assert_array_equal(new, q)


def test_zero_and_nan_stay_with_their_matrix_of_a_stack():
    b = RNG.normal(size=(3, 5, 4))
    alone = compressed(low_rank(), b[1:2], q := RNG.normal(size=(1, 4, 4)))
    b[0], b[2, 1, 1] = 0, np.nan
    out, kept, new, _ = compressed(low_rank(), b, np.repeat(q, 3, 0))
    np.testing.assert_allclose(out[1], alone[0][0], atol=1e-13)
    np.testing.assert_allclose(kept[1], alone[1][0], atol=1e-13)
    assert not np.any(out[0])
    assert np.all(np.isfinite(new[:2]))
    assert np.any(np.isnan(out[2]))
    assert np.any(np.isnan(kept[2]))


def test_directions_that_the_matrix_lacks_add_nothing_and_keep_their_basis():
    u, v = RNG.normal(size=(7, 2)), RNG.normal(size=(5, 2))
    out, kept, new, q = compressed(low_rank(), u @ v.T)
    np.testing.assert_allclose(kept, u @ v.T, atol=1e-12)
    assert np.linalg.matrix_rank(out, tol=1e-10) == 2
    np.testing.assert_array_equal(new[:, 2:], q[:, 2:])
    np.testing.assert_allclose(np.linalg.norm(new[:, :2], axis=0), 1, rtol=1e-12)
    weak = np.diag([1.0, np.finfo(float).eps])  # below the rounding of a 2 x 2 matrix
    out, _, _, _ = compressed(low_rank(), weak, np.eye(2))
    np.testing.assert_array_equal(out, np.diag([1.0, 0.0]))


def test_scale_free_in_single_precision():
    tx = low_rank(rank=3, steps=3)
    b = RNG.normal(size=(6, 4)).astype(np.float32)
    state, update = tx.init({"w": jnp.asarray(b)}), jax.jit(tx.update)
    one, _ = update({"w": jnp.asarray(b)}, state)
    for scale in (1e-30, 1e-12, 1e12, 1e30):
        other, _ = update({"w": jnp.asarray(np.float32(scale) * b)}, state)
        np.testing.assert_allclose(other.out["w"], one.out["w"], atol=2e-6)
        kept = np.asarray(other.kept["w"], np.float64) / scale
        np.testing.assert_allclose(kept, one.kept["w"], atol=5e-6)


def test_signs_and_method_of_the_columns_do_not_matter():
    def signed(x):
        q = jnp.linalg.qr(x)[0]
        return q * jnp.asarray([-1.0, 1.0, -1.0], q.dtype)

    b = RNG.normal(size=(40, 5))
    want = compressed(low_rank(rank=3, qr=householder_qr()), b)[:2]
    for qr in (signed, cholesky_qr(), randomized_cholesky_qr(multiple_of=4)):
        got = compressed(low_rank(rank=3, qr=qr), b)[:2]
        np.testing.assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
def test_basis_dtype(dtype):
    params = {"w": jax.ShapeDtypeStruct((6, 4), jnp.bfloat16)}
    tx = low_rank(basis_dtype=dtype)
    state = jax.eval_shape(tx.init, params)
    pair, after = jax.eval_shape(tx.update, params, state)
    assert state.basis["w"].dtype == after.basis["w"].dtype == (dtype or jnp.bfloat16)
    assert pair.out["w"].dtype == pair.kept["w"].dtype == jnp.bfloat16


def test_what_a_low_rank_leaves_out_stays_until_it_leads():
    g = {"w": jnp.diag(jnp.asarray([1.0, 0.6, 0.3, 0.2]))}
    tx = error_feedback(0.0, low_rank(rank=1))

    @jax.jit
    def total(state):
        step = lambda s, _: tx.update(g, s)[::-1]
        return jnp.sum(jax.lax.scan(step, state, length=60)[1]["w"], 0)

    assert np.min(np.diag(total(tx.init(g)))) > 2


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"rank_fraction": 0.0}, ValueError, r"rank_fraction=0.0 is out .*\(0, 1\]"),
        ({"rank_fraction": 1.01}, ValueError, "rank_fraction=1.01 is out of range"),
        ({"rank_fraction": np.nan}, ValueError, "rank_fraction=nan is out of range"),
        ({"rank_fraction": jnp.ones(())}, TypeError, "rank_fraction=.*static_args"),
        ({"rank_fraction": 0.5, "rank": 2}, ValueError, "are both given"),
        ({"rank": 0}, ValueError, "rank=0 is out of range"),
        ({"rank": 2.0}, TypeError, "rank=2.0 is not a Python integer"),
        ({"multiple_of": 0}, ValueError, "multiple_of=0 is out of range"),
        ({"steps": 0}, ValueError, "steps=0 is out of range"),
        ({"eps": -1.0}, ValueError, "eps=-1.0 is out of range"),
        ({"qr": "qr"}, TypeError, "qr='qr' is not a function"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=r"(?s)^low_rank: .*\. Expected .*\. .*\.$") as e:
        low_rank(**arguments)
    assert re.search(match, str(e.value))


def test_rank_larger_than_a_matrix():
    match = (
        r"low_rank: rank=5 is larger than 'w' of shape \(9, 4\)\. Expected at most 4"
    )
    with pytest.raises(ValueError, match=match):
        low_rank(rank=5).init({"w": jnp.zeros((9, 4))})


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"leaf 'b' of shape \(4,\) is not a matrix"):
        low_rank().init({"b": jnp.zeros(4)})


def test_memory_is_the_short_side_times_the_rank():
    params = {"w": jax.ShapeDtypeStruct((48, 32), jnp.float32)}
    tx = low_rank(0.25)
    (basis,) = jax.tree.leaves(jax.eval_shape(tx.init, params))
    assert basis.size == 32 * 8
