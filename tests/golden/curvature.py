# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: diagonals of the Hessian.

Where the objective and the probes were recorded the estimate is ours, from end to end:
only the random draws are put in.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthoptax.curvature import (
    average_axes,
    average_blocks,
    given,
    hutchinson,
)
from orthoptax.optimizers import adahessian, oasis, sophia_g, sophia_h
from orthoptax.transforms import (
    decoupled,
    divide_by_curvature_mean,
    divide_by_curvature_rms,
    momentum,
    scale_by_learning_rate,
    with_curvature,
)
from tests.golden.replay import Case, Fields, Run

OBJECTIVE = frozenset({"objective"})


def quartic(recorded: dict[str, Any]) -> Callable[[Any], jax.Array]:
    """The recorded objective around c, a quadratic form with a quartic added.

    Leaves in the order of their names, in C order.
    """
    m, q, c = (recorded[f"objective/{name}"] for name in ("M", "q", "c"))

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        x = jnp.concatenate([params[n].reshape(-1) for n in sorted(params)])
        return (x - c) @ m @ (x - c) / 2 + jnp.sum(q * x**4) / 4

    return loss


def probes(case: Case) -> Callable[..., jax.Array]:
    """The recorded draws as a `Probe`; zeros at steps that drew none."""
    first = case.group("extra/0")

    def probe(key: Any, shape: Any, dtype: Any, site: Any) -> jax.Array:
        zero = jnp.zeros(shape)
        steps = range(1, case.steps + 1)
        taken = [case.arrays.get(f"extra/{t}/probe/{site.leaf}", zero) for t in steps]
        drawn = jnp.stack([jnp.asarray(z, dtype) for z in taken])[site.step]
        names = sorted(k for k in first if k.startswith("warmup_probe_"))
        warm = [first[k] for k in names if k.endswith(f"/{site.leaf}")]
        if not warm:
            return drawn
        at_start = jnp.stack([jnp.asarray(z, dtype) for z in warm])[site.sample]
        return jnp.where(site.step == 0, at_start, drawn)

    return probe


def averages(
    case: Case, b2: float, estimate: Callable[[int], dict[str, Any]]
) -> dict[str, Any]:
    """The averages of recorded estimates after each step, as if recorded.

    Nearly all entries of the recorded steps of Sophia are clipped, and do not show
    them. A step's estimate is {} where there was none.
    """
    past = {name: np.zeros_like(p) for name, p in case.group("param").items()}
    after = {}
    for t in range(1, case.steps + 1):
        new = estimate(t)
        past = {n: b2 * h + (1 - b2) * new[n] if new else h for n, h in past.items()}
        after |= {f"extra/{t}/curvature/{n}": h for n, h in past.items()}
    return after


def products(case: Case) -> Callable[[int], dict[str, Any]]:
    """probe * hvp of step t, where they were recorded."""

    def estimate(t: int) -> dict[str, Any]:
        hvp = case.group(f"extra/{t}/hvp")
        return {n: case.arrays[f"extra/{t}/probe/{n}"] * x for n, x in hvp.items()}

    return estimate


def curvature(before: Any, after: Any, updates: Any) -> dict[str, Any]:
    """The average, as `averages` names it."""
    return {"curvature": optax.tree.get(after, "curvature")}


def end_to_end(
    build: Callable[[Fields, Case, Any], optax.GradientTransformationExtraArgs],
    observe: Callable[..., dict[str, Any]] = lambda *_: {},
    also: frozenset[str] = frozenset(),
) -> Callable[[Case], Run]:
    """A replay from the recorded objective and draws; `also`: kinds not compared."""

    def make(case: Case) -> Run:
        f = case.fields
        tx = build(f, case, probes(case))
        f.done()
        derived = {}
        if observe is curvature:
            b2 = case.meta["hyperparameters"]["b2"]
            derived = averages(case, b2, products(case))
        inputs = OBJECTIVE | {"probe", "hvp"} | also
        return Run(tx, objective=quartic, observe=observe, inputs=inputs,
                   derived=derived)  # fmt: skip

    return make


def adahessian_case(
    f: Fields, case: Case, probe: Any
) -> optax.GradientTransformationExtraArgs:
    b1, b2 = f.take("betas")
    rate, eps, decay = f.take("lr"), f.take("eps"), f.take("weight_decay")
    power, first = f.take("hessian_power"), f.take("abs_before_average")
    axes = f.take("spatial_axes_of_4d", default=None)
    assert f.take("layout_of_4d", default="OIHW") == "OIHW"
    length = f.take("block_length", default=None)
    average = average_axes(lambda path, d: tuple(axes or ()) if d.ndim == 4 else ())
    if length is not None:
        average = average_blocks(length)
    estimator = hutchinson(f.take("n_samples"), probe=probe)
    if first:
        return adahessian(
            rate, b1=b1, b2=b2, eps=eps, power=power, weight_decay=decay,
            average=average, estimator=estimator,
        )  # fmt: skip
    chain = optax.chain(
        momentum(b1, nesterov=False, bias_correction=True),
        divide_by_curvature_rms(
            b2, power=power, eps=eps, average=average, abs_first=False
        ),
        decoupled(decay),
        scale_by_learning_rate(rate),
    )
    return with_curvature(chain, estimator)


