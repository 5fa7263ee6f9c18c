# SPDX-License-Identifier: Apache-2.0
"""What the command line can say, and the checks that need no data."""

import dataclasses
import difflib
import math
from collections.abc import Collection
from pathlib import Path

from orthoptax._check import message

SEEDS = 3  # of an ablation, at least
ROWS = ("adamw", "optax-muon", "optax-muon-default", "muon")


class UsageError(ValueError):
    """A mistake made at the command line; shown without a traceback.

    Args:
      wrong, expected, action: the three parts of a message.
      shown: lines below it, for example what was written, underlined.
    """

    def __init__(self, wrong: str, expected: str, action: str, shown: str = ""):
        super().__init__(message("orthoptax", wrong, expected, action) + shown)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Train one model with several optimizers, each over a grid of learning rates.

    Same data, same initial weights, same schedule for all. The default finishes in
    minutes on two cores; `--model 124m` is the run for an accelerator.
    """

    optimizers: tuple[str, ...] = ROWS
    """Names, or chains such as "momentum(0.95) | orthogonalize | scale_by_shape", one
    row of the table each. The target loss is AdamW's, or, without AdamW, that of the
    first."""
    steps: int = 250
    """Training steps of every run."""
    gradients: int | None = None
    """A budget in place of --steps: each optimizer takes as many steps as cost no more
    than this many gradients, and is evaluated once --evaluate-every gradients."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the initial weights and the batches; every run is repeated with each."""
    learning_rates: tuple[float, ...] = ()
    """Peak rates, the same grid for all. None given: the model's own grid."""
    model: str = "tiny"
    """tiny (140 thousand parameters), wide (1.7 million, whose steps show what a polar
    kernel costs), or 124m (GPT-2 small, bfloat16)."""
    mesh: str | None = None
    """Devices to train on, for example fsdp=4,tp=2; the axes are dp, fsdp and tp. It
    may be another when resuming: only rounding differs. None given: one device."""
    data: Path | None = None
    """A folder of text files. None given: the Python standard library's .py files."""
    out: Path = Path("results/compare")
    """Where the results go; must be new or empty, unless resuming."""
    resume: bool = False
    """Continue an interrupted run in the same folder, with the same options."""
    evaluate_every: int = 25
    """Steps between two evaluations; an interruption loses at most as many."""
    processes: int = 1
    """How many processes share the mesh, each started with this same command; 0: as a
    TPU pod or SLURM says. See `orthoptax.train.processes`."""
    process: int | None = None
    """Which of them this one is, from 0; not needed where jax finds out."""
    coordinator: str | None = None
    """Address of process 0, for example localhost:9876; likewise."""


@dataclasses.dataclass(frozen=True)
class Ablate:
    """Drop or replace one link of a chain at a time, and see what the loss says.

    Every chain is trained over the same learning rates with the same seeds; differences
    from the base are taken seed by seed and come with confidence intervals.
    """

    base: str = "momentum | sign | orthogonalize | second_moment | rms_align"
    """A chain, or the name of an optimizer that is written as one. Each of its links is
    dropped once; a wrapper is also taken off, so that what it holds stays."""
    replace: tuple[str, ...] = ()
    """Replacements to try as well, each 'link -> chain', for example
    "orthogonalize -> orthogonalize(svd)"."""
    tasks: tuple[str, ...] = ("digits", "bytes")
    """digits (a perceptron on scikit-learn's digits), bytes (a small transformer)."""
    steps: int = 150
    """Training steps of every run."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the initial weights and the batches; at least three."""
    learning_rates: tuple[float, ...] = (2e-3, 6e-3, 2e-2, 6e-2)
    """Peak rates, the same grid for all."""
    data: Path | None = None
    """A folder of text for bytes. None given: the standard library's .py files."""
    out: Path = Path("results/ablate")
    """Where the results go; must be new or empty, unless resuming."""
    resume: bool = False
    """Continue an interrupted run in the same folder, with the same options."""
    evaluate_every: int = 75
    """Steps between two evaluations; an interruption loses at most as many."""


def check(config: Compare | Ablate) -> None:
    """Raises UsageError for a value that no run can have."""
    for name in ("steps", "evaluate_every"):
        if getattr(config, name) < 1:
            raise UsageError(
                f"{flag(name)} is {getattr(config, name)}",
                "a number of steps, at least 1",
                f"Change {flag(name)}",
            )
    budget = config.gradients if isinstance(config, Compare) else None
    if budget is not None and budget < 1:
        raise UsageError(
            f"--gradients is {budget}",
            "a number of gradients, at least 1",
            "Change --gradients",
        )
    for rate in config.learning_rates:
        if not (math.isfinite(rate) and rate > 0):
            raise UsageError(
                f"learning rate {rate} is out of range",
                "finite numbers above 0",
                "Change --learning-rates",
            )
    for seed in config.seeds:
        if not 0 <= seed < 2**31:
            raise UsageError(
                f"seed {seed} is out of range",
                "numbers from 0 to 2**31 - 1",
                "Change --seeds",
            )
    if isinstance(config, Compare) and config.processes != 1:
        _check_processes(config)
    may_be_none = "learning_rates" if isinstance(config, Compare) else ""
    for name in ("optimizers", "tasks", "seeds", "learning_rates"):
        if hasattr(config, name):
            values = getattr(config, name)
            _check_distinct(flag(name), values, needed=name != may_be_none)
    if isinstance(config, Ablate) and len(config.seeds) < SEEDS:
        raise UsageError(
            f"--seeds has {len(config.seeds)} values",
            f"at least {SEEDS}, as an interval needs a spread",
            "Add seeds",
        )


def _check_processes(config: Compare) -> None:
    if config.mesh is None:
        raise UsageError(
            f"--processes {config.processes} without --mesh",
            "a mesh of all their devices",
            "Add for example --mesh fsdp=4,tp=2",
        )
    given = config.process is not None and config.coordinator is not None
    fits = given and 0 <= (config.process or 0) < config.processes
    if config.processes < 0 or (config.processes and not fits):
        raise UsageError(
            f"--processes {config.processes} with --process {config.process} and "
            f"--coordinator {config.coordinator}",
            "the number of this process, from 0, and the address of process 0",
            "Add for example --process 0 --coordinator localhost:9876, or set "
            "--processes 0 where jax finds out",
        )


def _check_distinct(option: str, values: tuple, needed: bool) -> None:
    if len(set(values)) < len(values) or (needed and not values):
        raise UsageError(
            f"{option} has {'no value' if not values else 'a value twice'}",
            "at least one value, each once",
            f"Change {option}",
        )


def flag(field: str) -> str:
    """The command-line spelling of a field."""
    return "--" + field.replace("_", "-")


def parts(error: Exception, expected: str, action: str) -> tuple[str, str, str]:
    """A message of the library in its three parts; of others, with these two added."""
    wrong, _, said = str(error).rstrip(".").partition(". Expected ")
    theirs, _, advice = said.rpartition(". ")
    return (wrong, theirs, advice) if theirs else (wrong, expected, action)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is spelled most like this one, if any is near."""
    return next(iter(difflib.get_close_matches(name.lower(), known, 1, 0.5)), None)


def unknown(kind: str, name: str, known: Collection[str], option: str) -> UsageError:
    """The error for a name that is none of `known`; suggests the nearest spelling."""
    near = nearest(name, known)
    action = f"Did you mean {near!r}? Change {option}" if near else f"Change {option}"
    return UsageError(
        f"{kind} {name!r} is unknown",
        f"one of {', '.join(sorted(known))}",
        action,
    )
