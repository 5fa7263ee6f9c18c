# SPDX-License-Identifier: Apache-2.0
"""A folder of text as two arrays of bytes, split by the hash of each file.

Files are ordered by the hash of their content, so neither names nor the folder's place
matter, and equal files count once, so none is in both parts.
"""

import hashlib
import math
import os
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from orthoptax.train.config import UsageError

VALIDATION = 0.05  # of the files, those of the smallest hashes; at least one
ALONE = 0.9  # of a single file, the part to train on
SKIPPED = ("site-packages", "dist-packages", "__pycache__")


class Corpus(NamedTuple):
    """Bytes to train and to validate on, the number of files, a hash of it all."""

    train: np.ndarray
    validation: np.ndarray
    files: int
    sha256: str


def read(folder: Path | None) -> Corpus:
    """The corpus in a folder; in the standard library's .py files for None.

    Raises: UsageError if the folder does not exist or holds no text.
    """
    if folder is None:
        library = Path(sysconfig.get_paths()["stdlib"])
        return split(_contents(library, suffix=".py"))
    if not folder.is_dir():
        raise UsageError(
            f"data folder '{folder}' does not exist",
            "a folder of text files",
            "Change --data, or leave it out to use the standard library",
        )
    corpus = split(_contents(folder))
    if not corpus.files:
        raise UsageError(
            f"data folder '{folder}' holds no text",
            "at least one file that is not empty and has no zero byte",
            "Change --data, or leave it out to use the standard library",
        )
    return corpus


def _contents(folder: Path, suffix: str = "") -> Iterator[bytes]:
    """The text files below a folder; hidden ones and installed packages left out."""
    for root, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f not in SKIPPED and f[0] != "."]
        for path in (Path(root, name) for name in names if name[0] != "."):
            if path.suffix == suffix or (not suffix and path.is_file()):
                content = path.read_bytes()
                if content and b"\0" not in content:
                    yield content


def split(contents: Iterable[bytes]) -> Corpus:
    """Splits files by the hash of their content: the smallest hashes validate."""
    files = {hashlib.sha256(content).digest(): content for content in contents}
    total = hashlib.sha256(b"".join(sorted(files))).hexdigest()
    ordered = [files[digest] for digest in sorted(files)]
    if len(ordered) == 1:
        cut = int(ALONE * len(ordered[0]))
        ordered = [ordered[0][cut:], ordered[0][:cut]]
    held = math.ceil(VALIDATION * len(ordered))
    train, validation = b"".join(ordered[held:]), b"".join(ordered[:held])
    return Corpus(
        np.frombuffer(train, np.uint8),
        np.frombuffer(validation, np.uint8),
        len(files),
        total,
    )


def check_length(corpus: Corpus, length: int) -> None:
    """Raises UsageError if a part is shorter than one window."""
    for part in ("train", "validation"):
        size = getattr(corpus, part).size
        if size <= length:
            raise UsageError(
                f"the {part} part of the data has {size} bytes",
                f"more than {length}, one window of the model",
                "Add text to --data",
            )


def batch(data: np.ndarray, seed: int, step: int, shape: tuple[int, int]) -> np.ndarray:
    """The (batch, length + 1) bytes of a step: a function of its arguments alone."""
    starts = np.random.default_rng((seed, step)).integers(
        data.size - shape[1], size=shape[0]
    )
    return data[starts[:, None] + np.arange(shape[1] + 1)]


def windows(data: np.ndarray, count: int, length: int) -> np.ndarray:
    """`count` windows of length + 1 bytes, evenly spaced over the data."""
    starts = np.linspace(0, data.size - length - 1, count).astype(np.int64)
    return data[starts[:, None] + np.arange(length + 1)]


def zlib_bits(data: np.ndarray) -> float:
    """Bits a byte that zlib at level 9 needs for the data."""
    return 8 * len(zlib.compress(data.tobytes(), 9)) / data.size