def sophia_optax(
    f: Fields, case: Case, probe: Any
) -> optax.GradientTransformationExtraArgs:
    return sophia_h(
        f.take("learning_rate"), b1=f.take("b1"), b2=f.take("b2"), eps=f.take("eps"),
        gamma=f.take("gamma"), clip_threshold=f.take("clip_threshold"),
        weight_decay=f.take("weight_decay"), estimator=hutchinson(probe=probe),
        update_every=f.take("update_interval"),
    )  # fmt: skip


def sophia_paper(
    f: Fields, case: Case, probe: Any
) -> optax.GradientTransformationExtraArgs:
    chain = optax.chain(
        momentum(f.take("b1"), nesterov=False),
        divide_by_curvature_mean(
            f.take("b2"), gamma=f.take("gamma"), eps=f.take("eps"),
            clip_threshold=f.take("clip"), refresh_first=True,
        ),
        decoupled(f.take("weight_decay")),
        scale_by_learning_rate(f.take("lr")),
    )  # fmt: skip
    return with_curvature(chain, hutchinson(probe=probe), update_every=f.take("k"))


def sophia_authors(case: Case) -> Run:
    """At the rule's level: what they square after step t counts in our step t + 1."""
    f = case.fields
    b1, b2 = f.take("betas")
    size, every = f.take("bs"), f.take("k")
    assert f.take("bias_correction") is False
    tx = sophia_g(
        f.take("lr"), b1=b1, b2=b2, gamma=f.take("rho"),
        eps=f.take("denominator_eps"), weight_decay=f.take("weight_decay"),
        estimator=given(),
    )  # fmt: skip
    f.done()

    def squares(t: int) -> dict[str, Any]:
        sampled = case.group(f"extra/{t - 1}/sampled_grad")
        assert bool(sampled) == (t > 1 and (t - 1) % every == 0)
        return {k: size * g * g for k, g in sampled.items()}

    handed = {
        f"extra/{t}/square/{k}": d
        for t in range(1, case.steps + 1)
        for k, d in squares(t).items()
    }

    def extra(recorded: dict[str, Any]) -> dict[str, Any]:
        shapes = case.group("param")
        zeros = {f"square/{k}": jnp.zeros(p.shape) for k, p in shapes.items()}
        fresh = zeros.keys() <= recorded.keys()
        diagonal = {k: (zeros | recorded)[f"square/{k}"] for k in shapes}
        return {"hessian_diag": diagonal, "hessian_fresh": fresh}

    return Run(
        tx,
        extra=extra,
        observe=curvature,
        inputs=frozenset({"sampled_grad", "square"}),
        derived=handed | averages(case, b2, squares),
    )


def oasis_case(*, full_batch: bool) -> Callable[..., Any]:
    def build(
        f: Fields, case: Case, probe: Any
    ) -> optax.GradientTransformationExtraArgs:
        samples = f.take("warmup_samples")
        return oasis(
            f.take("eta0"), b2=f.take("beta2"), floor=f.take("alpha"),
            full_batch=full_batch,
            estimator=hutchinson(first_samples=samples, probe=probe),
        )  # fmt: skip

    return build


def step_size(before: Any, after: Any, updates: Any) -> dict[str, Any]:
    """What OASIS records."""
    return {"eta": {"value": after.inner.step_size}}


ADAHESSIAN = end_to_end(adahessian_case)
OASIS = frozenset({"grad_prev_point"})
OPTIMIZERS: Any = {
    "adahessian, block averaging of 2-D leaves (fairseq code)": ADAHESSIAN,
    "adahessian, per-coordinate with conv-kernel averaging (vision code)": ADAHESSIAN,
    "sophia_g (authors' code)": sophia_authors,
    "sophia_h paper Algorithm 3 (no bias correction, curvature refreshed before use, "
    "Gaussian probe)": end_to_end(sophia_paper, curvature),
    "sophia_h as in optax.contrib (bias-corrected momentum, curvature refreshed after "
    "use)": end_to_end(sophia_optax, curvature),
    "oasis, adaptive step, deterministic": end_to_end(
        oasis_case(full_batch=True), step_size, OASIS
    ),
    "oasis, adaptive step, stochastic": end_to_end(
        oasis_case(full_batch=False), step_size, OASIS
    ),
}
