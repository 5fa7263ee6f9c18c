# SPDX-License-Identifier: Apache-2.0
"""`python -m orthoptax plan`: what it prints, how fast, and its one-line errors."""

import json
import time

import pytest

from orthoptax.sharding.planning.models import MODELS
from orthoptax.train.main import main
from orthoptax.train.plan import PlanSettings, mesh_sizes, planned
from tests.conformance.discovery import placed

SMALL = '{"mlp/up/kernel": [64, 256], "mlp/down/kernel": [256, 64], "mlp/bias": [64]}'
FAST = 20  # seconds


@pytest.fixture
def shapes(tmp_path):
    path = tmp_path / "shapes.json"
    path.write_text(SMALL)
    return path


def test_the_table_names_every_column_and_marks_the_cheapest(capsys):
    words = "plan --model gpt2-small --mesh fsdp=16,tp=4 --hardware v5e"
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    columns = "placement|result MB|ring MB|collectives|GFLOP|temp. MB|padding MB"
    for column in (*columns.split("|"), "work / mean", "predicted ms"):
        assert column in out
    assert out.startswith("64 x v5e (fsdp=16, tp=4)")
    assert "* whole matrices" in out
    assert "left to the compiler" in out
    assert "48 matrices for 64 devices: at most 48 of 64 busy" in out


def test_json_holds_the_formulas(capsys, shapes):
    words = f"plan --shapes {shapes} --mesh dp=2 --json --dtype bfloat16"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)
    here, whole, *_ = found["placements"]
    # Of one of the two, in float32: two long products and 13 small ones, see `auto`.
    flops = 2 * (2 * 64 * 64 * 256 + 13 * 64**3)
    assert (found["mesh"], found["hardware"]) == ({"dp": 2}, "v5p")
    assert (here["result_bytes"], here["flops"]) == (0, 2 * flops)
    assert (whole["result_bytes"], whole["flops"]) == (2 * 64 * 256 * 2, flops)
    assert (whole["collectives"], whole["padding_bytes"]) == (1, 0)
    assert whole["seconds"] == flops / (459e12 / 6) + 64 * 256 * 2 / 180e9


@pytest.mark.slow
def test_405_billion_parameters_on_4096_chips_take_seconds():
    start = time.monotonic()
    best = planned(PlanSettings("fsdp=512,tp=8", "llama3-405b", optimizer="normuon"))
    assert time.monotonic() - start < FAST
    whole = best.candidates[1].cost
    assert best.chosen.name == "whole matrices"
    assert len(whole.collectives) == 2
    largest = 16384 * 53248 * 4  # every chunk is as large as that of its owner
    rows = 16384 * 4096 * 4  # of the state one number a row, in pieces of 4096
    assert 2 * largest < whole.result_bytes <= 2 * (largest + rows)
    shards = 126 * (2 * 16384**2 + 2 * 16384 * 1024 + 3 * 16384 * 53248) * 4 / 4096
    assert whole.floor == 2 * shards
    assert "882 matrices for 4096 devices: at most 882 of 4096 busy" in str(best)


@pytest.mark.parametrize("name", placed())
def test_every_optimizer_of_matrices_can_be_planned(name, shapes):
    best = planned(PlanSettings("fsdp=4,tp=2", shapes=shapes, optimizer=name))
    updates = 2 * 64 * 256 * 4
    assert best.candidates[1].cost.result_bytes >= 2 * updates / 8


LARGE = {"deepseek-v3-like", "llama3-405b", "llama3-70b", "gpt2-xl", "gpt2-large"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in MODELS]
)
def test_every_model_can_be_planned(name):
    best = planned(PlanSettings("dp=2,fsdp=4", name, stacked=True))
    costs = {c.name: c.cost for c in best.candidates if c.cost is not None}
    every, again = costs["whole matrices"], costs["whole matrices over fsdp"]
    assert again.mean_flops == pytest.approx(2 * every.mean_flops)


def test_transport_halves_the_bytes():
    exact, half = (
        planned(PlanSettings("fsdp=8", "gpt2-small", transport=word)).candidates[1].cost
        for word in (None, "bfloat16")
    )
    assert exact.result_bytes == 2 * half.result_bytes


def test_a_mesh_is_read_in_its_order():
    assert list(mesh_sizes("tp=8, fsdp=512").items()) == [("tp", 8), ("fsdp", 512)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--mesh fsdp", "'fsdp' cannot be read at 'fsdp'. Expected axis=size, separ"),
        ("--mesh fsdp=8;tp=2", "cannot be read at 'fsdp=8;tp=2'"),
        ("--mesh fsdp=8,", "cannot be read at ''"),
        ("--mesh fsdp=0", "has 'fsdp' of size 0. Expected each axis once, with one"),
        ("--mesh fsdp=2,fsdp=4", "has 'fsdp' twice"),
        ("--mesh fspd=8", "mesh axis 'fspd' is unknown. Expected one of dp, expert, f"),
        ("--mesh fspd=8", "Did you mean 'fsdp'?"),
        ("--model gpt2-smal", "Did you mean 'gpt2-small'? Change --model"),
        ("--hardware v5", "hardware 'v5' is unknown. Expected one of a100, cpu, h100"),
        ("--optimizer muno", "Did you mean 'muon'? Change --optimizer"),
        ("--dtype float64", "dtype 'float64' is unknown. Expected one of bfloat16"),
        ("--transport int8", "transport 'int8' is unknown. Expected one of"),
        ("--shapes x.json", "both of --model and --shapes given. Expected one of them"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(words, expected, capsys):
    usual = {"--model": "gpt2-small", "--mesh": "fsdp=8"}
    option, value = words.split(" ")
    both = [word for pair in (usual | {option: value}).items() for word in pair]
    assert main(["plan", *both]) == 2
    output = capsys.readouterr()
    assert expected in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is neither a file nor JSON"),
        ('{"dense/kernel": [4, -1]}', "'dense/kernel' is [4, -1]. Expected positive"),
        ('{"dense/bias": [4]}', "brought no matrix to the place"),
        ('{"qkv/kernel": [4, 12]}', "could be several things. Expected one reading"),
    ],
)
def test_shapes_that_cannot_be_planned(text, expected, tmp_path, capsys):
    path = tmp_path / "shapes.json"
    path.write_text(text)
    assert main(["plan", "--mesh", "fsdp=2", "--shapes", str(path)]) == 2
    assert expected in capsys.readouterr().err


def test_neither_a_model_nor_shapes(capsys):
    assert main(["plan", "--mesh", "fsdp=2"]) == 2
    assert "neither of --model and --shapes given" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_command(run):
    status, output = run("plan", "--model", "gpt2-small", "--mesh", "tp=8")
    assert status == 0
    assert "* whole matrices" in output
