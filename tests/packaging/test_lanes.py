# SPDX-License-Identifier: Apache-2.0
"""The lanes of `.ci/run`: their minutes, what is said of them, how failures end."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = (TREE / ".ci" / "run").read_text()
TABLE = re.search(r"^LANES='\n(.*?)^'$", SCRIPT, re.M | re.S)[1]
MINUTES = {
    name: int(count) for name, count in re.findall(r"^(\w+) +(\d+) ", TABLE, re.M)
}
LIMIT = 90


def test_every_line_of_the_table_is_a_lane():
    assert len(MINUTES) == len(TABLE.splitlines())
    assert set(re.findall(r"^lane_(\w+)\(\)", SCRIPT, re.M)) == set(MINUTES)


def test_all_lanes_fit_in_one_run():
    assert sum(MINUTES.values()) <= LIMIT


def test_contributing_gives_the_same_minutes():
    text = (TREE / "CONTRIBUTING.md").read_text()
    told = re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.M)
    assert {name: int(count) for name, count in told} == MINUTES


def ci(tree, *lanes):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["bash", ".ci/run", *lanes], cwd=tree, env=env, capture_output=True, text=True
    )


@pytest.fixture
def toy(tmp_path):
    """A tree whose `make lint` fails and whose `make types` passes."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(TREE / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text("lint:\n\tfalse\ntypes:\n\techo typed\n")
    return tmp_path


def test_failed_lane_is_reported_and_the_others_still_run(toy):
    ran = ci(toy, "lint", "types")
    assert ran.returncode == 1
    assert "typed" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "failed: lint"


def test_passing_lanes_end_well(toy):
    ran = ci(toy, "types")
    assert ran.returncode == 0
    assert re.search(r"^types +\d+ s of +\d+ min   ok$", ran.stdout, re.M)


def test_lane_that_takes_too_long_is_ended(toy):
    script = toy / ".ci" / "run"
    script.write_text(script.read_text().replace('"${limit}m"', "1s"))
    (toy / "Makefile").write_text("lint:\n\tsleep 60\ntypes:\n\techo typed\n")
    ran = ci(toy, "lint", "types")
    assert ran.returncode == 1
    assert "out of time" in ran.stdout
    assert "typed" in ran.stdout


def test_unknown_lane_is_named_beside_the_known_ones(toy):
    ran = ci(toy, "lint", "tpyes")
    assert ran.returncode == 2
    assert "no lane 'tpyes'" in ran.stderr
    assert "types" in ran.stderr
