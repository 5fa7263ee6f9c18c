# SPDX-License-Identifier: Apache-2.0
"""Reads recorded cases and replays them; knows nothing of any algorithm.

A case is `<stem>.json` (algorithm, hyperparameters, tolerances) beside `<stem>.npz`
(float64 arrays). The other modules of this folder turn the json into something to run.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

DATA = pathlib.Path(__file__).parent / "data"


class Fields:
    """A json object that must be read whole: what is left over is an error."""

    def __init__(self, values: dict[str, Any], where: str):
        self._left, self._where = dict(values), where

    def take(self, *names: str, default: Any = ...) -> Any:
        """The value under whichever of the names is there."""
        found = [n for n in names if n in self._left]
        if not found and default is not ...:
            return default
        if len(found) != 1:
            raise KeyError(f"{self._where}: expected one of {names}, found {found}")
        return self._left.pop(found[0])

    def done(self) -> None:
        """Raises if something was not read."""
        if self._left:
            raise KeyError(f"{self._where}: unknown keys {sorted(self._left)}")


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded case."""

    path: pathlib.Path

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz")) as data:
            return dict(data)

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays under 'prefix/', by what follows."""
        return {
            k.removeprefix(prefix + "/"): v
            for k, v in self.arrays.items()
            if k.startswith(prefix + "/")
        }

    @property
    def fields(self) -> Fields:
        """The hyperparameters, to be read whole."""
        return Fields(self.meta["hyperparameters"], str(self.path.name))

    @property
    def steps(self) -> int:
        """How many updates were recorded; 0 for a pure function."""
        return max(
            (int(k.split("/")[1]) for k in self.arrays if k[:5] == "grad/"), default=0
        )

    def dtypes(self) -> list[str]:
        """The precisions this case has tolerances for."""
        words = ("rtol_float32", "atol_float32", "float32_deviation")
        single = any(self.meta.get(word) is not None for word in words)
        return ["float64", "float32"] if single else ["float64"]

    def tolerance(self, dtype: str) -> dict[str, float]:
        """rtol and atol at this precision, as recorded."""
        suffix = "" if dtype == "float64" else "_float32"
        return {k: float(self.meta.get(k + suffix, 0.0)) for k in ("rtol", "atol")}


def cases() -> list[Case]:
    """Every case under the folder, which ORTHOPTAX_GOLDEN may name."""
    folder = pathlib.Path(os.environ.get("ORTHOPTAX_GOLDEN", DATA))
    found = [Case(path) for path in sorted(folder.rglob("*.json"))]
    if not found:
        raise FileNotFoundError(f"no golden cases under {folder}")
    return found


def close(got: Any, want: np.ndarray, what: str, rtol: float, atol: float) -> None:
    """|got - want| <= atol + rtol |want|, compared in float64."""
    got = np.asarray(got, dtype=want.dtype)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, recorded {want.shape}"
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=what)


@dataclasses.dataclass(frozen=True)
class Run:
    """An optimizer, and what a case records beside its parameters.

    Args:
      tx: the optimizer.
      prepare: (state, case, dtype) -> state: puts recorded draws into the first state.
      observe: (state before, state after, updates) -> {kind: {leaf: value}}: what to
        hold against 'extra/<t>/<kind>/<leaf>' wherever that was recorded.
    """

    tx: optax.GradientTransformation
    prepare: Callable[[Any, Case, str], Any] = lambda state, case, dtype: state
    observe: Callable[[Any, Any, Any], dict[str, dict[str, Any]]] = lambda *_: {}


def replay_steps(run: Any, case: Case, dtype: str) -> None:
    """Every recorded step, each from our own previous parameters."""
    run = run if isinstance(run, Run) else Run(run)
    cast = lambda tree: {k: jax.numpy.asarray(v, dtype) for k, v in tree.items()}
    params = cast(case.group("param"))
    state = run.prepare(run.tx.init(params), case, dtype)
    update = jax.jit(run.tx.update)
    seen = set()
    for t in range(1, case.steps + 1):
        before = state
        updates, state = update(cast(case.group(f"grad/{t}")), state, params)
        params = optax.apply_updates(params, updates)
        after = case.group(f"after/{t}")
        assert set(params) == set(after)
        for name, want in after.items():
            close(params[name], want, f"step {t}, {name}", **case.tolerance(dtype))
        for kind, values in run.observe(before, state, updates).items():
            for name, want in case.group(f"extra/{t}/{kind}").items():
                what = f"step {t}, {kind}, {name}"
                close(values[name], want, what, **case.tolerance(dtype))
                seen.add(kind)
    recorded = {k.split("/")[2] for k in case.arrays if re.match("extra/[1-9]", k)}
    assert seen == recorded, f"recorded {recorded}, held against ours {seen}"


def replay_function(function: Any, case: Case, dtype: str) -> None:
    """Every recorded input through a pure function of one array."""
    inputs, outputs = case.group("in"), case.group("out")
    assert inputs
    assert set(inputs) == set(outputs)
    for name, want in outputs.items():
        got = jax.jit(function)(jax.numpy.asarray(inputs[name], dtype))
        close(got, want, name, **case.tolerance(dtype))
