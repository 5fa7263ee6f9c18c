# SPDX-License-Identifier: Apache-2.0
"""The results folder: what a comparison writes, and how it survives being killed.

    manifest.json   versions, seeds, configuration, hash of the data; written first
    curves.jsonl    a line for every evaluation
    timing.jsonl    the same evaluations by the clock; the only file that may differ
    checkpoint/     the state of the run in progress; removed at the end

Files are replaced whole, never appended to, so each is complete at any moment. Of
several processes (`processes.py`), which see one folder, the first alone writes.
"""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from orthoptax.train import processes
from orthoptax.train.config import UsageError

Row = dict[str, Any]


class Run(NamedTuple):
    """What tells one training run from another."""

    optimizer: str
    learning_rate: float
    seed: int


def begin(folder: Path, manifest: Row, resume: bool) -> None:
    """Makes the folder, or checks that what it holds can be continued.

    Raises: UsageError if it holds anything and `resume` is not set, or holds the
      results of another configuration.
    """
    if not processes.is_first():  # it has looked, and may write now
        multihost_utils.sync_global_devices("manifest")
        return
    _begin(folder, manifest, resume)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("manifest")


def _begin(folder: Path, manifest: Row, resume: bool) -> None:
    path = folder / "manifest.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"'{folder}' is a file", "a folder", "Change --out") from None
    names = {p.name for p in folder.iterdir()} - {
        _temporary(path).name,
        processes.ALIVE,
    }
    if names and not resume:
        raise UsageError(
            f"results folder '{folder}' is not empty",
            "a new or empty folder",
            "Add --resume to continue or to see its table, or change --out",
        )
    if names and not path.exists():
        raise UsageError(
            f"'{folder}' holds files but no manifest.json",
            "a folder that compare has written",
            "Change --out",
        )
    if path.exists():
        _check_same(json.loads(path.read_text()), manifest)
    else:
        write(path, json.dumps(manifest, indent=2) + "\n")


def _check_same(old: Row, new: Row) -> None:
    before, now = _flat(old), _flat(new)
    changes = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise UsageError(
            f"--resume with a changed configuration: {'; '.join(changes)}",
            "the configuration that the folder was begun with",
            "Restore it, or change --out",
        )


def _flat(tree: Row, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value)
    return flat


def row(
    run: Run, step: int, train: float | None, validation: float, diverged: int | None
) -> Row:
    """One evaluation; a loss that is not finite is null, as JSON has no word for it."""
    finite = train is not None and math.isfinite(train)
    return run._asdict() | {
        "step": step,
        "train_loss": train if finite else None,
        "validation_loss": validation if math.isfinite(validation) else None,
        "diverged_at": diverged,
    }


def record(folder: Path, row: Row, seconds: float) -> None:
    """Adds an evaluation, and the seconds its training took."""
    key = {name: row[name] for name in (*Run._fields, "step")}
    _add(folder / "timing.jsonl", key | {"seconds": seconds})
    _add(folder / "curves.jsonl", row)


def record_compilation(folder: Path, optimizer: str, seconds: float) -> None:
    """Adds the seconds that compiling took, unless there since before a resumption."""
    rows = read(folder / "timing.jsonl")
    if not any("compile" in r and r["optimizer"] == optimizer for r in rows):
        _add(folder / "timing.jsonl", {"optimizer": optimizer, "compile": seconds})


def read(path: Path) -> list[Row]:
    """The rows of a JSON-lines file, none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole, or leaves the one that was there."""
    if not processes.is_first():
        return
    encoded = content.encode() if isinstance(content, str) else content
    _temporary(path).write_bytes(encoded)
    os.replace(_temporary(path), path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _write_rows(path: Path, rows: list[Row]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _add(path: Path, row: Row) -> None:
    _write_rows(path, [*read(path), row])


def drop_later(folder: Path, run: Run, step: int) -> None:
    """Removes the lines of a run that lie after a step."""
    for path in (folder / "timing.jsonl", folder / "curves.jsonl"):
        rows = read(path)
        kept = [row for row in rows if not _is(run, row) or row["step"] <= step]
        if kept != rows:
            _write_rows(path, kept)


def of(run: Run, rows: list[Row]) -> list[Row]:
    """The rows of one run."""
    return [row for row in rows if _is(run, row)]


def _is(run: Run, row: Row) -> bool:
    return all(row.get(key) == value for key, value in run._asdict().items())


def is_complete(run: Run, rows: list[Row], steps: int) -> bool:
    """Whether a run has reached its last step or diverged."""
    return any(
        row["step"] == steps or row["diverged_at"] is not None for row in of(run, rows)
    )


def finish(folder: Path) -> None:
    """Removes what only an unfinished comparison needs."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    for path in folder.glob(".*.tmp"):
        path.unlink()
