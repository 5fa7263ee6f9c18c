# SPDX-License-Identifier: Apache-2.0
"""What a sharded step moves between devices, ours beside optax.contrib.muon.

Steps are compiled from shapes for eight CPU devices, and what the compiler made of
them is counted, of one device and one step: nothing is run. Parameters, state and
updates lie as the mesh says, before the step and after.
"""

import dataclasses
import datetime
import functools
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from _report import Clock, Options, Record, doing, gpt2_layers, main, record
from _target import IN_ORDER, Target, target
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from orthoptax import dion, muon, normuon
from orthoptax._types import Place
from orthoptax.matrix import gram_newton_schulz, newton_schulz
from orthoptax.sharding import count, in_parts, state_specs, whole_matrices

DEVICES = 8
RATE = 0.02
WIDENS = ("attention", "up")
BOTH = {"fsdp": 4, "tp": 2}
FSDP, TP = {"fsdp": DEVICES}, {"tp": DEVICES}
LAYERS = "layers"
"""A tree of transformer layers, as opposed to a few equal leaves."""
REFERENCE = "optax.contrib.muon"
WHOLE = "muon, whole_matrices"
BEGIN, END = "<!-- sharded -->\n", "<!-- /sharded -->"

SHARE = ("work over a single device's", "ratio")
COLUMNS = {
    ("result bytes", "MB"): "result MB",
    ("ring bytes", "MB"): "ring MB",
    ("collectives", "collectives"): "collectives",
    ("work", "GFLOP"): "GFLOP",
    SHARE: "of one device's",
    ("temporaries", "MB"): "temporary MB",
    ("compile, CPU", "s"): "compile, CPU s",
}
"""Of the table in Markdown: which figures, and their headings."""

Figures = dict[tuple[str, str], float]
Shapes = Mapping[str, tuple[int, ...]]
Cut = tuple[str | None, ...]


class Case(NamedTuple):
    """Leaves on a mesh.

    mesh: {axis: size}. wide: how kernels that widen are cut, and equal leaves. other:
    the rest. leaves: number of equal leaves, or `LAYERS`. shape: theirs. team: devices
    that work together on matrices that do not go evenly. times: so many layers for
    each that is asked for. lines: the methods; none: all that apply.
    """

    mesh: Mapping[str, int]
    wide: Cut
    other: Cut = ()
    leaves: int | Literal["layers"] = LAYERS
    shape: tuple[int, ...] = (512, 1024)
    team: int = 1
    times: int = 1
    lines: tuple[str, ...] = ()


CASES = {
    "FSDP-8": Case(FSDP, ("fsdp",), ("fsdp",)),
    "TP-8": Case(TP, (None, "tp"), ("tp",)),
    "FSDP-4xTP-2": Case(BOTH, ("fsdp", "tp"), ("tp", "fsdp")),
    "replicated": Case({"dp": DEVICES}, (), ()),
    "rows": Case(FSDP, ("fsdp",), leaves=16),
    "columns": Case(FSDP, (None, "fsdp"), leaves=16),
    "both": Case(BOTH, ("fsdp", "tp"), leaves=16),
    "twelve": Case(FSDP, ("fsdp",), leaves=12, shape=(768, 3072), team=2),
    "one": Case(FSDP, ("fsdp",), leaves=1, team=DEVICES),
    "stack": Case(FSDP, ("fsdp",), leaves=1, shape=(16, 512, 1024)),
    "deep": Case(FSDP, ("fsdp",), ("fsdp",), times=4, lines=(REFERENCE, WHOLE)),
}


def optax_muon(*, place: None = None) -> optax.GradientTransformation:
    """optax's Muon, for stacks too, which it leaves to AdamW unless told."""
    del place
    last_two = optax.contrib.MuonDimensionNumbers(-2, -1)
    return optax.contrib.muon(
        RATE,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=functools.partial(
            jax.tree.map, lambda _: last_two
        ),
    )


