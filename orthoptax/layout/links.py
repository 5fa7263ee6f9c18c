# SPDX-License-Identifier: Apache-2.0
"""A chain in matrix coordinates, run on leaves: what a place is given to run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

from orthoptax._types import Compressed, Compressor, KernelOnParts, OnParts
from orthoptax.layout.view import MatrixView


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is known of a parameter before its numbers are. Static and hashable.

    view: how it is a matrix. shape: of the whole leaf, wherever its parts lie.
    """

    view: MatrixView
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MatrixLinks:
    """A chain that wants {matrix name: (*batch, rows, cols)}, run on whole leaves.

    Args:
      chain: the links, chained; each treats every matrix by itself. Static.
      on_parts: whether all of them also work on parts of matrices (`OnParts`). Static.
      compresses: whether one of them is a `Compressor`. Static.
      measures: whether all need but a few sums of cut matrices. Static.
    """

    chain: optax.GradientTransformationExtraArgs
    on_parts: bool = False
    compresses: bool = False
    measures: bool = False

    def init(self, leaves: Mapping[str, jax.Array], about: Mapping[str, Leaf]) -> Any:
        """The links' state for leaves {name: array in the leaf's own shape}."""
        return self.chain.init(split(leaves, about))

    def update(
        self,
        leaves: Mapping[str, jax.Array],
        about: Mapping[str, Leaf],
        state: Any,
        params: Mapping[str, jax.Array] | None = None,
        trees: Mapping[str, Mapping[str, jax.Array]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Any]:
        """One update of the links.

        Args:
          leaves: {name: array in the leaf's own shape}.
          about: what is known of each leaf; `about[name].shape` is what shape rules
            hear of, and may differ from the array's (a layer of a stack).
          state: the links' state.
          params: like `leaves`, or None.
          trees: extra arguments shaped like `leaves`, split as they are.
          extra: all others, passed on untouched.
        Returns: (leaves like the first argument, or two of them in a `Compressed`;
          the new state).
        """
        shapes = {
            key: about[name].shape
            for name in leaves
            for key in matrix_names(name, about[name].view)
        }
        matrices, state = self.chain.update(
            split(leaves, about),
            state,
            None if params is None else split(params, about),
            leaf_shapes=shapes,
            **{key: split(tree, about) for key, tree in (trees or {}).items()},
            **(extra or {}),
        )

        def lower(tree: Any) -> dict[str, jax.Array]:
            return {
                name: about[name].view.join(
                    [tree[key] for key in matrix_names(name, about[name].view)],
                    leaf.shape,
                )
                for name, leaf in leaves.items()
            }

        if isinstance(matrices, Compressed):
            return Compressed(*map(lower, matrices)), state
        return lower(matrices), state


def linked(*links: optax.GradientTransformation) -> MatrixLinks:
    """The links chained; those after a compressor work on what goes on (`out`)."""
    on_parts = all(isinstance(link, OnParts) for link in links)
    if not any(isinstance(link, Compressor) for link in links):
        chain = optax.chain(*links) if links else optax.identity()
        kernel = any(isinstance(link, KernelOnParts) for link in links)
        chain = optax.with_extra_args_support(chain)
        return MatrixLinks(chain, on_parts, False, on_parts and not kernel)
    each = [optax.with_extra_args_support(link) for link in links]

    def init(params: optax.Params) -> tuple[Any, ...]:
        return tuple(link.init(params) for link in each)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[Any, tuple[Any, ...]]:
        kept, states = None, []
        for link, own in zip(each, state, strict=True):
            result: Any = link.update(updates, own, params, **extra)
            updates, after = result
            states.append(after)
            if isinstance(updates, Compressed):
                updates, kept = updates
        return Compressed(updates, kept), tuple(states)

    return MatrixLinks(
        optax.GradientTransformationExtraArgs(init, update), on_parts, True
    )


def split(
    leaves: Mapping[str, jax.Array], about: Mapping[str, Leaf]
) -> dict[str, jax.Array]:
    """{matrix name: (*batch, rows, cols)} of leaves."""
    return {
        key: part
        for name, leaf in leaves.items()
        for key, part in zip(
            matrix_names(name, about[name].view),
            about[name].view.split(leaf, name),
            strict=True,
        )
    }


def matrix_names(name: str, view: MatrixView) -> list[str]:
    """The names of a leaf's matrices: its own, or one a block ('qkv/kernel[0]')."""
    return [f"{name}[{i}]" for i in range(len(view.blocks))] or [name]


class Here:
    """The place that runs the links where the leaves are, each leaf whole.

    Also the pattern of a `Place`: three methods, and no transform knows of it.
    """

    def whole(self, name: str, leaf: Any) -> Any:
        """The whole leaf's shape and dtype; here, the leaf itself."""
        del name
        return leaf

    def init(
        self,
        links: MatrixLinks,
        leaves: Mapping[str, jax.Array],
        about: Mapping[str, Leaf],
    ) -> Any:
        """The links' state."""
        return links.init(leaves, about)

    def update(
        self,
        links: MatrixLinks,
        leaves: Mapping[str, jax.Array],
        about: Mapping[str, Leaf],
        state: Any,
        params: Mapping[str, jax.Array] | None,
        trees: Mapping[str, Mapping[str, jax.Array]],
        extra: Mapping[str, Any],
    ) -> tuple[Any, Any]:
        """The links' update."""
        return links.update(leaves, about, state, params, trees, extra)


here = Here()
