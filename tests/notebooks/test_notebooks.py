# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs from top to bottom in a fresh kernel."""

import pathlib

import jupytext
import pytest
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


def test_the_promised_notebooks_are_there():
    promised = {"quick_start", "layouts", "recombine", "sharding", "curvature"}
    assert promised <= {path.stem for path in NOTEBOOKS}


@pytest.mark.slow  # two minutes; the lane `docs` runs them
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = jupytext.read(path)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 5
    assert all(cell.execution_count for cell in code)
