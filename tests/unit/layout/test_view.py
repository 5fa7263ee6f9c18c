# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.layout.view import MatrixView

V = MatrixView
CASES = [  # view, shape, the same matrices written in NumPy
    (V((1,), (0,)), (3, 5), lambda x: [x.T]),
    (V((0,), (1,)), (3, 5), lambda x: [x]),
    (V((-1,), (-2,)), (2, 3, 5), lambda x: [np.stack([m.T for m in x])]),
    (V((2,), (0,)), (3, 2, 5), lambda x: [np.stack([x[:, i].T for i in range(2)])]),
    (V((3,), (0, 1, 2)), (2, 3, 4, 5), lambda x: [x.reshape(24, 5).T]),
    (V((0,), (1, 2, 3)), (5, 2, 3, 4), lambda x: [x.reshape(5, 24)]),
    (V((2,), (3, 0, 1)), (2, 3, 5, 4),
     lambda x: [np.einsum("hwoi->oihw", x).reshape(5, 24)]),
    (V((1, 2), (0,)), (6, 2, 5), lambda x: [x.reshape(6, 10).T]),
    (V((2,), (0, 1)), (2, 5, 6), lambda x: [x.reshape(10, 6).T]),
    (V((2, 3), (0,)), (6, 4, 2, 5),
     lambda x: [np.stack([x[:, i].reshape(6, 10).T for i in range(4)])]),
    (V((3,), (2,)), (2, 4, 3, 5), lambda x: [np.einsum("elio->eloi", x)]),
    (V((1,), (0,), (8, 4, 3)), (6, 15),
     lambda x: [x[:, :8].T, x[:, 8:12].T, x[:, 12:].T]),
    (V((0,), (1,), (2, 5)), (7, 3), lambda x: [x[:2], x[2:]]),
    (V((2,), (0,), (4, 1)), (3, 2, 5),
     lambda x: [np.einsum("ilo->loi", x)[:, :4], np.einsum("ilo->loi", x)[:, 4:]]),
    (V((1, 2), (0,), (5, 7)), (6, 3, 4),
     lambda x: [x.reshape(6, 12).T[:5], x.reshape(6, 12).T[5:]]),
]  # fmt: skip


def _leaf(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("view", "shape", "by_hand"), CASES)
def test_split_is_what_numpy_says_and_shapes_announces(view, shape, by_hand):
    x = _leaf(shape)
    parts, expected = view.split(jnp.asarray(x)), by_hand(x)
    assert [p.shape for p in parts] == [e.shape for e in expected]
    assert [p.shape for p in parts] == view.shapes(shape)
    for part, wanted in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize(("view", "shape", "_"), CASES)
def test_join_undoes_split(view, shape, _):
    x = _leaf(shape)
    np.testing.assert_array_equal(view.join(view.split(jnp.asarray(x)), shape), x)


def test_groups_gather_each_block_from_every_query_group():
    # Two groups, each of 3 query rows, 2 key rows and 1 value row.
    view, x = MatrixView((1,), (0,), blocks=(3, 2, 1), groups=2), _leaf((5, 12))
    q, k, v = view.split(jnp.asarray(x))
    np.testing.assert_array_equal(q, x[:, [0, 1, 2, 6, 7, 8]].T)
    np.testing.assert_array_equal(k, x[:, [3, 4, 9, 10]].T)
    np.testing.assert_array_equal(v, x[:, [5, 11]].T)
    np.testing.assert_array_equal(view.join([q, k, v], x.shape), x)


def test_groups_with_a_layer_axis():
    view, x = MatrixView((2,), (1,), blocks=(2, 1), groups=2), _leaf((4, 5, 6))
    a, b = view.split(jnp.asarray(x))
    np.testing.assert_array_equal(a, np.swapaxes(x[:, :, [0, 1, 3, 4]], 1, 2))
    np.testing.assert_array_equal(b, np.swapaxes(x[:, :, [2, 5]], 1, 2))
    np.testing.assert_array_equal(view.join([a, b], x.shape), x)


def test_lists_are_kept_as_tuples_so_that_a_view_hashes():
    assert hash(MatrixView([1], [0], [2, 3])) == hash(MatrixView((1,), (0,), (2, 3)))


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (V((1,), (1,)), (3, 5)),
        (V((1,), (-1,)), (3, 5)),
        (V((2,), (0,)), (3, 5)),
        (V((-3,), (0,)), (3, 5)),
        (V((), (0,)), (3, 5)),
        (V((1,), ()), (3, 5)),
        (V((0,), (1,)), (3,)),
    ],
)
def test_axes_that_do_not_fit_name_the_leaf_and_its_shape(view, shape):
    with pytest.raises(ValueError, match=r"'mlp/w' of shape .*Expected .*rows= and"):
        view.axes(shape, "mlp/w")


def test_wrong_block_sums_name_both_sides():
    with pytest.raises(
        ValueError, match=r"sum to 1280, but 'qkv' .*1536 rows\. Expected .*Check"
    ):
        MatrixView((1,), (0,), (768, 256, 256)).axes((64, 1536), "qkv")


def test_groups_without_blocks_are_refused():
    with pytest.raises(ValueError, match=r"groups=2 without blocks.*Expected.*blocks="):
        MatrixView((1,), (0,), groups=2).axes((3, 4))
