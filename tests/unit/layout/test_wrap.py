# SPDX-License-Identifier: Apache-2.0
"""What links see inside `on_matrices`, and which leaf goes where in `by_layout`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import MatrixView, by_layout, flax, on_matrices, rules

PARAMS = {
    "dense": {"kernel": jnp.arange(8.0).reshape(2, 4), "bias": jnp.ones(4)},
    "blocks": {"kernel": jnp.arange(24.0).reshape(3, 2, 4)},
    "qkv": {"kernel": jnp.arange(32.0).reshape(4, 8)},
}
LAYOUT = flax(fused={"qkv": (4, 2, 2)})


class Spy:
    """A link that keeps what it was given."""

    def __init__(self):
        self.seen = {}

    def link(self):
        def update(updates, state, params=None, **extra):
            self.seen = {"updates": updates, "params": params, **extra}
            return updates, state

        init = lambda params: jax.tree.map(jnp.zeros_like, params)
        return optax.GradientTransformationExtraArgs(init, update)


def test_links_see_matrices_by_name_with_outputs_as_rows():
    spy = Spy()
    tx = on_matrices(spy.link(), layout=LAYOUT)
    state = tx.init(PARAMS)
    out, _ = tx.update(PARAMS, state, PARAMS, value=3.0, same=PARAMS)
    shapes = {
        "blocks/kernel": (3, 4, 2),
        "dense/kernel": (4, 2),
        "qkv/kernel[0]": (4, 4),
        "qkv/kernel[1]": (2, 4),
        "qkv/kernel[2]": (2, 4),
    }
    for tree in (spy.seen["updates"], spy.seen["params"], spy.seen["same"]):
        assert {k: v.shape for k, v in tree.items()} == shapes
    assert {k: v.shape for k, v in state.links[0].items()} == shapes
    assert spy.seen["value"] == 3.0
    assert spy.seen["leaf_shapes"]["qkv/kernel[1]"] == (4, 8)
    np.testing.assert_array_equal(
        spy.seen["updates"]["qkv/kernel[1]"], PARAMS["qkv"]["kernel"][:, 4:6].T
    )
    jax.tree.map(np.testing.assert_array_equal, out, PARAMS)


def test_leaves_that_are_no_matrices_pass_through():
    out, _ = on_matrices(optax.scale(2.0), layout=LAYOUT).update(
        PARAMS, on_matrices(optax.scale(2.0), layout=LAYOUT).init(PARAMS)
    )
    np.testing.assert_array_equal(out["dense"]["bias"], PARAMS["dense"]["bias"])
    np.testing.assert_array_equal(out["qkv"]["kernel"], 2 * PARAMS["qkv"]["kernel"])


def test_groups_get_their_own_leaves_and_nothing_else():
    matrix, rest = Spy(), Spy()
    tx = by_layout(matrix=matrix.link(), rest=rest.link(), layout=LAYOUT)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, same=PARAMS, value=1.0, fn=len)
    for spy, inside in ((matrix, False), (rest, True)):
        for key in ("updates", "params", "same"):
            kept = isinstance(spy.seen[key]["dense"]["bias"], jax.Array)
            assert kept == inside
            masked = isinstance(spy.seen[key]["dense"]["kernel"], optax.MaskedNode)
            assert masked == inside
        assert spy.seen["value"] == 1.0
        assert spy.seen["fn"] is len


def test_by_layout_equals_optax_partition():
    labels = {
        "dense": {"kernel": "m", "bias": "r"},
        "blocks": {"kernel": "m"},
        "qkv": {"kernel": "m"},
    }
    ours = by_layout(matrix=optax.adam(0.1), rest=optax.sgd(1.0), layout=LAYOUT)
    theirs = optax.partition({"m": optax.adam(0.1), "r": optax.sgd(1.0)}, labels)
    a, _ = ours.update(PARAMS, ours.init(PARAMS), PARAMS)
    b, _ = theirs.update(PARAMS, theirs.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_both_groups_default_to_the_identity():
    out, _ = by_layout(layout=LAYOUT).update(
        PARAMS, by_layout(layout=LAYOUT).init(PARAMS)
    )
    jax.tree.map(np.testing.assert_array_equal, out, PARAMS)


@pytest.mark.parametrize("tree", [{}, {"a": {}}, [], None])
def test_empty_trees_are_errors_in_update_and_not_in_init(tree):
    for tx in (by_layout(), on_matrices()):
        state = tx.init(tree)
        with pytest.raises(
            ValueError, match=r"update: the tree is empty\. Expected at l"
        ):
            tx.update(tree, state)


def test_a_group_without_leaves_is_no_error():
    layout = rules(("", None))
    tx = by_layout(matrix=on_matrices(optax.scale(2.0)), layout=layout)
    out, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, out, PARAMS)


def test_integer_leaves_are_named():
    params = {"dense": {"kernel": jnp.ones((2, 3), jnp.int32)}}
    for tx in (by_layout(), on_matrices()):
        with pytest.raises(
            TypeError, match=r"'dense/kernel' of shape \(2, 3\) has dtype"
        ):
            tx.init(params)


def test_wrong_block_sums_are_named():
    tx = on_matrices(layout=rules(("", MatrixView((-1,), (-2,), blocks=(4, 2)))))
    with pytest.raises(
        ValueError, match=r"sum to 6, but 'qkv/kernel' .* has 8 rows\. E"
    ):
        tx.init({"qkv": {"kernel": jnp.ones((4, 8))}})


def test_a_layout_must_be_a_function():
    for wrapper in (by_layout, on_matrices):
        with pytest.raises(
            TypeError, match=r"layout='flax' is not a function\. Expected"
        ):
            wrapper(layout="flax")


def test_unknown_leaves_are_errors_at_init_and_name_the_rule():
    with pytest.raises(
        ValueError, match=r"'foo' of shape \(3,\) matches no rule\. Expect"
    ):
        by_layout().init({"foo": jnp.ones(3)})
