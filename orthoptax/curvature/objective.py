# SPDX-License-Identifier: Apache-2.0
"""The functions a caller hands to `update`: asked for, called, and their errors."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from orthoptax._check import is_callable, message

WHAT = {
    "obj_fn": "the loss as a function of the parameters",
    "logits_fn": "the model's outputs as a function of the parameters",
    "sample_fn": "labels drawn from the model, sample_fn(key, logits)",
    "nll_fn": "nll_fn(logits, labels) -> (mean negative log-likelihood, count)",
    "grad_fn": "the gradient as a function of the parameters",
    "value": "the loss at the parameters, a number",
    "hessian_diag": "an estimate of the Hessian's diagonal, like the parameters",
}
"""What each extra argument is, for error messages."""


def required(where: str, name: str, extra: Mapping[str, Any]) -> Any:
    """The extra argument of that name.

    Args:
      where: who asks.
      name: of the argument.
      extra: what `update` was called with.
    Raises: ValueError if it is missing, TypeError if it should be a function and is
      none; both name the call that supplies it.
    """
    call = f"Call tx.update(updates, state, params, {name}=...)"
    if extra.get(name) is None:
        raise ValueError(message(where, f"missing {name!r}", WHAT[name], call))
    if name.endswith("_fn"):
        is_callable(where, name, extra[name], "lambda params: ...")
    return extra[name]


def call(where: str, name: str, fn: Callable[..., Any], params: Any) -> Any:
    """fn(params), with what commonly goes wrong explained.

    Args:
      where: who calls.
      name: of the argument that `fn` came as.
      fn: the caller's function.
      params: parameters, some of which may be masked.
    Raises: ValueError for a function that uses a tracer of another trace; TypeError if
      it fails on a tree in which leaves are masked.
    """
    try:
        return fn(params)
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(
            message(
                where,
                f"{name} uses a value of another trace",
                "a function of the parameters and of values of this step",
                f"Make {name} inside the jitted step, from the batch that it takes",
            )
        ) from error
    except Exception as error:
        if getattr(fn, "on_full_params", False) or not masked(params):
            raise
        raise TypeError(
            message(
                where,
                f"{name} failed on parameters of which some are masked "
                f"({type(error).__name__}: {error})",
                f"{name} to fill them in",
                "With optax.masked or optax.partition pass "
                f"{name}=orthoptax.layout.on_full_params({name}, params)",
            )
        ) from error


def scalar(
    where: str, fn: Callable[..., Any], has_aux: bool | None
) -> Callable[..., Any]:
    """The objective as a function whose result is checked to be one real number.

    Args:
      where: who differentiates it.
      fn: the caller's `obj_fn`.
      has_aux: whether it returns (loss, anything); None: it may.
    Returns: a function of the parameters; the rest of the result is dropped.
    Raises: TypeError, while tracing, for another result.
    """

    def objective(params: Any) -> jax.Array:
        value = call(where, "obj_fn", fn, params)
        if has_aux or (has_aux is None and isinstance(value, tuple)):
            pair = isinstance(value, tuple) and len(value) == 2
            _expect(where, pair, value, "(loss, aux)", "Drop has_aux=True")
            value = value[0]
        _expect(
            where,
            not isinstance(value, tuple),
            value,
            "the loss alone",
            "Return the loss alone, or pass has_aux=True to the estimator",
        )
        single = jax.tree.structure(value) == jax.tree.structure(0)
        shape = jnp.shape(value) if single else None
        real = single and jnp.issubdtype(jnp.result_type(value), jnp.floating)
        fits = real and shape == ()
        _expect(where, fits, value, "one real number", "Take the mean of the losses")
        return value

    return objective


def masked(tree: Any) -> bool:
    """Whether leaves of a tree were left out, by `optax.masked` or the like."""
    is_masked = lambda x: isinstance(x, optax.MaskedNode)
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))


def _expect(where: str, fits: Any, value: Any, expected: str, action: str) -> None:
    """Raises TypeError unless it fits, saying what came."""
    if not fits:
        shapes = jax.tree.map(lambda x: f"{jnp.result_type(x)}{jnp.shape(x)}", value)
        came = f"obj_fn returned {shapes}"
        raise TypeError(message(where, came, expected, action))
