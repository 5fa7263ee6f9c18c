# SPDX-License-Identifier: Apache-2.0
"""What pip reads: the version, the run-time dependencies, floors and no caps."""

import importlib.metadata
import pathlib
import re
import tomllib

import pytest

import orthoptax

TREE = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
RUN_TIME = {"jax": "0.8.2", "numpy": "2.0", "optax": "0.2.7", "typing_extensions": None}
EVERYTHING = PROJECT["dependencies"] + [
    requirement
    for extra in PROJECT["optional-dependencies"].values()
    for requirement in extra
]


def name_and_floor(requirement):
    """`jax>=0.8.2` is ("jax", "0.8.2"); anything but a floor does not parse."""
    parsed = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", requirement)
    assert parsed, f"{requirement!r} is more than a name and a floor"
    return parsed.groups()


def test_installed_version_is_the_one_in_the_source():
    assert importlib.metadata.version("orthoptax") == orthoptax.__version__


def test_citation_names_the_version_in_the_source():
    version = re.search(r"^version: (.+)$", (TREE / "CITATION.cff").read_text(), re.M)
    assert version[1] == orthoptax.__version__


def test_run_time_dependencies_are_exactly_these():
    assert dict(map(name_and_floor, PROJECT["dependencies"])) == RUN_TIME


@pytest.mark.parametrize("requirement", EVERYTHING)
def test_no_requirement_has_a_cap(requirement):
    name_and_floor(requirement)


def test_python_has_a_floor_and_no_cap():
    assert PROJECT["requires-python"] == ">=3.11"


def test_oldest_lane_installs_the_floors():
    pins = (TREE / ".ci" / "oldest.txt").read_text().splitlines()
    floors = {f"{name}=={floor}" for name, floor in RUN_TIME.items() if floor}
    assert floors <= set(pins)


def test_forwarding_extras_only_forward():
    forwarded = {name: [f"jax[{name}]"] for name in ("cuda12", "cuda13", "tpu")}
    assert forwarded.items() <= PROJECT["optional-dependencies"].items()


def test_the_package_says_that_it_is_typed():
    assert (pathlib.Path(orthoptax.__file__).parent / "py.typed").exists()
