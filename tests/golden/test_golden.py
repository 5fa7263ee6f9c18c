# SPDX-License-Identifier: Apache-2.0
"""Parity with numbers recorded from the authors' own code, every step of every case."""

import contextlib
import importlib
import pathlib
import pkgutil
from typing import Any

import jax
import pytest

from tests.golden.replay import Case, cases, close, replay_function, replay_steps


def table(name: str) -> dict[str, Any]:
    """The dictionaries of this name in all modules of this folder, as one."""
    merged: dict[str, Any] = {}
    for found in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]):
        if not found.name.startswith("test_"):
            part = getattr(
                importlib.import_module(f"tests.golden.{found.name}"), name, {}
            )
            assert not merged.keys() & part.keys(), found.name
            merged |= part
    return merged


OPTIMIZERS = table("OPTIMIZERS")  # algorithm: case -> optimizer, or a `Run` of it
KERNELS = table("KERNELS")  # algorithm: case -> function of one array
REPLAYS = table("REPLAYS")  # algorithm: (case, dtype) -> None, for all other records


def runs() -> list:
    """Every case in every precision; float32 is slow, as it compiles all again."""
    slow = {"float64": [], "float32": [pytest.mark.slow]}
    return [
        pytest.param(
            case,
            dtype,
            id=f"{case.path.stem}-{dtype}",
            marks=slow[dtype],
        )
        for case in cases()
        for dtype in case.dtypes()
    ]


@pytest.mark.parametrize(("case", "dtype"), runs())
def test_parity(case: Case, dtype: str):
    algorithm = case.meta["algorithm"]
    x64 = jax.enable_x64(dtype == "float64")
    with x64 if dtype == "float64" else contextlib.nullcontext():
        if algorithm in REPLAYS:
            REPLAYS[algorithm](case, dtype)
        elif case.steps:
            replay_steps(OPTIMIZERS[algorithm](case), case, dtype)
        else:
            replay_function(KERNELS[algorithm](case), case, dtype)


def test_an_unknown_algorithm_or_key_fails(tmp_path):
    (tmp_path / "case.json").write_text(
        '{"algorithm": "muon", "variant": "torch.optim.Muon", '
        '"hyperparameters": {"lr": 1.0, "surprise": 2}}'
    )
    case = Case(tmp_path / "case.json")
    with pytest.raises(KeyError, match="surprise"):
        case.fields.done()
    with pytest.raises(KeyError):
        OPTIMIZERS[case.meta["algorithm"]](case)


def test_a_difference_beyond_the_tolerance_fails():
    case = next(c for c in cases() if c.steps)
    (want,) = list(case.group("after/1").values())[:1]
    with pytest.raises(AssertionError, match="leaf"):
        close(want * (1 + 1e-6), want, "leaf", **case.tolerance("float64"))
