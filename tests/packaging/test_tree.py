# SPDX-License-Identifier: Apache-2.0
"""What the tree may and may not hold."""

import os
import pathlib

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ("orthoptax", "tests", "benchmarks", "notebooks", ".ci")
TEXT = {".py", ".toml", ".md", ".cff", ".txt", ".yaml", ".yml", ".json", ".cfg", ""}
LOCK_FILES = ("*.lock", "pylock*.toml", "*-lock.json")
# In two pieces, so that this file does not hold what it looks for.
REGISTRY_HOSTS = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org"]
MACHINE_PATHS = ["/" + "work/", "/" + "root/"]


def files():
    """Every file that could be committed: no tool's leavings, no environment."""
    for folder, folders, names in os.walk(TREE):
        folders[:] = [
            name
            for name in folders
            if name not in ("__pycache__", "build", "dist", "results")
            and (name == ".ci" or not name.startswith("."))
        ]
        yield from (pathlib.Path(folder, name) for name in names)


def texts():
    """The files read as text, with what they say."""
    for path in files():
        if path.suffix in TEXT:
            yield path.relative_to(TREE), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", SOURCES)
def test_every_source_file_names_its_licence(folder):
    sources = sorted((TREE / folder).rglob("*.py"))
    assert sources, f"no source in {folder}"
    unmarked = [
        str(path.relative_to(TREE))
        for path in sources
        if "# SPDX-License-Identifier: Apache-2.0"
        not in path.read_text(encoding="utf-8").splitlines()[:20]
    ]
    assert unmarked == []


def test_licence_is_the_whole_of_apache_2():
    text = (TREE / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License")
    assert "9. Accepting Warranty or Additional Liability." in text


def test_no_lock_file():
    leftovers = {TREE / ".venv.lock"}
    locks = [
        path
        for path in set(files()) - leftovers
        if any(path.match(pattern) for pattern in LOCK_FILES)
    ]
    assert locks == []


def test_no_registry_host_and_no_path_of_a_machine():
    found = [
        (str(path), word)
        for path, text in texts()
        for word in REGISTRY_HOSTS + MACHINE_PATHS
        if word in text
    ]
    assert found == []
