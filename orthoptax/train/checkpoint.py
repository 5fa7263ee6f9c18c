# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the run in progress, by orbax, one folder a run and a step.

A checkpoint of step s is written after the lines of the results up to s. So on resuming
from it no line is missing, and the later ones are dropped.
"""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from orthoptax.train import processes, results


def _home(folder: Path, run: results.Run) -> Path:
    name = f"{_file_name(run.optimizer)}-{run.learning_rate!r}-{run.seed}"
    return folder.absolute() / "checkpoint" / name


def _file_name(optimizer: str) -> str:
    """A name as it is; for a chain, which may be long, its hash."""
    plain = re.fullmatch(r"[\w-]{1,64}", optimizer) is not None
    return optimizer if plain else hashlib.sha256(optimizer.encode()).hexdigest()[:16]


def save(folder: Path, run: results.Run, state: Any) -> None:
    """Checkpoints the state under its step, then removes the one before."""
    home = _home(folder, run)
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(
            home / str(int(state.step)), args=ocp.args.StandardSave(state)
        )
    if not processes.is_first():
        return
    for other in home.iterdir():
        if other.name != str(int(state.step)):
            shutil.rmtree(other)


def restore(folder: Path, run: results.Run, like: Any) -> Any | None:
    """The last state of a run, None if there is none; drops lines that are later.

    `like` is the state as shapes. What has no sharding there goes to the first device,
    wherever it was before.
    """
    home = _home(folder, run)
    names = [p.name for p in home.iterdir()] if home.exists() else []
    steps = [int(name) for name in names if name.isdigit()]
    last = max(steps, default=-1)
    results.drop_later(folder, run, last)
    if not steps:
        return None
    alone = SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=alone if x.sharding is None else x.sharding
        ),
        like,
    )
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(
            home / str(last), args=ocp.args.StandardRestore(like)
        )


def forget(folder: Path, run: results.Run) -> None:
    """Removes the checkpoints of a run that is complete."""
    if processes.is_first():
        shutil.rmtree(_home(folder, run), ignore_errors=True)
