# SPDX-License-Identifier: Apache-2.0
"""The links of an update, run on stacks of whole matrices."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from orthoptax._types import Compressed
from orthoptax.layout.links import MatrixLinks, matrix_names
from orthoptax.sharding.units import Kind, Path, StateKey

Arrays = dict[Any, jax.Array]


@dataclasses.dataclass(frozen=True)
class Work:
    """The links, as kinds of whole matrices see them.

    common: states that belong to no matrix, by path. extra: arguments passed on as they
    are. given: 'params' if the links are given parameters, 'tree/...' for each tree.
    """

    links: MatrixLinks
    common: Mapping[Path, Any]
    extra: Mapping[str, Any]
    given: frozenset[str]

    def on(self, parts: Mapping[str, Any]) -> "Work":
        """The same of parts of matrices that lie as told, {matrix name: `Part`}."""
        return dataclasses.replace(self, extra={**self.extra, "parts": parts})

    def run(self, stacks: Mapping[Kind, Arrays]) -> tuple[dict[Kind, Arrays], dict]:
        """One update of stacks of whole matrices, {kind: {field key: array}}.

        Returns: (outputs in the same form, new common states by path).
        """
        leaves = {k.name: a["updates"] for k, a in stacks.items()}
        about = {k.name: k.leaf for k in stacks}
        params = None
        if "params" in self.given:
            # What the links do not read did not travel; they get a stand-in.
            params = {k.name: a.get("params", a["updates"]) for k, a in stacks.items()}
        trees = {
            key.removeprefix("tree/"): {
                k.name: a.get(key, a["updates"]) for k, a in stacks.items()
            }
            for key in self.given - {"params"}
        }
        result, new = self.links.update(
            leaves, about, self._state(stacks), params, trees, self.extra
        )
        return self._outputs(stacks, result, new)

    def _state(self, stacks: Mapping[Kind, Arrays]) -> Any:
        """The links' state, of the kinds alone."""
        abstract = {
            k.name: jax.ShapeDtypeStruct(a["updates"].shape, a["updates"].dtype)
            for k, a in stacks.items()
        }
        about = {k.name: k.leaf for k in stacks}
        shapes = jax.eval_shape(lambda x: self.links.init(x, about), abstract)
        known = dict(self.common)
        for kind, arrays in stacks.items():
            names = matrix_names(kind.name, kind.leaf.view)
            for key, x in arrays.items():
                if isinstance(key, StateKey):
                    known[key.path(names)] = x
        paths, treedef = jax.tree_util.tree_flatten_with_path(shapes)
        return jax.tree.unflatten(treedef, [known[path] for path, _ in paths])

    def _outputs(
        self, stacks: Mapping[Kind, Arrays], result: Any, new: Any
    ) -> tuple[dict[Kind, Arrays], dict]:
        """Results and states, sorted by kind."""
        after = dict(jax.tree_util.tree_flatten_with_path(new)[0])
        outputs: dict[Kind, Arrays] = {}
        for kind in stacks:
            names = matrix_names(kind.name, kind.leaf.view)
            arrays: Arrays = {}
            for field in kind.outputs:
                if isinstance(field.key, StateKey):
                    arrays[field.key] = after[field.key.path(names)]
                elif isinstance(result, Compressed):
                    arrays[field.key] = getattr(result, str(field.key))[kind.name]
                else:
                    arrays[field.key] = result[kind.name]
            outputs[kind] = arrays
        return outputs, {path: after[path] for path in self.common}
