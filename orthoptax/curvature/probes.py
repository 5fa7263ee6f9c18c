# SPDX-License-Identifier: Apache-2.0
"""Random vectors with independent entries of mean 0 and variance 1."""

import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.typing import DTypeLike

from orthoptax._axes import Axes, as_varying, names_of, varying


class Site(NamedTuple):
    """Which draw is asked for.

    leaf: path of the parameter; static. step: completed updates; traced. sample: which
    probe of this estimate, from 0; traced.
    """

    leaf: str
    step: jax.Array
    sample: jax.Array


Probe = Callable[[jax.Array, tuple[int, ...], Any, Site], jax.Array]
"""probe(key, shape, dtype, site): one leaf of a probe; `site` is for recorded draws."""


def rademacher(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, site: Site
) -> jax.Array:
    """+1 or -1, evenly: of all probes that with the least variance.

        Var d_i = sum_(j != i) H_ij^2 / n          exact where H is diagonal

    Args:
      key: typed, of this leaf and sample alone.
      shape: of the leaf.
      dtype: of the leaf.
      site: not used.
    Returns: an array of that shape and dtype.
    Example:
      >>> z = rademacher(jax.random.key(0), (4,), jnp.float32, None)
      >>> jnp.abs(z).tolist()
      [1.0, 1.0, 1.0, 1.0]

    Source: Hutchinson, 1989; Yao et al., AdaHessian, arXiv:2006.00719.
    """
    del site
    return jax.random.rademacher(key, shape, dtype)


def normal(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, site: Site
) -> jax.Array:
    """Gaussian entries: 2 H_ii^2 / n more variance than `rademacher`.

    Args:
      key: typed, of this leaf and sample alone.
      shape: of the leaf.
      dtype: of the leaf.
      site: not used.
    Returns: an array of that shape and dtype.
    Example:
      >>> normal(jax.random.key(0), (2,), jnp.float32, None).shape
      (2,)

    Source: Liu et al., Sophia, arXiv:2305.14342, Algorithm 1.
    """
    del site
    return jax.random.normal(key, shape, dtype)


def codes(paths: Iterable[str]) -> dict[str, int]:
    """A number for each path, the same whatever other leaves there are."""
    found: dict[str, int] = {}
    for path in paths:
        word = path
        while (code := zlib.crc32(word.encode())) in found.values():
            word += "'"  # two paths of one checksum
        found[path] = code
    return found


def draw(
    probe: Probe,
    key: jax.Array,
    params: dict[str, Any],
    step: Any,
    sample: Any,
    replicas: Axes = None,
) -> dict[str, jax.Array]:
    """A probe for every leaf, each from a key of its own, lying where the leaf lies.

    Leaves that `shard_map` knows to be parts get a probe for each part. Equal probes of
    two leaves, or of two parts, would add the block between them to the diagonal.

    Args:
      probe: the distribution.
      key: typed, of this estimate.
      params: {path: leaf}.
      step: completed updates.
      sample: which probe of this estimate.
      replicas: axes over which the parameters are the same, and so are the probes.
    """
    drawn = {}
    for path, code in codes(params).items():
        p = params[path]
        own = jax.random.fold_in(jax.random.fold_in(key, code), sample)
        for axis in sorted(varying(p) - set(names_of(replicas))):
            own = jax.random.fold_in(own, lax.axis_index(axis))
        z = jnp.asarray(probe(own, p.shape, p.dtype, Site(path, step, sample)))
        drawn[path] = beside(z.astype(p.dtype), p)
    return drawn


def beside(z: jax.Array, p: jax.Array) -> jax.Array:
    """An array of a leaf's shape, placed and marked as the leaf is."""
    sharding = getattr(jax.typeof(p), "sharding", None)
    if sharding is not None and AxisType.Explicit in set(sharding.mesh.axis_types):
        z = jax.sharding.reshard(z, sharding)
    return as_varying(z, varying(p))
