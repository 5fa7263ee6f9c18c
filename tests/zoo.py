# SPDX-License-Identifier: Apache-2.0
"""The trees that tests share: every role of a parameter, and matrices that are hard."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

SHAPES = {
    "square": {"kernel": (8, 8), "bias": (8,)},
    "tall": {"kernel": (4, 8)},  # (in, out): 8 rows, 4 columns
    "wide": {"kernel": (8, 4)},
    "row": {"kernel": (8, 1)},
    "blocks": {"up": {"kernel": (3, 8, 4), "bias": (3, 4)}},  # scanned: layers first
    "conv": {"kernel": (2, 2, 2, 8)},
    "attention": {"query": {"kernel": (8, 2, 4)}, "out": {"kernel": (2, 4, 8)}},
    "experts": {"up": {"kernel": (2, 8, 4)}},
    "embed": {"embedding": (10, 8)},
    "head": {"kernel": (8, 10)},
    "norm": {"scale": (8,)},
    "scale": (),
}
"""One leaf or more for each role that `layout.flax()` knows without being asked.

Few distinct matrix shapes, so that an optimizer compiles in a second. A fused
projection needs its sizes said, and so is in none of the tables' defaults.
"""

SMALL = {"tall": {"kernel": (4, 8)}, "square": {"bias": (8,)}}
"""A matrix and a bias: for laws in which roles do not matter."""

SHARDED = {"tall": {"kernel": (8, 16)}, "blocks": {"up": {"kernel": (8, 4, 8)}},
           "square": {"bias": (8,)}, "embed": {"embedding": (10, 8)}}  # fmt: skip
"""Leaves with an axis that eight devices divide."""

QUICKLY = {"xla_backend_optimization_level": 0}
"""`compiler_options` for tests whose time is the compilation of tiny programs."""

TOLERANCES = {
    "float64": 1e-12,  # a few hundred roundings of 1e-16, amplified by the iteration
    "float32": 2e-5,  # the same of 6e-8; Jordan's slope at 0, 3.4^5 = 485, amplifies
    "bfloat16": 2e-2,  # the result itself is rounded to 8 bits: 4e-3, twice or thrice
    "float16": 3e-3,  # to 11 bits: 5e-4
}
"""Relative to the largest entry of a leaf, for results of one or two steps."""


def tree(
    seed: int = 0, shapes: Any = None, dtype: DTypeLike = float, scale: float = 1
) -> Any:
    """Gaussian leaves of the given shapes, `SHAPES` by default.

    They are float32, or float64 in a test with the fixture `x64`.
    """
    rng = np.random.default_rng(seed)
    draw = lambda s: jnp.asarray(scale * rng.normal(size=s), dtype)
    return jax.tree.map(
        draw,
        SHAPES if shapes is None else shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def structs(shapes: Any = None, dtype: DTypeLike = jnp.float32) -> Any:
    """The same tree as shapes and dtypes only."""
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, dtype),
        SHAPES if shapes is None else shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def hard_matrices(size: int = 8) -> dict[str, np.ndarray]:
    """Square matrices on which a careless kernel fails, in float64."""
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    gauss = rng.normal(size=(size, size))
    return {
        "zero": np.zeros((size, size)),
        "rank_one": np.outer(gauss[0], gauss[1]),
        "condition_1e8": (left * np.logspace(0, -8, size)) @ right.T,
        "scale_1e-20": 1e-20 * gauss,  # its square underflows float32
        "scale_1e20": 1e20 * gauss,  # its square overflows float32
    }


def names(tree: Any) -> list[str]:
    """The paths of the leaves, 'blocks/up/kernel', in order."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths]


def by_name(tree: Any) -> dict[str, np.ndarray]:
    """The leaves as NumPy arrays, by path."""
    leaves = jax.tree.leaves(tree)
    return {n: np.asarray(x) for n, x in zip(names(tree), leaves, strict=True)}


def types(tree: Any) -> list[tuple[str, tuple[int, ...], str, bool]]:
    """(path, shape, dtype, weak type) of each leaf: what a compiled step fixes."""
    return [
        (n, tuple(x.shape), str(x.dtype), bool(getattr(x, "weak_type", False)))
        for n, x in zip(names(tree), jax.tree.leaves(tree), strict=True)
    ]


def raw(x: Any) -> np.ndarray:
    """An array's bits as NumPy has them, also of random keys."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal structure and equal bits."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for name, a, b in zip(
        names(ours), jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
        np.testing.assert_array_equal(raw(a), raw(b), err_msg=name)


def assert_close(ours: Any, theirs: Any, tolerance: float | None = None) -> None:
    """Equal structure; entries within a fraction of their leaf's largest."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for name, a, b in zip(
        names(ours), jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
        allowed = TOLERANCES.get(str(a.dtype), 0) if tolerance is None else tolerance
        a, b = raw(a).astype(np.float64), raw(b).astype(np.float64)
        atol = allowed * max(np.max(np.abs(b), initial=0), 1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)
