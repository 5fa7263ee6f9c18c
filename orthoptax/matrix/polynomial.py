# SPDX-License-Identifier: Apache-2.0
"""A polynomial of a positive matrix that moves its largest eigenvalues together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from orthoptax._check import is_callable, message
from orthoptax._dtypes import wider, work_dtype


def elementary_symmetric(power_sums: jax.Array) -> jax.Array:
    """e_0 ... e_k of numbers of which the sums of powers 1 ... k are known.

        e_0 = 1;   i e_i = sum_{j=1..i} (-1)^(j-1) e_{i-j} p_j      Newton's identities

    Args:
      power_sums: p_1 ... p_k; for the eigenvalues of B they are tr(B^j).
    Returns: k + 1 numbers in float32 or wider.
    Example:
      >>> elementary_symmetric(jnp.asarray([5.0, 13.0])).tolist()  # of 2 and 3
      [1.0, 5.0, 6.0]

    Source: Newton, 1707.
    """
    p = power_sums.astype(work_dtype(power_sums.dtype))
    e = [jnp.ones((), p.dtype)]
    for i in range(1, len(p) + 1):
        terms = [(-1) ** (j - 1) * e[i - j] * p[j - 1] for j in range(1, i + 1)]
        e.append(jnp.sum(jnp.stack(terms)) / i)
    return jnp.stack(e)


def precondition_with(
    matvec: Callable[[Any], Any], power_sums: jax.Array, x: Any
) -> Any:
    """P_k x, for the polynomial of B whose degree k is the number of power sums.

        P_k x = sum_{j=0..k} (-1)^j e_{k-j} B^j x

    The eigenvalue of P_k at one of B is the sum of all products of k others, so that
    P_k B has the k largest gaps of B's spectrum closed; P_(n-1) is det(B) B^-1.

    Args:
      matvec: x -> B x, B symmetric and positive semidefinite.
      power_sums: tr(B), tr(B^2), ... tr(B^k).
      x: an array, or a tree of arrays as `matvec` takes it.
    Returns: like x; in float32 or wider. Not divided by e_k, so it grows as B^k.
    Raises: TypeError if `matvec` is not a function; ValueError unless the sums are a
      vector.
    Example:
      >>> b = jnp.asarray([2.0, 3.0])
      >>> precondition_with(lambda x: b * x, jnp.asarray([5.0]), jnp.ones(2)).tolist()
      [3.0, 2.0]

    Source: Doikov and Rodomanov, Polynomial Preconditioning for Gradient Methods,
      arXiv:2301.13194.
    """
    is_callable("precondition_with", "matvec", matvec, "lambda x: b @ x")
    if power_sums.ndim != 1:
        raise ValueError(
            message(
                "precondition_with",
                f"power_sums of shape {power_sums.shape} are no vector",
                "tr(B), tr(B^2), ...",
                "Pass as many as the degree is",
            )
        )
    e = elementary_symmetric(power_sums)
    degree = len(power_sums)

    def scaled(x: jax.Array, j: int) -> jax.Array:
        work = wider(x.dtype, work_dtype(x.dtype))
        return (-1) ** j * e[degree - j].astype(work) * x.astype(work)

    result = jax.tree.map(lambda x: scaled(x, 0), x)
    for j in range(1, degree + 1):
        x = matvec(x)
        result = jax.tree.map(lambda r, x, j=j: r + scaled(x, j), result, x)
    return result
