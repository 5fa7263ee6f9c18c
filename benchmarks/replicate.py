# SPDX-License-Identifier: Apache-2.0
"""Published comparisons, repeated at a size that two cores finish.

Every optimizer has its own grid of learning rates, factor 2 apart, wide enough that its
best lies inside; every rate is run with the same seeds. A comparison takes each
optimizer at the rate of its best mean final loss, and pairs the seeds. Leaves that are
no matrices go to AdamW in all of them; where a method's own scale is not AdamW's, at a
fixed fraction of its rate, the ratio of the two middles.
"""

import dataclasses
import functools
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _report import Options, Record, console, main, record
from flax import nnx
from matplotlib.figure import Figure

from orthoptax.matrix import JORDAN, newton_schulz
from orthoptax.optimizers.adago import adago
from orthoptax.optimizers.auon import auon
from orthoptax.optimizers.hybrid_auon import hybrid_auon
from orthoptax.optimizers.muon import muon
from orthoptax.optimizers.normuon import normuon
from orthoptax.optimizers.turbo_muon import turbo_muon
from orthoptax.train import data, digits, models, results, sweep, tasks

BEGIN, END = "<!-- replicate -->", "<!-- /replicate -->"
STUDENT_T = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}  # 97.5 %, by degrees of freedom
HERE = pathlib.Path(__file__).parent


class Row(NamedTuple):
    """An optimizer, and the rate in the middle of its grid."""

    constructor: Any
    middle: float


class Claim(NamedTuple):
    """What was published, and what is run to see it here."""

    name: str
    says: str
    task: str
    steps: int
    seeds: int
    rows: dict[str, Row]
    against: str


def adam(rate: Any) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=0.0)


ADAM, UNSCALED, SGD = 8e-3, 3e-2, 0.25  # middles of the grids, by scale of the step


def with_adam(constructor: Any, middle: float) -> Any:
    """An optimizer whose other leaves go to AdamW at its rate times ADAM/middle."""
    return lambda rate: constructor(rate, rest=adam(rate * (ADAM / middle)))


def muon4(rate: Any) -> optax.GradientTransformation:
    """Muon with one of Jordan's five stages left out."""
    return muon(rate, polar=newton_schulz(JORDAN[:4]))


CLAIMS = (
    Claim(
        "adago-regression",
        "AdaGO reaches a lower loss than Muon and Adam on function regression "
        "(arXiv:2509.02981).",
        "regression",
        600,
        5,
        {
            "adam": Row(adam, ADAM),
            "muon": Row(muon, ADAM),
            "adago": Row(with_adam(adago, UNSCALED), UNSCALED),
        },
        "muon",
    ),
    Claim(
        "adago-digits",
        "AdaGO reaches a lower loss than Muon and Adam on small images "
        "(arXiv:2509.02981; CIFAR-10 there, 8x8 digits here).",
        "digits",
        400,
        5,
        {
            "adam": Row(adam, ADAM),
            "muon": Row(muon, ADAM),
            "adago": Row(with_adam(adago, UNSCALED), UNSCALED),
        },
        "muon",
    ),
    Claim(
        "normuon",
        "NorMuon is more efficient than Muon (arXiv:2510.05491; 11 % at 1.1 billion "
        "parameters there).",
        "bytes",
        250,
        3,
        {
            "adam": Row(adam, ADAM),
            "muon": Row(muon, ADAM),
            "normuon": Row(normuon, ADAM),
        },
        "muon",
    ),
    Claim(
        "turbo-muon",
        "Turbo-Muon's four iterations are as good as Muon's five (arXiv:2512.04632).",
        "bytes",
        250,
        3,
        {
            "muon": Row(muon, ADAM),
            "muon4": Row(muon4, ADAM),
            "turbo_muon": Row(turbo_muon, ADAM),
        },
        "muon",
    ),
    Claim(
        "auon",
        "AuON, without any product of matrices, trains but stays behind Muon; the "
        "hybrid comes close (arXiv:2509.24320).",
        "bytes",
        250,
        3,
        {
            "muon": Row(muon, ADAM),
            "auon": Row(with_adam(auon, SGD), SGD),
            "hybrid_auon": Row(with_adam(hybrid_auon, UNSCALED), UNSCALED),
        },
        "muon",
    ),
)


@dataclasses.dataclass
class Replicate(Options):
    claims: tuple[str, ...] = tuple(c.name for c in CLAIMS)
    """Which comparisons to run."""
    seeds: int | None = None
    """How many seeds, counted from 0; None: the comparison's own."""
    rates: int = 5
    """How many learning rates, factor 2 apart."""
    steps: int | None = None
    """Steps of every run; None: the comparison's own."""
    out: pathlib.Path = pathlib.Path("results/replicate")
    """Where the curves go; what is there already is not run again."""
    readme: pathlib.Path | None = None
    """Rewrite the part of this file between its marks; pictures go beside it."""


