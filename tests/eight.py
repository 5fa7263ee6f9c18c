# SPDX-License-Identifier: Apache-2.0
"""Programs that need a process of their own, with eight CPU devices.

The suite itself has eight devices (`conftest.py`), so that most tests need none of
this: it is for flags that must be set before jax starts.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]


def eight(program: str | pathlib.Path, *words: str, **env: str) -> Any:
    """What a Python program prints in its last line, which is JSON.

    Args:
      program: its source, or the path of a file.
      words: its arguments, `sys.argv[1:]`.
      env: more environment variables, such as XLA_FLAGS.
    """
    start = [str(program)] if isinstance(program, pathlib.Path) else ["-c", program]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *start, *words],
        env={**os.environ, **own, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    lines = done.stdout.strip().splitlines()
    assert lines, said
    return json.loads(lines[-1])
