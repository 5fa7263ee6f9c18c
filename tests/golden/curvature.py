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
from tests.golden.replay import Case, Fields, close


def objective(case: Case, c: jax.Array) -> Callable[[Any], jax.Array]:
    """The recorded objective around c, a quadratic form with a quartic added."""
    cast = lambda key: jnp.asarray(case.arrays[key], c.dtype)
    m, q = cast("extra/0/objective/M"), cast("extra/0/objective/q")

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


def tolerances(case: Case, dtype: str) -> dict[str, float]:
    """At float64 those of the case; at float32 ten deviations of its displacement."""
    if dtype == "float64":
        return case.tolerance("float64")
    allowed = max(1e-5, 10 * case.meta["float32_deviation"])
    return {"rtol": 0.0, "atol": allowed}


def displacement(case: Case, name: str) -> float:
    """How far a leaf moved in all, to which float32 deviations are relative."""
    end, start = case.arrays[f"after/{case.steps}/{name}"], case.arrays[f"param/{name}"]
    return float(abs(end - start).max())


def replay(
    tx: optax.GradientTransformationExtraArgs,
    case: Case,
    dtype: str,
    told: Callable[[int], Any],
    extra: Callable[[Any], dict[str, Any]],
    observe: Callable[[Any], dict[str, Any]] = lambda state: {},
    mean: Callable[[int], Any] | None = None,
) -> None:
    """Every recorded step, each from our own previous parameters.

    Args:
      tx, case, dtype: what is run.
      told: arrays of step t.
      extra: the extra arguments of `update` that these make.
      observe: {what was recorded of a step: the same of the state after it}.
      mean: the average of curvatures after step t: nearly all entries of the recorded
        steps of Sophia are clipped, and do not show it.
    """
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params = cast(case.group("param"))
    state = tx.init(params)

    @jax.jit
    def step(now: Any, grads: Any, state: Any, params: Any) -> Any:
        return tx.update(grads, state, params, **extra(now))

    for t in range(1, case.steps + 1):
        updates, state = step(told(t), cast(case.group(f"grad/{t}")), state, params)
        params = optax.apply_updates(params, updates)
        allowed = tolerances(case, dtype)
        for name, want in case.group(f"after/{t}").items():
            unit = 1.0 if dtype == "float64" else displacement(case, name)
            scaled = {**allowed, "atol": allowed["atol"] * unit}
            close(params[name], want, f"step {t}, {name}", **scaled)
        for name, want in ({} if mean is None else mean(t)).items():
            found = optax.tree.get(state, "curvature")[name]
            close(found, want, f"step {t}, H of {name}", rtol=1e-4, atol=1e-4)
        for kind, value in observe(state).items():
            # Relative to itself, also at float32.
            rtol = max(allowed.values())
            want = case.arrays[f"extra/{t}/{kind}"]
            close(value, want, f"step {t}, {kind}", rtol=rtol, atol=0.0)


def averages(
    case: Case, b2: float, estimate: Callable[[int], dict[str, Any]]
) -> Callable[[int], dict[str, Any]]:
    """The averages of recorded estimates after each step; {} where there was none."""
    past = {name: np.zeros_like(p) for name, p in case.group("param").items()}
    after = []
    for t in range(1, case.steps + 1):
        new = estimate(t)
        past = {n: b2 * h + (1 - b2) * new[n] if new else h for n, h in past.items()}
        after.append(past)
    return lambda t: after[t - 1]


def products(case: Case) -> Callable[[int], dict[str, Any]]:
    """probe * hvp of step t, where they were recorded."""

    def estimate(t: int) -> dict[str, Any]:
        hvp = case.group(f"extra/{t}/hvp")
        return {n: case.arrays[f"extra/{t}/probe/{n}"] * x for n, x in hvp.items()}

    return estimate


def end_to_end(
    build: Callable[[Fields, Case, Any], optax.GradientTransformationExtraArgs],
    observe: Callable[[Any], dict[str, Any]] = lambda state: {},
    *,
    mean: bool = False,
) -> Callable[[Case, str], None]:
    """A replay that gives the transform the recorded objective and draws."""

    def run(case: Case, dtype: str) -> None:
        f = case.fields
        tx = build(f, case, probes(case))
        f.done()
        told = lambda t: jnp.asarray(case.arrays[f"extra/{t}/objective/c"], dtype)
        extra = lambda c: {"obj_fn": objective(case, c)}
        b2 = case.meta["hyperparameters"].get("b2", 0.0)
        kept = averages(case, b2, products(case)) if mean else None
        replay(tx, case, dtype, told, extra, observe, kept)

    return run


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


def sophia_authors(case: Case, dtype: str) -> None:
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

    def told(t: int) -> dict[str, Any]:
        sampled = case.group(f"extra/{t - 1}/sampled_grad")
        assert bool(sampled) == (t > 1 and (t - 1) % every == 0)
        here = sampled or case.group("param")
        square = {k: jnp.asarray(size * g * g, dtype) for k, g in here.items()}
        return {"hessian_diag": square, "hessian_fresh": jnp.asarray(bool(sampled))}

    squares = lambda t: {
        k: size * g * g for k, g in case.group(f"extra/{t - 1}/sampled_grad").items()
    }
    mean = averages(case, b2, squares)
    replay(tx, case, dtype, told, lambda now: now, mean=mean)


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


def step_size(state: Any) -> dict[str, Any]:
    """What OASIS records."""
    return {"eta/value": state.inner.step_size}


ADAHESSIAN = end_to_end(adahessian_case)
REPLAYS = {
    "adahessian, block averaging of 2-D leaves (fairseq code)": ADAHESSIAN,
    "adahessian, per-coordinate with conv-kernel averaging (vision code)": ADAHESSIAN,
    "sophia_g (authors' code)": sophia_authors,
    "sophia_h paper Algorithm 3 (no bias correction, curvature refreshed before use, "
    "Gaussian probe)": end_to_end(sophia_paper, mean=True),
    "sophia_h as in optax.contrib (bias-corrected momentum, curvature refreshed after "
    "use)": end_to_end(sophia_optax, mean=True),
    "oasis, adaptive step, deterministic": end_to_end(
        oasis_case(full_batch=True), step_size
    ),
    "oasis, adaptive step, stochastic": end_to_end(
        oasis_case(full_batch=False), step_size
    ),
}