class Method(NamedTuple):
    """A line of the table.

    make: the optimizer at a place. place: made of specs and mesh. always: for equal
    leaves as well.
    """

    make: Callable[..., optax.GradientTransformation]
    place: Callable[[Any, Any], Place | None] = lambda specs, mesh: None
    always: bool = False


def whole(**options: Any) -> Callable[[Any, Any], Place]:
    return lambda specs, mesh: whole_matrices(specs, mesh=mesh, **options)


@functools.cache
def methods(precision: str) -> dict[str, Method]:
    """The lines of most cases."""
    polar = newton_schulz(precision=precision)
    of_muon = functools.partial(muon, RATE, polar=polar)
    of_normuon = functools.partial(normuon, RATE, polar=polar)
    of_dion = functools.partial(dion, RATE, rank_fraction=0.25)
    in_bfloat16 = whole(transport=jnp.bfloat16)
    return {
        REFERENCE: Method(optax_muon, always=True),
        "muon, no place": Method(of_muon, always=True),
        WHOLE: Method(of_muon, whole(), always=True),
        "muon, whole_matrices, bfloat16": Method(of_muon, in_bfloat16),
        "normuon, whole_matrices": Method(of_normuon, whole()),
        "dion at rank 1/4, in_parts": Method(of_dion, lambda s, m: in_parts(s, mesh=m)),
    }


def teams(team: int, precision: str) -> dict[str, Method]:
    """Whole matrices with teams, and what to compare them with."""
    gram = functools.partial(muon, RATE, polar=gram_newton_schulz(precision=precision))
    return {
        "muon in Gram form, whole_matrices": Method(gram, whole()),
        f"the same, team={team}": Method(gram, whole(team=team)),
    }


def lines_of(case: Case, precision: str) -> dict[str, Method]:
    """The methods of a case."""
    layers = case.leaves == LAYERS
    lines = {k: m for k, m in methods(precision).items() if m.always or layers}
    lines |= teams(case.team, precision) if case.team > 1 else {}
    return {name: lines[name] for name in case.lines or lines}


class Measured(NamedTuple):
    """A case: how it is called, {method: figures}."""

    title: str
    lines: dict[str, Figures]


@dataclasses.dataclass
class Sharded(Options):
    layers: int | None = None
    """Layers of four matrices each; None: 12, with --quick 2."""
    width: int | None = None
    """Of the matrices of layers; None: 768, with --quick 64."""
    cases: tuple[str, ...] = tuple(CASES)
    """Which cases."""
    precision: Literal["highest", "default"] = "highest"
    """Of all products: on TPUs six passes in bfloat16, or one. CPUs have one."""
    topology: str | None = None
    """Compile for these eight TPUs, such as v5e:2x4; None: for CPU."""
    readme: pathlib.Path | None = None
    """Rewrite the table in this file, between its two marks."""


def update(method: Method, case: Case, shapes: Shapes, to: Target) -> tuple[Any, Clock]:
    """The compiled update of one method on the mesh of a case."""
    types = (AxisType.Auto,) * len(case.mesh)
    mesh = jax.make_mesh(
        tuple(case.mesh.values()), tuple(case.mesh), types, devices=to.devices
    )
    wide = lambda name: case.leaves != LAYERS or name.endswith(WIDENS)
    cut = lambda name: case.wide if wide(name) else case.other
    specs = {n: {"kernel": PartitionSpec(*cut(n))} for n in shapes}
    tree = abstract(shapes)
    tx = method.make(place=method.place(specs, mesh))
    with jax.set_mesh(mesh):
        state = jax.eval_shape(tx.init, tree)
        states = state_specs(tx, tree, specs, mesh=mesh)
    lies = lambda specs: jax.tree.map(lambda s: NamedSharding(mesh, s), specs)
    where = lies(specs), lies(states)
    put = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    tree, state = jax.tree.map(put, (tree, state), where)
    step = lambda *arguments: tx.update(*arguments)
    return to.compile(step, tree, state, tree, out_shardings=where)


