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
from collections.abc import Callable, Mapping
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

    def and_also(self, arrays: Mapping[str, np.ndarray]) -> "Case":
        """The case with more arrays."""
        other = Case(self.path)
        vars(other)["arrays"] = {**self.arrays, **arrays}
        return other

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

    def tolerance_of(self, dtype: str, name: str) -> dict[str, float]:
        """The same for a leaf of the parameters.

        Some files say how far float32 strayed from float64, as a fraction of the way
        that the leaf goes. Ten times that is allowed, and 1e-5 in any case.
        """
        if dtype == "float64" or "float32_deviation" not in self.meta:
            return self.tolerance(dtype)
        way = self.arrays[f"after/{self.steps}/{name}"] - self.arrays[f"param/{name}"]
        return {"rtol": 0.0, "atol": self.deviation * float(np.max(np.abs(way)))}

    @property
    def deviation(self) -> float:
        """What of float32 is allowed, as a fraction."""
        return max(10 * float(self.meta["float32_deviation"]), 1e-5)

    def tolerance_of_statistic(self, dtype: str) -> dict[str, float]:
        """The same for what was recorded beside the parameters."""
        if dtype == "float64" or "float32_deviation" not in self.meta:
            return self.tolerance(dtype)
        return {"rtol": self.deviation, "atol": self.deviation}


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
      extra: recorded arrays of the step, and of 'extra/0', -> extra arguments.
      objective: the same -> the loss as a function of the parameters. The case is then
        run from it alone: the recorded gradients are held against its own.
      inputs: the kinds that were recorded as input and are not held against ours.
      derived: 'extra/<t>/<kind>/<leaf>' worked out from what was recorded, to be taken
        as recorded too.
    """

    tx: optax.GradientTransformation
    prepare: Callable[[Any, Case, str], Any] = lambda state, case, dtype: state
    observe: Callable[[Any, Any, Any], dict[str, dict[str, Any]]] = lambda *_: {}
    extra: Callable[[dict[str, Any]], dict[str, Any]] = lambda recorded: {}
    objective: Callable[[dict[str, Any]], Callable[[Any], Any]] | None = None
    inputs: frozenset[str] = frozenset()
    derived: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def update(self, grads: Any, state: Any, params: Any, recorded: Any) -> Any:
        """(gradients, updates, state) of a step."""
        extra = self.extra(recorded)
        if self.objective is not None:
            fn = self.objective(recorded)
            value, grads = jax.value_and_grad(fn)(params)
            extra |= {"value": value, "obj_fn": fn, "grad_fn": jax.grad(fn)}
        tx = optax.with_extra_args_support(self.tx)
        return grads, *tx.update(grads, state, params, **extra)


def replay_steps(run: Any, case: Case, dtype: str) -> None:
    """Every recorded step, each from our own previous parameters."""
    run = run if isinstance(run, Run) else Run(run)
    case = case.and_also(run.derived)
    cast = lambda tree: {k: jax.numpy.asarray(v, dtype) for k, v in tree.items()}
    params = cast(case.group("param"))
    state = run.prepare(run.tx.init(params), case, dtype)
    update = jax.jit(run.update)
    seen = set(run.inputs)
    for t in range(1, case.steps + 1):
        before, given = state, cast(case.group(f"grad/{t}"))
        recorded = cast(case.group("extra/0") | case.group(f"extra/{t}"))
        grads, updates, state = update(given, state, params, recorded)
        for name, want in case.group(f"grad/{t}").items():
            what = f"step {t}, gradient, {name}"
            close(grads[name], want, what, **case.tolerance_of_statistic(dtype))
        params = optax.apply_updates(params, updates)
        after = case.group(f"after/{t}")
        assert set(params) == set(after)
        for name, want in after.items():
            allowed = case.tolerance_of(dtype, name)
            close(params[name], want, f"step {t}, {name}", **allowed)
        for kind, values in run.observe(before, state, updates).items():
            for name, want in case.group(f"extra/{t}/{kind}").items():
                what = f"step {t}, {kind}, {name}"
                close(values[name], want, what, **case.tolerance_of_statistic(dtype))
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
