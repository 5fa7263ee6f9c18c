# SPDX-License-Identifier: Apache-2.0
"""Programs grow with the number of stacks, not of layers: counted, never timed.

Counts are of program text, where a loop's body stands once. FLOPs are counted on
unrolled programs, as `cost_analysis` too takes a loop's body once.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.layout.stacks import MAX_LEAVES, map_stacks
from orthoptax.matrix import JORDAN, newton_schulz
from orthoptax.optimizers.muon import muon

WIDTH = 64
LAYERS = [2, 8, 32, 40]  # one stack a shape; one, full; several; the last not full
DOTS = {"StableHLO": r"stablehlo\.dot_general\b", "HLO": r"\bdot\("}
LOOPS = {"StableHLO": r"stablehlo\.while\b", "HLO": r"\bwhile\("}


def layers(number: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Each four square matrices, one wide and one tall, a leaf each."""
    shapes = [(WIDTH, WIDTH)] * 4 + [(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
    return {
        f"layer_{i}/m{j}": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
        for i in range(number)
        for j, shape in enumerate(shapes)
    }


def compiled(tx: optax.GradientTransformation, number: int):
    """The update, lowered and compiled."""
    tree = layers(number)
    lowered = jax.jit(tx.update).lower(tree, jax.eval_shape(tx.init, tree), tree)
    return lowered, lowered.compile()


@pytest.fixture(scope="module", params=LAYERS)
def program(request):
    """(number of layers, {kind of text: text}, temporaries in bytes)."""
    lowered, done = compiled(muon(0.02), request.param)
    text = {"StableHLO": lowered.as_text(), "HLO": done.as_text()}
    return request.param, text, done.memory_analysis().temp_size_in_bytes


def stacks(number: int) -> tuple[int, int]:
    """Of four square leaves a layer, and of wide and tall ones, once turned alike."""
    return math.ceil(4 * number / MAX_LEAVES), math.ceil(2 * number / MAX_LEAVES)


@pytest.mark.parametrize("kind", ["StableHLO", "HLO"])
def test_products_grow_with_stacks_alone(program, kind):
    number, text, _ = program
    # `auto` is lowered once for a shape; XLA writes it into every loop.
    square, wide = (1, 1) if kind == "StableHLO" else stacks(number)
    # Of `OURS` the first stage and a loop: 1 + 3 products of polynomials. Plain: X X^H
    # and Z X of both. Gram form: X X^H, Q X, and in the loop two for R and one for Q.
    plain, gram = 4 + 2 * 2, 4 + 2 + 3
    assert len(re.findall(DOTS[kind], text[kind])) == plain * square + gram * wide


@pytest.mark.parametrize("kind", ["StableHLO", "HLO"])
def test_loops_grow_with_stacks_alone(program, kind):
    number, text, _ = program
    # One over the matrices of a stack, and in it one over the last stages of `OURS`,
    # which is lowered once for a shape.
    over_stages = 2 if kind == "StableHLO" else sum(stacks(number))
    assert len(re.findall(LOOPS[kind], text[kind])) == sum(stacks(number)) + over_stages


def test_a_program_for_every_leaf_would_be_seen():
    """What the two tests above guard against: stacks of one leaf."""
    tree = {str(i): jnp.ones((4, 8)) for i in range(5)}
    lone = jax.jit(lambda t: map_stacks(newton_schulz(), t, max_leaves=1)).lower(tree)
    assert len(re.findall(DOTS["StableHLO"], lone.as_text())) == 3 * len(tree)


def test_temporaries_stay_within_one_tree(program):
    number, _, temporaries = program
    tree = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(layers(number)))
    matrix = 4 * WIDTH * 4 * WIDTH
    # A stack in and a stack out of every leaf, and one matrix at a time in work, with a
    # few copies. optax.contrib.muon takes 6.2 trees here.
    assert temporaries <= tree + 4 * matrix


@pytest.mark.parametrize(("m", "n"), [(16, 48), (32, 32), (64, 256)])
@pytest.mark.parametrize("stages", [1, 5])
@pytest.mark.parametrize("kind", ["lowered", "compiled"])
def test_flops_of_unrolled_newton_schulz(m, n, stages, kind):
    polar = newton_schulz(JORDAN[:1] * stages, unroll=True)
    program = jax.jit(polar).lower(jnp.ones((m, n)))
    program = program.compile() if kind == "compiled" else program
    flops = program.cost_analysis()["flops"]
    products = stages * (4 * m * m * n + 2 * m**3)
    # c_1 G + c_2 G^2 and c_0 I, by comparing row and column, of each stage; the scale
    # takes some passes over X.
    elementwise = stages * (3 + 4) * m * m + 10 * m * n
    assert products <= flops <= products + elementwise


# Stacks are read off the operands of the concatenation that makes each; limits are at
# most 16 here, as `jnp.concatenate` cuts longer lists.


def joined(tree, **limits) -> list[int]:
    """Leaves in each stack of more than one, in order."""
    text = jax.jit(lambda t: map_stacks(jnp.tanh, t, **limits)).lower(tree).as_text()
    operands = re.findall(r"stablehlo\.concatenate ([^:]*?), dim = 0", text)
    return [len(names.split(",")) for names in operands]


def square(number: int, dtype=jnp.float32, batch: tuple[int, ...] = ()):
    """{name: (*batch, 4, 4)}: 64 bytes a float32 matrix."""
    return {str(i): jnp.full((*batch, 4, 4), i, dtype) for i in range(number)}


@pytest.mark.parametrize(
    ("limit", "sizes"), [(2, [2] * 5), (4, [4, 4, 2]), (9, [9]), (10, [10])]
)
def test_max_leaves(limit, sizes):
    assert joined(square(10), max_leaves=limit) == sizes


def test_default_max_leaves():
    text = jax.jit(lambda t: map_stacks(jnp.tanh, t)).lower(square(MAX_LEAVES + 2))
    assert len(re.findall(LOOPS["StableHLO"], text.as_text())) == 2


@pytest.mark.parametrize(
    ("limit", "sizes"), [(64, []), (128, [2] * 5), (255, [3] * 3), (640, [10])]
)
def test_max_bytes(limit, sizes):
    assert joined(square(10), max_bytes=limit) == sizes


def test_max_bytes_counts_batch_axes():
    assert joined(square(10, batch=(2,)), max_bytes=256) == [2] * 5


def test_dtypes_do_not_mix():
    tree = {"a": square(3), "b": square(5, jnp.bfloat16), "c": square(2)}
    assert sorted(joined(tree)) == [5, 5]  # three and two of float32, five of bfloat16
    for leaf, out in zip(
        jax.tree.leaves(tree), jax.tree.leaves(map_stacks(jnp.tanh, tree)), strict=True
    ):
        assert out.dtype == leaf.dtype
        assert out.shape == leaf.shape


@pytest.mark.parametrize(
    "limits", [{}, {"max_leaves": 1}, {"max_leaves": 3}, {"max_bytes": 256}]
)
def test_every_leaf_comes_back_as_itself(limits, rng):
    shapes = [(4, 4), (2, 4), (3, 4, 4), (4, 4), (2, 3, 2, 4), (0, 4, 4)]
    tree = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]
    out = jax.jit(lambda t: map_stacks(lambda x: 2 * x, t, **limits))(tree)
    for leaf, doubled in zip(tree, out, strict=True):
        np.testing.assert_array_equal(doubled, 2 * np.asarray(leaf))
