# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: AEGD, SANIA, M-FAC and other steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthoptax.curvature import hutchinson
from orthoptax.matrix import (
    inverse_fisher_diagonal,
    inverse_fisher_of,
    inverse_fisher_product,
    precondition_with,
)
from orthoptax.optimizers import aegd, induced_metric, mfac, sania
from orthoptax.transforms import (
    Factors,
    backward_difference,
    divide_by_curvature_abs_floor,
    divide_by_mean_square,
    divide_by_sum_of_squares,
    forward_difference,
    newton_direction,
    of_graph,
    of_log_graph,
    regularize_gradient,
    scaled_gd,
    with_curvature,
)
from tests.golden.curvature import OBJECTIVE, probes, quartic
from tests.golden.replay import Case, Fields, Run, close


def value(recorded: dict[str, Any]) -> dict[str, Any]:
    """The loss as it was handed over."""
    return {"value": recorded["loss/value"]}


def aegd_case(case: Case) -> Run:
    f = case.fields
    tx = aegd(
        f.take("lr"),
        c=f.take("c"),
        weight_decay=f.take("weight_decay"),
        coupled=not f.take("aegdw"),
    )
    f.done()
    return Run(tx, extra=value, inputs=OBJECTIVE | {"loss"})


def aegd_preconditioned(case: Case) -> Run:
    f = case.fields
    metric = case.group("extra/0/metric_diag")
    over = lambda u, params: {n: x / metric[n].astype(x.dtype) for n, x in u.items()}
    tx = aegd(f.take("learning_rate"), c=f.take("c"), metric=optax.stateless(over))
    f.done()
    energy = lambda state: optax.tree.get(state, "energy")
    return Run(
        tx,
        extra=value,
        inputs=OBJECTIVE | {"loss"},
        observe=lambda before, after, updates: {"energy": {"value": energy(after)}},
    )


def common_of_induced(f: Fields) -> dict[str, Any]:
    """Learning rate, decay and weights of the past."""
    names = {"learning_rate": "learning_rate", "momentum": "b1", "beta": "b2"}
    names |= {"xi": "xi", "weight_decay": "weight_decay"}
    return {ours: f.take(theirs) for theirs, ours in names.items()}


def induced(metric: Any) -> Any:
    def make(case: Case) -> Run:
        f = case.fields
        tx = induced_metric(**common_of_induced(f), metric=metric)
        f.done()
        return Run(tx, extra=value, inputs=OBJECTIVE | {"loss"})

    return make


def induced_rms(case: Case) -> Run:
    f = case.fields
    by = divide_by_mean_square(f.take("beta_rms"), eps=f.take("eps"), root=True)
    tx = induced_metric(**common_of_induced(f), precondition=by)
    f.done()
    return Run(tx, inputs=OBJECTIVE | {"loss"})


def regularized(kind: str) -> Any:
    """End to end: the gradients come from the objective at our own parameters."""
    kinds = {"forward": forward_difference, "backward": backward_difference}

    def make(case: Case) -> Run:
        f = case.fields
        rate = f.take("learning_rate")
        assert f.take("kind") == kind
        first = regularize_gradient(
            f.take("gamma"),
            eps=f.take("epsilon"),
            difference=kinds[kind],
            normalize=f.take("normalize"),
        )
        f.done()
        return Run(
            optax.chain(first, optax.sgd(rate)),
            objective=quartic,
            inputs=OBJECTIVE,
            observe=lambda before, after, updates: {
                "regularized_grad": optax.tree.scale(-1 / rate, updates)
            },
        )

    return make


def scaled_pair(case: Case) -> Run:
    f = case.fields
    assert f.take("symmetric") is False
    pairs = [Factors("L", "R")]
    assert case.arrays["param/L"].shape[1] == f.take("rank")
    return scaled(f, pairs)


def scaled_symmetric(case: Case) -> Run:
    f = case.fields
    assert f.take("symmetric") is True
    assert case.arrays["param/X"].shape[1] == f.take("rank")
    return scaled(f, [Factors("X")])


def scaled(f: Fields, pairs: list[Factors]) -> Run:
    rate = f.take("learning_rate")
    tx = optax.chain(scaled_gd(pairs, damping=f.take("damping")), optax.sgd(rate))
    f.done()
    return Run(tx)


def polynomial(case: Case, dtype: str) -> None:
    f, given, want = case.fields, case.group("in"), case.group("out")
    taus = f.take("taus")
    f.done()
    assert set(want) == {f"{k}_{tau}" for k in ("precond_grad", "cond") for tau in taus}
    b, g = (jnp.asarray(given[name], dtype) for name in ("B", "g"))
    for tau in taus:
        sums = jnp.asarray(given["power_traces"][:tau], dtype)
        apply = jax.jit(
            lambda x, sums=sums: precondition_with(lambda x: b @ x, sums, x)
        )
        name = f"precond_grad_{tau}"
        close(apply(g), want[name], name, **case.tolerance(dtype))
        product = np.stack([apply(column) for column in b])
        name = f"cond_{tau}"
        close(np.linalg.cond(product), want[name], name, **case.tolerance(dtype))


