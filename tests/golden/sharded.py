# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: what authors' sharded code computes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from orthoptax.layout.wrap import on_matrices
from orthoptax.matrix import householder_qr
from orthoptax.optimizers import dion
from orthoptax.sharding import in_parts, per_replica, state_specs
from orthoptax.transforms import (
    decoupled,
    error_feedback,
    keep_norm,
    largest_slices_by_shard,
    low_rank,
    momentum,
    normalize_neurons,
    orthogonalize,
    scale_by_learning_rate,
    scale_by_shape,
    submatrix,
)
from tests.golden.dion import momentum_of, with_basis
from tests.golden.muon_family import SHAPE_RULES, orthogonalizer, rows_first
from tests.golden.replay import Case, Fields, Run, close

LITERAL = 1e-8  # in the authors' files, whatever epsilon is passed


def evened(b2: float, shards: int) -> optax.GradientTransformation:
    """NorMuon's rows, each shard of them at its own norm."""
    even = normalize_neurons(b2, eps=LITERAL)
    return keep_norm(even, floor=LITERAL, shards=shards)


def normuon_sharded(case: Case) -> Run:
    f, layout = case.fields, rows_first()
    links = [
        orthogonalize(orthogonalizer(f.take("orthogonalizer"))),
        evened(f.take("muon_beta2"), f.take("row_shards")),
        scale_by_shape(SHAPE_RULES[f.take("adjust_lr")]),
    ]
    tx = optax.chain(
        momentum(f.take("mu"), ema=False, nesterov=False),
        on_matrices(*links, layout=layout),
        decoupled(f.take("weight_decay")),
        scale_by_learning_rate(f.take("lr")),
    )
    f.done()
    return Run(tx)


def dion2_sharded(case: Case) -> Run:
    f, layout = case.fields, rows_first()
    shards, b2, fraction = (
        f.take(key) for key in ("row_shards", "muon_beta2", "fraction")
    )
    assert f.take("selection_scope") == "local"
    # What follows from the shapes.
    bounds, each = f.take("shard_bounds"), f.take("k_per_shard")
    assert len(bounds) == shards
    assert each == max(1, -int(-fraction * bounds[0][1] // 1))
    links = [orthogonalize(orthogonalizer(f.take("orthogonalizer")))]
    links += [] if b2 is None else [evened(b2, shards)]
    rows = submatrix(
        *links,
        fraction=fraction,
        axis=-2,
        choose=largest_slices_by_shard(shards, fraction),
    )
    rule = scale_by_shape(SHAPE_RULES[f.take("adjust_lr")])
    tx = optax.chain(
        error_feedback(f.take("ef_decay"), on_matrices(rows, rule, layout=layout)),
        decoupled(f.take("weight_decay")),
        scale_by_learning_rate(f.take("lr")),
    )
    f.done()
    return Run(tx, observe=momentum_of)


def dion_compressed(case: Case, dtype: str) -> None:
    """Every step on two devices, each with its own gradient and momentum."""
    f, layout = case.fields, rows_first()
    count, words = f.take("replicas"), read_dion(f)
    compressor = low_rank(words.pop("rank_fraction"), qr=householder_qr(), eps=1e-8)
    rest = optax.set_to_zero()
    whole = {name: P() for name in case.group("param")}
    place = in_parts(whole, replicas=("dp",))
    tx = per_replica(
        dion(compressor=compressor, place=place, layout=layout, rest=rest, **words)
    )
    mesh = jax.make_mesh((count,), ("dp",), axis_types=(AxisType.Auto,))
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params = cast(case.group("param"))
    states = state_specs(tx, params, None, mesh=mesh, layout=layout, replicas=("dp",))
    on_mesh = lambda fn, specs, out: jax.jit(
        jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out)
    )
    state = with_basis(on_mesh(tx.init, (P(),), states)(params), case, dtype)
    update = on_mesh(
        lambda g, s, p: tx.update({k: v[0] for k, v in g.items()}, s, p),
        (P("dp"), states, P()),
        (P(), states),
    )
    tolerance = case.tolerance(dtype)
    for t in range(1, case.steps + 1):
        own = [cast(case.group(f"extra/{t}/grad_replica{r}")) for r in range(count)]
        grads = {k: jnp.stack([g[k] for g in own]) for k in params}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, want in case.group(f"after/{t}").items():
            close(params[name], want, f"step {t}, {name}", **tolerance)
        found = optax.tree.get(state, "momentum")
        for r in range(count):
            recorded = case.group(f"extra/{t}/momentum_replica{r}")
            for name, want in recorded.items():
                what = f"step {t}, momentum {r}, {name}"
                close(found[name][r], want, what, **tolerance)
    assert recorded, "the last step's momentum was recorded"


def read_dion(f: Fields) -> dict[str, Any]:
    """The words of the compressed case, as arguments of `dion`."""
    assert set(f.take("compressed").values()) == {True}
    assert f.take("transpose") == "iff rows < cols"
    expected = {"qr_method": "qr", "power_iters": 1, "rank_multiple_of": 1}
    expected |= {"epsilon": 1e-8, "cqr_warmup_steps": 0}
    assert {key: f.take(key) for key in expected} == expected
    words = {"learning_rate": f.take("lr"), "b1": f.take("mu")}
    words |= {k: f.take(k) for k in ("weight_decay", "rank_fraction")}
    f.done()
    return words


OPTIMIZERS = {
    "normuon_sharded": normuon_sharded,
    "dion2_sharded": dion2_sharded,
    "nordion2_sharded": dion2_sharded,
}
REPLAYS = {"dion_dp_compressed": dion_compressed}
