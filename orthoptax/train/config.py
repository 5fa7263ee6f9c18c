# SPDX-License-Identifier: Apache-2.0
"""What the command line can say, and the checks that need no data."""

import dataclasses
import difflib
import math
from collections.abc import Collection
from pathlib import Path

from orthoptax._check import message

ROWS = ("adamw", "optax-muon", "optax-muon-default", "muon")


class UsageError(ValueError):
    """A mistake made at the command line; shown as one line, without a traceback."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Train one model with several optimizers, each over a grid of learning rates.

    Same data, same initial weights, same schedule for all. The default finishes in
    minutes on two cores; `--model 124m` is the run for an accelerator.
    """

    optimizers: tuple[str, ...] = ROWS
    """Names, one row of the table each. The target loss is AdamW's, or, without
    AdamW, that of the first name."""
    steps: int = 250
    """Training steps of every run."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the initial weights and the batches; every run is repeated with each."""
    learning_rates: tuple[float, ...] = ()
    """Peak rates, the same grid for all. None given: the model's own grid."""
    model: str = "tiny"
    """tiny (140 thousand parameters), or 124m (GPT-2 small, bfloat16)."""
    data: Path | None = None
    """A folder of text files. None given: the Python standard library's .py files."""
    out: Path = Path("results/compare")
    """Where the results go; must be new or empty, unless resuming."""
    resume: bool = False
    """Continue an interrupted run in the same folder, with the same options."""
    evaluate_every: int = 25
    """Steps between two evaluations; an interruption loses at most as many."""


def check(config: Compare) -> None:
    """Raises UsageError for a value that no run can have."""
    for name in ("steps", "evaluate_every"):
        if getattr(config, name) < 1:
            raise UsageError(
                message(
                    "compare",
                    f"{flag(name)} is {getattr(config, name)}",
                    "a number of steps, at least 1",
                    f"Change {flag(name)}",
                )
            )
    for rate in config.learning_rates:
        if not (math.isfinite(rate) and rate > 0):
            raise UsageError(
                message(
                    "compare",
                    f"learning rate {rate} is out of range",
                    "finite numbers above 0",
                    "Change --learning-rates",
                )
            )
    for seed in config.seeds:
        if not 0 <= seed < 2**31:
            raise UsageError(
                message(
                    "compare",
                    f"seed {seed} is out of range",
                    "numbers from 0 to 2**31 - 1",
                    "Change --seeds",
                )
            )
    for name in ("optimizers", "seeds", "learning_rates"):
        _check_distinct(flag(name), getattr(config, name), name != "learning_rates")


def _check_distinct(option: str, values: tuple, needed: bool) -> None:
    if len(set(values)) < len(values) or (needed and not values):
        raise UsageError(
            message(
                "compare",
                f"{option} has {'no value' if not values else 'a value twice'}",
                "at least one value, each once",
                f"Change {option}",
            )
        )


def flag(field: str) -> str:
    """The command-line spelling of a field."""
    return "--" + field.replace("_", "-")


def unknown(kind: str, name: str, known: Collection[str], option: str) -> UsageError:
    """The error for a name that is none of `known`; suggests the nearest spelling."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    action = (
        f"Did you mean {near[0]!r}? Change {option}" if near else f"Change {option}"
    )
    return UsageError(
        message(
            "compare",
            f"{kind} {name!r} is unknown",
            f"one of {', '.join(sorted(known))}",
            action,
        )
    )