def mfac_case(case: Case) -> Run:
    f = case.fields
    assert set(f.take("flatten_order")) == set(case.group("param"))  # any order will do
    tx = mfac(
        f.take("lr"),
        window=f.take("ngrads"),
        damping=f.take("damp"),
        b1=f.take("momentum"),
        weight_decay=f.take("weight_decay"),
    )
    f.done()
    return Run(tx)


def mfac_static(case: Case, dtype: str) -> None:
    f, given, want = case.fields, case.group("in"), case.group("out")
    damping, size, m = f.take("damp"), f.take("blocksize"), f.take("m")
    f.done()
    grads, x = (jnp.asarray(given[name], dtype) for name in ("grads", "x"))
    assert len(grads) == m
    whole = inverse_fisher_of(grads, damping)
    blocks = grads.reshape(m, -1, size).swapaxes(0, 1)
    cut = inverse_fisher_of(blocks, damping)
    got = {
        "ihvp": inverse_fisher_product(whole, x),
        "diag": inverse_fisher_diagonal(whole),
        "ihvp_blocked": inverse_fisher_product(cut, x.reshape(-1, size)).ravel(),
        "diag_blocked": inverse_fisher_diagonal(cut).ravel(),
    }
    assert set(got) == set(want)
    for name, ours in got.items():
        close(ours, want[name], name, **case.tolerance(dtype))


def last_step_size(before: Any, after: Any, updates: Any) -> Any:
    return {"step_size": {"value": optax.tree.get(after, "step_size")}}


def sania_square(case: Case) -> Run:
    f = case.fields
    assert f.take("eps_form") == "floor: max(eps, accumulator)"
    floor, root, f_star = f.take("eps"), f.take("is_sqrt"), f.take("f_star")
    betas = f.take("betas", default=None)
    f.done()
    if betas is None:
        metric = divide_by_sum_of_squares(floor=floor, root=root)
    else:
        metric = divide_by_mean_square(betas[1], floor=floor, root=root)
    return Run(
        sania(1.0, f_star=f_star, metric=metric),
        extra=value,
        inputs=frozenset({"batch", "loss"}),
        observe=last_step_size,
    )


def sania_newton(case: Case) -> Run:
    """End to end, from the data."""
    f = case.fields
    decay, f_star, tolerance = f.take("l2"), f.take("f_star"), f.take("cg_tol")
    f.done()

    def objective(recorded: dict[str, Any]) -> Any:
        x, y = recorded["data/A"], recorded["data/y"]

        def loss(params: Any) -> jax.Array:
            w = params["w"]
            nll = jnp.logaddexp(0, -y * (x @ w))
            return jnp.mean(nll) + decay / 2 * jnp.sum(w * w)

        return loss

    def observe(before: Any, after: Any, updates: Any) -> Any:
        size = optax.tree.get(after, "step_size")
        direction = {name: -u / size for name, u in updates.items()}
        return {"step_size": {"value": size}, "direction": direction}

    metric = newton_direction(tolerance=tolerance**2)
    tx = sania(1.0, f_star=f_star, metric=metric)
    return Run(tx, objective=objective, inputs=frozenset({"loss"}), observe=observe)


def sania_hutchinson(case: Case) -> Run:
    """End to end: only the draws are put in."""
    f = case.fields
    metric = with_curvature(
        divide_by_curvature_abs_floor(f.take("beta2"), floor=f.take("alpha")),
        hutchinson(probe=probes(case)),
    )
    tx, shift = sania(1.0, f_star=f.take("f_star"), metric=metric), f.take("loss_shift")
    f.done()

    def shifted(recorded: dict[str, Any]) -> Any:
        loss = quartic(recorded)
        return lambda params: loss(params) + shift

    inputs = OBJECTIVE | {"probe", "hvp", "loss"}
    return Run(tx, objective=shifted, inputs=inputs, observe=last_step_size)


OPTIMIZERS: Any = {
    "aegd (element-wise energy)": aegd_case,
    "preconditioned adaptive gradient descent with energy (one global energy)": (
        aegd_preconditioned
    ),
    "induced metric sgd": induced(of_graph),
    "induced metric log-loss": induced(of_log_graph),
    "induced metric rmsprop": induced_rms,
    "gradient regularization (forward)": regularized("forward"),
    "gradient regularization (backward)": regularized("backward"),
    "scaled_gd(lambda) asymmetric pair": scaled_pair,
    "scaled_gd(lambda) symmetric": scaled_symmetric,
    "m_fac dynamic (sliding window) optimizer": mfac_case,
    "sania adagrad-sqr (authors' code)": sania_square,
    "sania adam-sqr (authors' code)": sania_square,
    "sania with Hutchinson diagonal": sania_hutchinson,
    "sania newton (conjugate-gradient solve run to convergence), convex": sania_newton,
}
REPLAYS: Any = {
    "symmetric polynomial preconditioner P_tau g": polynomial,
    "m_fac static: inverse empirical-Fisher vector product and inverse diagonal": (
        mfac_static
    ),
}