def abstract(shapes: Shapes) -> Any:
    """{name: {"kernel": shape and dtype}}."""
    return {
        n: {"kernel": jax.ShapeDtypeStruct(s, jnp.float32)} for n, s in shapes.items()
    }


def equal(number: int, shape: tuple[int, ...]) -> Shapes:
    """Leaves of one shape; three axes are a stack of layers."""
    name = "layers/dense" if len(shape) > 2 else "dense"
    return {f"{name}_{i}": shape for i in range(number)}


@functools.cache
def alone(make: Callable[..., Any], shape: tuple[int, ...]) -> float:
    """Floating-point operations of one leaf's step on a single device."""
    tx, tree = make(), abstract(equal(1, shape))
    state = jax.eval_shape(tx.init, tree)
    return count(jax.jit(tx.update).lower(tree, state, tree).compile(IN_ORDER)).flops


def figures(method: Method, case: Case, shapes: Shapes, to: Target) -> Figures:
    """{(what, unit): figure} of one line of the table."""
    compiled, spent = update(method, case, shapes, to)
    found = count(compiled)
    if found.unknown_trips or found.not_counted:
        raise AssertionError(f"not all of it was counted:\n{found}")
    single = sum(n * alone(method.make, s) for s, n in Counter(shapes.values()).items())
    return {
        ("result bytes", "MB"): found.result_bytes / 1e6,
        ("ring bytes", "MB"): found.ring_bytes / 1e6,
        ("collectives", "collectives"): found.number,
        ("work", "GFLOP"): found.flops / 1e9,
        SHARE: found.flops / single,
        ("temporaries", "MB"): (found.temp_bytes or 0) / 1e6,
        ("compile, wall", "s"): spent.wall,
        ("compile, CPU", "s"): spent.cpu,
    }


def measure(name: str, layers: int, width: int, to: Target) -> Measured:
    """The lines of one case."""
    case = CASES[name]
    if case.leaves == LAYERS:
        layers *= case.times
        tree, title = gpt2_layers(layers, width), f"{name}, {layers}x4 of {width}"
    else:
        tree = equal(case.leaves, case.shape)
        title = f"{name}, {case.leaves} of {'x'.join(map(str, case.shape))}"
    lines = {}
    for line, method in lines_of(case, to.precision).items():
        with doing(f"{title}: {line}"):
            lines[line] = figures(method, case, tree, to)
    return Measured(title, lines)


def run(options: Sharded) -> list[Record]:
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        sys.exit(f"--cases: no {unknown[0]!r}. Expected some of {', '.join(CASES)}")
    layers = options.layers or (2 if options.quick else 12)
    width = options.width or (64 if options.quick else 768)
    to = target(options.topology, options.precision)
    measured = [measure(name, layers, width, to) for name in options.cases]
    if options.readme is not None:
        before, _, rest = options.readme.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        options.readme.write_text(before + BEGIN + markdown(measured) + END + after)
    return [
        record("sharded", f"{line}, {title}: {what}", x, theirs[what, unit], unit)
        for title, lines in measured
        for theirs in [lines[REFERENCE]]
        for line, found in lines.items()
        if line != REFERENCE
        for (what, unit), x in found.items()
    ]


def markdown(measured: list[Measured]) -> str:
    """A table of all cases, and when it was made."""
    head = ["case", "optimizer", *COLUMNS.values()]
    rows = [head, ["---", "---", *["---:"] * len(COLUMNS)]]
    for title, lines in measured:
        for i, (line, found) in enumerate(lines.items()):
            cells = [
                f"{found[key]:{'.3f' if key == SHARE else ',.4g'}}" for key in COLUMNS
            ]
            rows.append(["" if i else title, line, *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    made = f"{datetime.date.today()}, jax {jax.__version__}, {os.cpu_count()} CPU cores"
    return f"\n{table}\n\n{made}.\n\n"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    main(run, Sharded)
