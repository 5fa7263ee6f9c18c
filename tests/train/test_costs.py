# SPDX-License-Identifier: Apache-2.0
"""What steps cost in gradients, worked out by hand on one layer, and budgets of it.

With F operations for x @ w, loss and gradient take 2 F (forward, and back to w); a
product with the Hessian 2 F more where the forward pass is at hand, else 3 F.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from rich.console import Console

from orthoptax.curvature import hutchinson
from orthoptax.optimizers import adahessian, oasis, sania, sophia_g, sophia_h
from orthoptax.sharding.compiled.counting import count
from orthoptax.train import loop, results, sweep, tasks
from orthoptax.train.config import UsageError
from orthoptax.train.costs import Cost, cost
from orthoptax.train.names import adamw
from orthoptax.transforms import newton_direction
from tests import zoo


def task():
    """One layer of tanh, 8 to 4, whose batch of 4 is bytes."""
    weights = lambda seed: {"w": jax.random.normal(jax.random.key(seed), (8, 4)) / 8}
    logits = lambda params, batch: jnp.tanh(batch / 256 @ params["w"])
    loss = lambda params, batch: jnp.mean(logits(params, batch) ** 2)
    draw = lambda seed, step: np.full((4, 8), 16 * seed + step, np.uint8)
    return tasks.Task(weights, loss, draw, np.ones((2, 4, 8), np.uint8), logits)


def steps(constructor, count=6):
    """The cost of each of the first steps."""
    return np.diff(cost(task(), constructor, count).spent).tolist()


def test_a_gradient_costs_one():
    assert steps(adamw) == [1] * 6


def test_the_forward_pass_is_shared_where_it_can_be():
    assert steps(adahessian) == [2] * 6


def test_a_clock_is_followed_and_shares_nothing():
    found = steps(lambda rate: sophia_h(rate, update_every=3))
    assert found == [2.5, 1, 1, 2.5, 1, 1]
    found = steps(lambda rate: adahessian(rate, update_every=2, start=3))
    assert found == [1, 1, 1, 2.5, 1, 2.5]


def test_two_clocks():
    two = lambda rate: optax.chain(
        sophia_h(rate, update_every=2), sophia_h(rate, update_every=3)
    )
    assert steps(two) == [4, 1, 2.5, 2.5, 2.5, 1]


def test_the_first_estimate_may_have_more_probes():
    # 3 F a probe in a loop, and a gradient at the weights before
    assert steps(oasis, 3) == [17, 3.5, 3.5]
    found = steps(lambda rate: oasis(rate, estimator=hutchinson(4)), 2)
    assert found == [8, 8]


def test_a_budget_in_steps():
    found = cost(task(), lambda rate: sophia_h(rate, update_every=3), 9)
    assert found.about(3) == {"gradients_per_step": 1.5, "at_least": False}
    assert [found.steps(n) for n in (2, 2.5, 3, 4.5, 6, 7)] == [0, 1, 1, 3, 3, 4]


def choosing(params, rate):
    """A link that does two products where an entry is positive, else none."""
    square = lambda w: w @ (w.T @ w)
    return lax.cond(params["w"][0, 0] > 0, square, lambda w: w, params["w"])


def searching(params, rate):
    """A link that takes a product after the other until it is small."""
    small = lambda w: jnp.sum(w) > 1e-3
    return lax.while_loop(small, lambda w: w @ (w.T @ w), params["w"])


def wasting(params, rate):
    """A link that makes products and does not use them."""
    lax.map(lambda w: w @ w.T, params["w"][None])
    return jnp.tanh(params["w"])


def link(fn):
    """The optimizer whose update is fn(parameters, rate)."""

    def constructor(rate):
        update = lambda u, s, p: ({"w": fn(p, rate)}, s)
        return optax.GradientTransformation(lambda p: optax.EmptyState(), update)

    return constructor


LOSS = 0.5  # the forward pass; these links leave the gradient unused
CUBE = 1.0  # w.T @ w and what it is multiplied to take 4 * 8 * 4 products each


def test_what_the_data_decide():
    assert steps(link(choosing), 2) == [LOSS + CUBE] * 2
    assert not cost(task(), link(choosing), 2).at_least
    assert steps(link(searching), 2) == [LOSS + CUBE] * 2
    assert cost(task(), link(searching), 2).at_least


def test_what_nothing_needs_costs_nothing():
    assert steps(link(wasting), 2) == [LOSS] * 2


def test_a_search_in_an_optimizer_is_said():
    newton = lambda rate: sania(rate, metric=newton_direction())
    assert cost(task(), newton, 1).at_least


@pytest.mark.parametrize("make", [adahessian, sophia_g])
def test_the_compiler_makes_as_much(make):
    """Of a step whose conditional is due, XLA's own program."""
    due = {"update_every": 1, "start": 0}
    constructor = lambda rate: make(rate, **due)
    model, rate = task(), jax.ShapeDtypeStruct((), jnp.float32)
    like = loop.shapes(model, constructor)
    batch = jax.ShapeDtypeStruct(model.batch, jnp.uint8)
    build = lambda fn, *shapes: (
        count(jax.jit(fn, compiler_options=zoo.QUICKLY).lower(*shapes).compile()).flops
    )
    whole = build(loop.step(model, constructor, 4), like, rate, batch)
    gradient = build(jax.value_and_grad(model.loss), like.params, batch)
    assert steps(constructor, 2) == [whole / gradient] * 2


def plan(**changes):
    given = {"rates": (0.01,), "seeds": (0,), "steps": 12, "evaluate_every": 4}
    return sweep.Plan(**given | changes)


def test_every_run_ends_at_the_budget(tmp_path):
    every_three = lambda rate: sophia_h(rate, update_every=3)
    rows = {"adamw": adamw, "sophia_h": every_three}
    priced = sweep.priced(task(), rows, plan(gradients=12))
    assert [priced.of(name) for name in rows] == [(12, 4), (7, 2)]
    console = Console(quiet=True)
    for _ in range(2):  # the second time there is nothing left to do
        with sweep.progress(console) as bars:
            sweep.train(task(), rows, priced, tmp_path, bars)
        found = results.read(tmp_path / "curves.jsonl")
        ran = {n: [r["step"] for r in found if r["optimizer"] == n] for n in rows}
        assert ran == {"adamw": [0, 4, 8, 12], "sophia_h": [0, 2, 4, 6, 7]}
    manifest = sweep.manifest(task(), rows, priced)
    assert manifest["gradients"] == 12
    assert manifest["steps"] == {"adamw": 12, "sophia_h": 7}
    assert manifest["cost"]["sophia_h"]["gradients_per_step"] == pytest.approx(11.5 / 7)


def test_a_budget_below_one_step():
    with pytest.raises(UsageError, match=r"adahessian costs 2\.0 gradients, more than"):
        sweep.priced(task(), {"adahessian": adahessian}, plan(gradients=1))


def test_no_budget_changes_nothing():
    made = sweep.priced(task(), {"adahessian": adahessian}, plan())
    assert made.of("adahessian") == (12, 4)
    assert sweep.manifest(task(), {"adahessian": adahessian}, made)["steps"] == 12
    assert isinstance(made.costs["adahessian"], Cost)
