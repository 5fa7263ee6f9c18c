# SPDX-License-Identifier: Apache-2.0
"""Any transform may stand anywhere: chains drawn at random from all public ones.

A chain is drawn as text, so that a failing one can be tried again by hand:
`python -m orthoptax compare --optimizers "<chain>"`.
"""

import functools
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax._types import Compressor
from orthoptax.train import vocabulary
from orthoptax.train.chains import ChainOptimizer
from orthoptax.train.config import UsageError
from tests import zoo
from tests.conformance.supply import EXTRA, supplied

LONGEST = 5
STACK = {"blocks": {"up": {"kernel": (2, 6, 4)}}, "bias": (6,)}
SHAPES = STACK | {"tall": {"kernel": (4, 6)}, "square": {"kernel": (5, 5)}}
# Of the largest entry. A step to a projected weight is a small difference of large
# numbers, and links after it see its rounding magnified; the worst here is 7e-5.
TOLERANCE = 2e-4
# The compiler's own optimizations are not what is tested, and take half the time.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# By default it takes the largest slices; of equally large ones, as the signs before it
# make them, rounding takes one.
WRITTEN = {"submatrix": "submatrix(choose=random_slices)"}


def draw(seed, count):
    """`count` chains; every public link is in one before any is in two."""
    rng, deck, chains = random.Random(seed), [], []
    while len(chains) < count:
        links = []
        for _ in range(rng.randint(1, LONGEST)):
            deck = deck or rng.sample(vocabulary.links(), len(vocabulary.links()))
            links.append(filled(deck.pop(), rng))
        try:
            chains.append(str(ChainOptimizer(" | ".join(links))))
        except UsageError:  # two of them apply the rate, or one within calls the loss
            chains.append(str(ChainOptimizer(links[0].split("(")[0])))
            deck += [link.split("(")[0] for link in links[1:]]
            rng.shuffle(deck)
    return chains


def filled(name, rng):
    """A link; a wrapper is left empty, or filled with one or two others."""
    thing = vocabulary.words()[name]
    if vocabulary.is_link(thing, Compressor):
        return f"error_feedback({vocabulary.COMPRESSOR}={WRITTEN.get(name, name)})"
    wraps = [p for p in vocabulary.parameters(thing) if vocabulary.takes_link(thing, p)]
    if not wraps or vocabulary.COMPRESSOR in wraps or rng.random() < 0.3:
        return name
    inner = [n for n in vocabulary.links() if is_plain(n)]
    return f"{name}({' | '.join(rng.sample(inner, rng.randint(1, 2)))})"


def is_plain(name):
    """Whether a link holds no others and does not apply the rate."""
    thing = vocabulary.words()[name]
    holds = any(vocabulary.takes_link(thing, p) for p in vocabulary.parameters(thing))
    special = vocabulary.owns_rate(thing) or vocabulary.makes_steps(thing)
    return not (holds or special or vocabulary.is_link(thing, Compressor))


def check(chain, shapes):
    """Finite updates, a state that keeps its types, and one result in two ways.

    A chain may magnify rounding beyond any tolerance: the inverse root of a matrix of
    signs, whose rank is low. What float32 leaves open, float64 decides.
    """
    found = [*steps(chain, shapes, jnp.float32)]
    if all(is_close(compiled, eager) for _, compiled, eager in found):
        return
    with jax.enable_x64(True):
        for again, compiled, eager in steps(chain, shapes, jnp.float64):
            assert_as_close_as_it_can(again, compiled, eager)


def steps(chain, shapes, dtype):
    """Of two steps each (the step from other gradients, compiled, eager results)."""
    tx = supplied(ChainOptimizer(chain)(0.1), tuple(EXTRA))
    params, *grads = (zoo.tree(seed, shapes, dtype) for seed in (0, 1, 2))
    state = tx.init(params)
    update = jax.jit(tx.update).lower(grads[0], state, params).compile(QUICK)
    for g in grads:
        eager = tx.update(g, state, params)
        updates, after = update(g, state, params)
        assert zoo.types(after) == zoo.types(state), chain
        assert zoo.types(updates) == zoo.types(params), chain
        for name, leaf in zoo.by_name(updates).items():
            assert jnp.isfinite(leaf).all(), (chain, name)
        again = functools.partial(_again, tx, g, state, params)
        yield again, (updates, after), eager
        state = after


def _again(tx, g, state, params, seed):
    return tx.update(rounded(g, seed), state, params)


def assert_as_close_as_it_can(again, compiled, eager):
    """Equal up to `TOLERANCE`, or to what another rounding of the gradient would do.

    A chain may hang on the last bits of its input: an error of orthogonality that is
    rounding itself, the direction of rows that nearly cancel.
    """
    near = [again(seed) for seed in range(6)]
    for name, ours, one, *others in zip(
        zoo.names(eager),
        *map(jax.tree.leaves, (compiled, eager, *near)),
        strict=True,
    ):
        ours, one, *others = (
            zoo.raw(x).astype(np.float64) for x in (ours, one, *others)
        )
        spread = max(np.max(np.abs(x - one), initial=0) for x in others)
        atol = TOLERANCE * np.max(np.abs(one), initial=1e-30) + 4 * spread
        np.testing.assert_allclose(ours, one, rtol=0, atol=atol, err_msg=name)


def is_close(compiled, eager):
    try:
        zoo.assert_close(compiled, eager, TOLERANCE)
    except AssertionError:
        return False
    return True


def rounded(tree, seed):
    """The leaves with every entry three units of rounding away."""
    rng = np.random.default_rng(seed)

    def near(x):
        signs = jnp.asarray(rng.choice([-1, 1], x.shape), x.dtype)
        return x * (1 + 3 * jnp.finfo(x.dtype).eps * signs)

    return jax.tree.map(near, tree)


@functools.cache
def fast():
    return draw(seed=0, count=24)


@pytest.mark.parametrize(
    "index",
    [pytest.param(i, marks=[pytest.mark.slow] * (i % 8 > 0)) for i in range(24)],
)
def test_random_chain(index):
    check(fast()[index], STACK)


def test_every_public_link_is_drawn():
    used = set(re.findall(r"\w+", " ".join(fast())))
    assert set(vocabulary.links()) <= used


@pytest.mark.slow  # 10 minutes
@pytest.mark.parametrize("seed", range(1, 11))
def test_more_random_chains(seed):
    for chain in draw(seed, count=40):
        check(chain, SHAPES)
