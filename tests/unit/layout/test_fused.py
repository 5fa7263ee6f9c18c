# SPDX-License-Identifier: Apache-2.0
"""A fused projection, and its parts stored as parameters of their own: one result."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.layout.rules import rules
from orthoptax.layout.tables import flax
from orthoptax.layout.view import MatrixView
from orthoptax.layout.wrap import on_matrices


def _whiten():
    """A link whose every entry depends on the whole matrix, with a momentum."""

    def update(updates, state, params=None):
        del params
        state = jax.tree.map(lambda m, u: 0.9 * m + u, state, updates)

        def one(x):
            gram = jnp.einsum("...ij,...kj->...ik", x, x)
            return jnp.einsum("...ik,...kj->...ij", gram / jnp.sum(x * x), x)

        return jax.tree.map(one, state), state

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def _run(params, grads, layout):
    tx = optax.chain(on_matrices(_whiten(), layout=layout), optax.scale(-0.1))
    state = tx.init(params)
    out = []
    for g in grads:
        updates, state = tx.update(g, state, params)
        out.append(updates)
    return out


def _gradients(shape):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(3)]


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "scanned"])
@pytest.mark.parametrize("sizes", [(8, 4, 2), (5, 9)])
def test_unequal_blocks_equal_separate_parameters(lead, sizes):
    grads = _gradients((*lead, 6, sum(sizes)))
    cuts = np.cumsum(sizes)[:-1]
    box = "blocks" if lead else "attn"
    fused = [{box: {"qkv": {"kernel": g}}} for g in grads]
    apart = [
        {box: {f"p{i}": {"kernel": p} for i, p in enumerate(jnp.split(g, cuts, -1))}}
        for g in grads
    ]
    ours = _run(fused[0], fused, flax(fused={"qkv": sizes}))
    theirs = _run(apart[0], apart, flax())
    for a, b in zip(ours, theirs, strict=True):
        parts = [b[box][f"p{i}"]["kernel"] for i in range(len(sizes))]
        joined = jnp.concatenate(parts, axis=-1)
        np.testing.assert_array_equal(a[box]["qkv"]["kernel"], joined)


def test_interleaved_groups_equal_separate_parameters():
    grads = _gradients((6, 12))  # two groups of 3 query rows, 2 key rows, 1 value row
    view = MatrixView((1,), (0,), blocks=(3, 2, 1), groups=2)
    index = {"q": [0, 1, 2, 6, 7, 8], "k": [3, 4, 9, 10], "v": [5, 11]}
    fused = [{"w": g} for g in grads]
    apart = [{n: g[:, i] for n, i in index.items()} for g in grads]
    ours = _run(fused[0], fused, rules(("w", view)))
    theirs = _run(apart[0], apart, rules(("", MatrixView((1,), (0,)))))
    for a, b in zip(ours, theirs, strict=True):
        for name, i in index.items():
            np.testing.assert_array_equal(a["w"][:, np.array(i)], b[name])


def test_one_matrix_of_all_parts_is_something_else():
    grads = _gradients((6, 14))
    tree = [{"qkv": {"kernel": g}} for g in grads]
    blocks = _run(tree[0], tree, flax(fused={"qkv": (8, 4, 2)}))
    whole = _run(tree[0], tree, flax(("kernel$", MatrixView((1,), (0,)))))
    gap = blocks[0]["qkv"]["kernel"] - whole[0]["qkv"]["kernel"]
    assert float(jnp.max(jnp.abs(gap))) > 1e-3
