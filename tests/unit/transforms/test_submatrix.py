# SPDX-License-Identifier: Apache-2.0
"""Dion2's compressor: which slices are chosen, and what links see of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import (
    error_feedback,
    largest_slices,
    momentum,
    normalize_neurons,
    orthogonalize,
    random_slices,
    submatrix,
)

RNG = np.random.default_rng(0)
TEN = optax.scale(10.0)


def compress(tx, b, state=None):
    """(out, kept) of one matrix or stack as NumPy arrays, and the state."""
    tree = {"w": jnp.asarray(b)}
    pair, state = jax.jit(tx.update)(tree, tx.init(tree) if state is None else state)
    return np.asarray(pair.out["w"]), np.asarray(pair.kept["w"]), state


def rows_chosen(kept, axis):
    """The slices that are not zero, as a set a matrix."""
    other = -1 if axis == -2 else -2
    return [set(np.flatnonzero(np.any(k, axis=other)).tolist()) for k in kept]


@pytest.mark.parametrize("axis", [-2, -1, None])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_against_numpy(axis, shape):
    b = RNG.normal(size=(3, *shape)).astype(np.float32)
    out, kept, _ = compress(submatrix(TEN, fraction=0.4, axis=axis), b)
    along = axis or (-2 if shape[0] <= shape[1] else -1)
    k = math.ceil(0.4 * shape[along])
    for i, m in enumerate(b):  # each matrix of the stack chooses for itself
        order = np.argsort(np.abs(m).sum(-1 if along == -2 else -2))
        want = np.zeros_like(m)
        if along == -2:
            want[order[-k:]] = m[order[-k:]]
        else:
            want[:, order[-k:]] = m[:, order[-k:]]
        np.testing.assert_array_equal(kept[i], want)
        np.testing.assert_allclose(out[i], 10 * want, rtol=1e-6)
    assert len(set(map(frozenset, rows_chosen(kept, along)))) > 1


@pytest.mark.parametrize(
    ("fraction", "size", "k"),
    [
        (0.28, 25, 8),
        (0.25, 8, 2),
        (0.25, 9, 3),
        (1e-9, 5, 1),
        (1.0, 5, 5),
        (None, 8, 2),
    ],
)
def test_how_many_is_rounded_up_in_double_precision(fraction, size, k):
    b = RNG.normal(size=(size, size)).astype(np.float32)
    _, kept, _ = compress(submatrix(fraction=fraction), b)
    assert len(rows_chosen([kept], -2)[0]) == k


def test_links_see_the_slices_in_their_order_and_nothing_else():
    seen = {}

    def spy(updates, state, params=None, *, grad, leaf_shapes, **extra):
        seen.update(updates=updates, params=params, grad=grad, shapes=leaf_shapes)
        return updates, state

    link = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), spy)
    b = {"w": jnp.asarray([[1.0, 1], [9, 9], [2, 2], [5, 5]])}
    tx = submatrix(link, fraction=0.5, axis=-2)
    shapes = {"w": (4, 2)}
    twice = {"w": 2 * b["w"]}
    tx.update(b, tx.init(b), twice, grad={"w": -b["w"]}, leaf_shapes=shapes)
    want = np.asarray([[9, 9], [5, 5]])
    np.testing.assert_array_equal(seen["updates"]["w"], want)
    np.testing.assert_array_equal(seen["params"]["w"], 2 * want)
    np.testing.assert_array_equal(seen["grad"]["w"], -want)
    assert seen["shapes"] is shapes  # of the whole leaf: shape rules read them


def test_statistics_of_rows_are_those_of_the_chosen_rows():
    b2 = 0.9
    tx = submatrix(normalize_neurons(b2), fraction=0.5, axis=-2)
    v = np.zeros((2, 4, 1))
    state = tx.init({"w": jnp.zeros((2, 4, 6))})
    assert jax.tree.leaves(state.links)[0].shape == v.shape
    update = jax.jit(tx.update)
    for _ in range(3):
        b = RNG.normal(size=(2, 4, 6)).astype(np.float32)
        pair, state = update({"w": jnp.asarray(b)}, state)
        want = np.zeros_like(b)
        for i, m in enumerate(b):
            rows = np.argsort(np.abs(m).sum(-1))[-2:]
            fresh = np.mean(m[rows] ** 2, axis=-1, keepdims=True)
            v[i, rows] = b2 * v[i, rows] + (1 - b2) * fresh
            want[i, rows] = m[rows] / np.sqrt(v[i, rows])
        np.testing.assert_allclose(pair.out["w"], want, rtol=1e-5)
        np.testing.assert_allclose(
            optax.tree.get(state, "second_moment")["w"], v, rtol=1e-5
        )
    assert int(state.count) == 3


def test_state_like_the_matrix_is_cut_and_put_back_too():
    tx = submatrix(momentum(0.5, ema=False, nesterov=False), fraction=0.5, axis=-1)
    b = np.asarray([[1.0, 3.0], [1.0, 3.0]], np.float32)
    _, _, state = compress(tx, b)
    out, _, state = compress(tx, b[:, ::-1], state)  # now the other column leads
    np.testing.assert_array_equal(out, [[3, 0], [3, 0]])
    np.testing.assert_array_equal(
        optax.tree.get(state, "momentum")["w"], [[3, 3], [3, 3]]
    )


def test_two_matrices_of_one_tree_choose_apart():
    tx = submatrix(normalize_neurons(0.0), fraction=0.5, axis=-2)
    tree = {"a": jnp.asarray([[4.0], [1.0]]), "b": jnp.asarray([[1.0], [4.0]])}
    pair, state = jax.jit(tx.update)(tree, tx.init(tree))
    assert pair.kept["a"].tolist() == [[4.0], [0.0]]
    assert pair.kept["b"].tolist() == [[0.0], [4.0]]
    moment = optax.tree.get(state, "second_moment")
    assert moment["a"].tolist() == [[16.0], [0.0]]
    assert moment["b"].tolist() == [[0.0], [16.0]]


def test_a_link_with_two_axes_of_slices_is_refused():
    square = optax.GradientTransformation(
        lambda params: {n: jnp.zeros((len(p), len(p))) for n, p in params.items()},
        lambda updates, state, params=None: (updates, state),
    )
    tx = submatrix(square, fraction=0.5)
    with pytest.raises(ValueError, match=r"submatrix\.update: .*\['w'\].*\. Expected"):
        compress(tx, np.ones((4, 6), np.float32))


def test_what_waits_grows_undecayed_until_it_is_chosen():
    g = {"w": jnp.asarray([[3.0, 3.0], [2.0, 2.0]])}
    tx = error_feedback(0.5, submatrix(fraction=0.5))
    state, seen = tx.init(g), []
    for _ in range(3):
        u, state = tx.update(g, state)
        seen.append(u["w"][:, 0].tolist())
    # M: (3, 2) -> (1.5, 2); (4.5, 4) -> (2.25, 4); (5.25, 6) -> the second row.
    assert seen == [[3, 0], [4.5, 0], [0, 6]]
    np.testing.assert_array_equal(state.momentum["w"][:, 0], [5.25, 3.0])


def test_zero_maps_to_zero_and_nan_shows():
    tx = submatrix(orthogonalize(), fraction=0.3)
    out, kept, _ = compress(tx, np.zeros((4, 6), np.float32))
    assert not np.any(out)
    assert not np.any(kept)
    b = RNG.normal(size=(2, 4, 6)).astype(np.float32)
    b[1, 2, 0] = np.nan
    out, _, _ = compress(tx, b)
    assert np.all(np.isfinite(out[0]))
    assert np.any(np.isnan(out[1]))


def test_random_slices_differ_by_matrix_update_and_key():
    scores, count = jnp.zeros((5, 40)), jnp.zeros((), jnp.int32)
    draw = lambda *where, **key: np.asarray(random_slices(scores, 10, *where, **key))
    first = draw(count, "a")
    assert all(len(set(row)) == 10 for row in first.tolist())
    np.testing.assert_array_equal(first, draw(count, "a"))
    for other in (
        draw(count + 1, "a"), draw(count, "b"), draw(count, "a", key=jax.random.key(1)),
        first[::-1],
    ):  # fmt: skip
        assert not np.array_equal(first, other)


def test_random_slices_take_turns_in_the_compressor():
    choose = functools.partial(random_slices, key=jax.random.key(3))
    tx = submatrix(fraction=0.2, choose=choose)
    b, seen = {"w": jnp.ones((5, 9))}, set()
    state, update = tx.init(b), jax.jit(tx.update)
    for _ in range(30):
        pair, state = update(b, state)
        seen |= rows_chosen([np.asarray(pair.kept["w"])], -2)[0]
    assert seen == set(range(5))


def test_largest_slices_are_per_matrix():
    scores = jnp.asarray([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])
    found = largest_slices(scores, 2, jnp.zeros((), jnp.int32), "w")
    assert [set(row) for row in found.tolist()] == [{1, 2}, {0, 2}]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"fraction": 0.0}, ValueError, "fraction=0.0 is out of range"),
        ({"fraction": 1.5}, ValueError, "fraction=1.5 is out of range"),
        ({"fraction": jnp.ones(())}, TypeError, "fraction=.*not a Python number"),
        ({"axis": 0}, ValueError, "axis=0 is out of range"),
        ({"choose": "random"}, TypeError, "choose='random' is not a function"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=rf"submatrix: {match}.*\. Expected .*\. "):
        submatrix(**arguments)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"leaf 'b' of shape \(4,\) is not a matrix"):
        submatrix().init({"b": jnp.zeros(4)})
