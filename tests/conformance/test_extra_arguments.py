# SPDX-License-Identifier: Apache-2.0
"""Extra arguments through the layout's wrappers: trees are cut, nothing else is."""

import jax
import numpy as np
import optax

from orthoptax.layout import by_layout, on_matrices
from orthoptax.optimizers import muon
from tests import zoo


def listener():
    """A transform that keeps what it is given, and the list it keeps it in."""
    heard = []

    def update(updates, state, params=None, **extra):
        heard.append(extra)
        return updates, state

    init = lambda params: optax.EmptyState()
    return optax.GradientTransformationExtraArgs(init, update), heard


def given(params):
    """A tree, two callables, a scalar, and a tree of another structure."""
    return {
        "grad": jax.tree.map(lambda p: 2 * p, params),
        "value": 1.5,
        "sample_fn": lambda key, logits: 0.0,
        "value_fn": lambda p: len(jax.tree.leaves(p)),
        "other": {"a": np.ones(3)},
    }


def uncut(heard, extra):
    """Asserts that what is not a tree like the updates came through untouched."""
    for name in ("value", "sample_fn", "other"):
        assert heard[name] is extra[name]


def test_by_layout_cuts_trees_to_each_group():
    params = zoo.tree()
    (matrix, ours), (rest, others) = listener(), listener()
    tx, extra = by_layout(matrix=matrix, rest=rest), given(params)
    tx.update(params, tx.init(params), params, **extra)
    uncut(ours[0], extra)
    uncut(others[0], extra)
    assert ours[0]["value_fn"](ours[0]["grad"]) == len(jax.tree.leaves(params))
    mine, theirs = zoo.by_name(ours[0]["grad"]), zoo.by_name(others[0]["grad"])
    assert "square/kernel" in mine
    assert "norm/scale" in theirs
    assert set(mine) & set(theirs) == set()
    assert {**mine, **theirs}.keys() == set(zoo.names(params))
    for name, leaf in zoo.by_name(extra["grad"]).items():
        np.testing.assert_array_equal({**mine, **theirs}[name], leaf)


def test_on_matrices_turns_trees_into_matrices():
    params = zoo.tree()
    link, heard = listener()
    tx, extra = on_matrices(link), given(params)
    tx.update(params, tx.init(params), params, **extra)
    uncut(heard[0], extra)
    cut = heard[0]["grad"]
    np.testing.assert_array_equal(cut["tall/kernel"], 2 * params["tall"]["kernel"].T)
    assert cut["conv/kernel"].shape == (8, 8)
    assert "norm/scale" not in cut
    assert heard[0]["leaf_shapes"]["conv/kernel"] == (2, 2, 2, 8)


def test_extra_arguments_reach_every_link_of_an_optimizer():
    params = zoo.tree(shapes=zoo.SMALL)
    (after, ours), (rest, others) = listener(), listener()
    tx, extra = muon(0.1, after=after, rest=rest), given(params)
    tx.update(params, tx.init(params), params, **extra)
    uncut(ours[0], extra)
    uncut(others[0], extra)
