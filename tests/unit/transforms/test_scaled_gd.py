# SPDX-License-Identifier: Apache-2.0
"""Factor pairs against NumPy: LoRA's orientation, stacks, convergence, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import Factors, scaled_gd

RNG = np.random.default_rng(0)
LORA = [Factors("lora/a", "lora/b", right_rank=-2)]


def test_lora_and_what_is_in_no_pair():
    a, b, bias = (RNG.normal(size=s) for s in ((2, 6, 3), (2, 3, 4), (5,)))
    ga, gb = RNG.normal(size=a.shape), RNG.normal(size=b.shape)
    with jax.enable_x64(True):
        params = {"lora": {"a": jnp.asarray(a), "b": jnp.asarray(b)}, "bias": bias}
        grads = {"lora": {"a": jnp.asarray(ga), "b": jnp.asarray(gb)}, "bias": 2 * bias}
        tx = scaled_gd(LORA, damping=0.1)
        out = jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(grads, params)
    damped = lambda gram: np.linalg.inv(gram + 0.1 * np.eye(3))
    turned = lambda x: np.swapaxes(x, 1, 2)
    want = ga @ damped(b @ turned(b))
    np.testing.assert_allclose(out["lora"]["a"], want, rtol=1e-10)
    want = damped(turned(a) @ a) @ gb
    np.testing.assert_allclose(out["lora"]["b"], want, rtol=1e-10)
    np.testing.assert_array_equal(out["bias"], 2 * bias)


def test_an_ill_conditioned_product_is_reached_at_the_rate_of_a_good_one():
    u, v = (np.linalg.qr(RNG.normal(size=(8, 3)))[0] for _ in range(2))
    target = (u * [1.0, 1e-1, 1e-2]) @ v.T
    tx = scaled_gd([Factors("l", "r")], damping=1e-4)
    start = u * np.sqrt([1.0, 1e-1, 1e-2])
    params = {
        "l": jnp.asarray(start + 0.02),
        "r": jnp.asarray(v * np.sqrt([1, 0.1, 0.01])),
    }

    @jax.jit
    def descend(params):
        def body(_, p):
            gap = p["l"] @ p["r"].T - jnp.asarray(target, jnp.float32)
            grads = {"l": gap @ p["r"], "r": gap.T @ p["l"]}
            updates, _ = tx.update(grads, tx.init(p), p)
            return jax.tree.map(lambda x, u: x - 0.5 * u, p, updates)

        return jax.lax.fori_loop(0, 60, body, params)

    end = descend(jax.tree.map(lambda x: x.astype(jnp.float32), params))
    gap = np.asarray(end["l"] @ end["r"].T) - target
    assert np.linalg.norm(gap) < 1e-4  # a hundredth of the smallest singular value


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (
            [Factors("l", "x")],
            r"there is no leaf 'x'\. Expected one of \['b', 'l', 'r'\]",
        ),
        ([Factors("l", "r", left_rank=-2)], r"have no product along axes -2 and -1"),
        ([Factors("l", "b")], r"leaf 'b' of shape \(3,\) is not a matrix"),
    ],
)
def test_pairs_that_do_not_fit_the_tree(pairs, says):
    params = {"l": jnp.ones((4, 3)), "r": jnp.ones((5, 3)), "b": jnp.ones(3)}
    tx = scaled_gd(pairs)
    assert tx.init({}) == ()
    with pytest.raises(ValueError, match=says):
        tx.init(params)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([Factors("l", "r"), Factors("r", "x")], "leaf 'r' is a factor twice"),
        ([Factors("l", "l")], r"leaf 'l' is a factor twice.*Factors\(name\)"),
        ([Factors("l", "r", left_rank=0)], "rank axes .* are wrong. Expected -1 or -2"),
    ],
)
def test_pairs_that_contradict(pairs, says):
    with pytest.raises(ValueError, match=says):
        scaled_gd(pairs)
