# SPDX-License-Identifier: Apache-2.0
"""Recombined with optax's own choices, the links are optax.contrib.muon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import by_layout, flax, on_matrices
from orthoptax.layout import to_optax
from orthoptax.matrix import frobenius_add, newton_schulz
from orthoptax.transforms import (
    decoupled,
    momentum,
    orthogonalize,
    scale_by_learning_rate,
    scale_by_shape,
)

RNG = np.random.default_rng(0)
SHAPES = {
    "dense": {"kernel": (8, 5), "bias": (5,)},
    "blocks": {"kernel": (3, 4, 6), "bias": (3, 6)},
    "attn": {"query": {"kernel": (6, 2, 3)}, "out": {"kernel": (2, 3, 6)}},
    "embed": {"embedding": (11, 4)},
    "head": {"kernel": (4, 11)},
}


def ours(rate, nesterov, decay):
    matrix = optax.chain(
        momentum(0.95, nesterov=nesterov, bias_correction=True),
        on_matrices(
            orthogonalize(newton_schulz(scale=frobenius_add(1e-8))), scale_by_shape()
        ),
        decoupled(decay),
        scale_by_learning_rate(rate),
    )
    rest = optax.adamw(rate, nesterov=nesterov, weight_decay=0.0)
    return by_layout(matrix=matrix, rest=rest)


def draw():
    return jax.tree.map(
        lambda s: jnp.asarray(RNG.normal(size=s)),
        SHAPES,
        is_leaf=lambda s: isinstance(s, tuple),
    )


@pytest.mark.parametrize("nesterov", [True, False])
def test_every_step_of_every_leaf(nesterov):
    with jax.enable_x64(True):
        params = draw()
        theirs = optax.contrib.muon(
            0.03,
            nesterov=nesterov,
            weight_decay=0.1,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=lambda p: to_optax(p, flax()),
        )
        mine = ours(0.03, nesterov, 0.1)
        a, b = mine.init(params), theirs.init(params)
        step_a, step_b = jax.jit(mine.update), jax.jit(theirs.update)
        p, q = params, params
        for _ in range(4):
            g = draw()
            u, a = step_a(g, a, p)
            v, b = step_b(g, b, q)
            p, q = optax.apply_updates(p, u), optax.apply_updates(q, v)
        near = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
        jax.tree.map(near, p, q)