class Net(nnx.Module):
    """Maps (batch, 8) inputs to (batch, 1) outputs."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(8, 64, rngs=rngs)
        self.mix = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.gelu(self.mix(nnx.gelu(self.up(x)))))


def regression() -> tasks.Task:
    """A sum of sines of eight inputs, without noise; the loss is the mean square."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Net(rngs=nnx.Rngs(0))))
    waves = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)

    def initial(seed: Any) -> Any:
        model = Net(rngs=nnx.Rngs(jax.random.key(seed)))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        x = batch.astype(jnp.float32) / 127.5 - 1
        y = jnp.sin(jnp.matmul(x, waves)).sum(axis=-1, keepdims=True) / 4
        return jnp.mean(jnp.square(nnx.merge(graph, params)(x) - y))

    draw = lambda key: np.random.default_rng(key).integers(
        0, 256, size=(128, 8), dtype=np.uint8
    )
    held = np.stack([draw((2**31, i)) for i in range(8)])
    return tasks.Task(initial, loss, lambda seed, step: draw((seed, step)), held)


@functools.cache
def task(name: str) -> tasks.Task:
    if name == "regression":
        return regression()
    if name == "digits":
        return digits.task(digits.read())
    shape = models.SHAPES["tiny"]
    return tasks.text(shape, data.read(None))


def grid(middle: float, count: int) -> tuple[float, ...]:
    return tuple(middle * 2.0 ** (i - count // 2) for i in range(count))


class Curve(NamedTuple):
    """One optimizer of a claim: its grid, and the final losses [rate][seed]."""

    rates: tuple[float, ...]
    finals: list[list[float]]

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(f) for f in self.finals]

    @property
    def best(self) -> int:
        return int(np.argmin(self.means))


def train(claim: Claim, options: Replicate) -> dict[str, Curve]:
    """The final losses of every optimizer of a claim, at every rate and seed."""
    seeds = tuple(range(options.seeds or claim.seeds))
    steps = options.steps or claim.steps
    folder = options.out / claim.task / str(steps)  # shared between claims
    folder.mkdir(parents=True, exist_ok=True)
    curves = {}
    for name, row in claim.rows.items():
        rates = grid(row.middle, options.rates)
        plan = sweep.Plan(rates, seeds, steps, steps)
        with sweep.progress(console) as bars:
            sweep.train(task(claim.task), {name: row.constructor}, plan, folder, bars)
        rows = results.read(folder / "curves.jsonl")
        runs = [[results.Run(name, r, s) for s in seeds] for r in rates]
        last = [
            [results.of(run, rows)[-1]["validation_loss"] for run in r] for r in runs
        ]
        curves[name] = Curve(rates, [[nan_if_none(x) for x in r] for r in last])
    return curves


def nan_if_none(loss: float | None) -> float:
    """A run that diverged is worse than any other."""
    return math.inf if loss is None else loss


def spread(values: list[float]) -> float:
    """Half the 95 % interval of the mean, Student's t."""
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return math.inf
    return STUDENT_T.get(n - 1, 1.96) * statistics.stdev(values) / math.sqrt(n)


def compare(curves: dict[str, Curve], name: str, against: str) -> tuple[float, float]:
    """Mean and half interval of the paired differences, each at its best rate."""
    a, b = (curves[n].finals[curves[n].best] for n in (name, against))
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    return statistics.fmean(gaps), spread(gaps)


def verdict(gap: float, half: float) -> str:
    """What the interval says, in words."""
    if not math.isfinite(half) or abs(gap) <= half:
        return "no difference seen"
    return "lower" if gap < 0 else "higher"


def section(claim: Claim, curves: dict[str, Curve], options: Replicate) -> str:
    """The part of the document on one claim."""
    lines = [
        f"### {claim.name}",
        "",
        claim.says,
        "",
        f"| optimizer | best rate | final loss | minus {claim.against}, 95 % | is |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, curve in curves.items():
        i = curve.best
        edge = " (edge)" if i in (0, len(curve.rates) - 1) else ""
        head = f"| `{name}` | {curve.rates[i]:.3g}{edge} | {curve.means[i]:.4g} "
        if name == claim.against:
            lines.append(f"{head}| | |")
            continue
        gap, half = compare(curves, name, claim.against)
        lines.append(f"{head}| {gap:+.2g} ± {half:.2g} | {verdict(gap, half)} |")
    steps, seeds = options.steps or claim.steps, options.seeds or claim.seeds
    lines += ["", f"Task `{claim.task}`, {steps} steps, seeds 0 to {seeds - 1}."]
    return "\n".join([*lines, "", f"![{claim.name}](replicate_{claim.name}.png)", ""])


def picture(claim: Claim, curves: dict[str, Curve], path: pathlib.Path) -> None:
    """Final loss against learning rate, mean and 95 % interval."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        halves = [spread(f) for f in curve.finals]
        axes.errorbar(
            curve.rates, curve.means, halves, label=name, capsize=2, marker="."
        )
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="final loss")
    axes.set_title(f"{claim.name}: {claim.task}")
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def run(options: Replicate) -> list[Record]:
    known = {c.name: c for c in CLAIMS}
    records, sections = [], []
    for name in options.claims:
        claim = known[name]
        curves = train(claim, options)
        best = {n: min(c.means) for n, c in curves.items()}
        for other in (n for n in curves if n != claim.against):
            case = f"{name}: {other} against {claim.against}: final loss"
            losses = best[other], best[claim.against]
            records.append(record("replicate", case, *losses, "loss"))
        sections.append(section(claim, curves, options))
        if options.readme is not None:
            picture(claim, curves, options.readme.parent / f"replicate_{name}.png")
    if options.readme is not None:
        before, _, rest = options.readme.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        body = "\n".join([BEGIN, "", *sections, END])
        options.readme.write_text(before + body + after)
    return records


if __name__ == "__main__":
    main(run, Replicate)
