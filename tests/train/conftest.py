# SPDX-License-Identifier: Apache-2.0
"""The command line as a user runs it, and a small folder of text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """start(*words): the command in a process of its own, running."""
    compiled = str(tmp_path_factory.mktemp("compiled"))
    # One program is compiled once for many runs.
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": compiled}

    def start(*words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orthoptax", *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=pipe, stderr=pipe
        )

    return start


@pytest.fixture(scope="session")
def run(start):
    """run(*words): the exit status and all that the command printed."""

    def run(*words: object) -> tuple[int, str]:
        with start(*words) as process:
            output, errors = process.communicate(timeout=900)
        return process.returncode, output + errors

    return run


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A folder of files that differ from each other, 4 kilobytes each."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(8):
        words = " ".join(f"word{(i + 1) * j % 97}" for j in range(700))
        (folder / f"{i}.txt").write_text(words)
    return folder


@pytest.fixture(scope="session")
def contents():
    """contents(folder): every file of it, but the one a clock writes."""

    def contents(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "timing.jsonl"
        }

    return contents
