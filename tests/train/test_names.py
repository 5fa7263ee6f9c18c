# SPDX-License-Identifier: Apache-2.0
"""Names of the command line: discovery, and what the stock rows route where."""

import jax
import optax
import pytest

from orthoptax import optimizers
from orthoptax.train import models, names


@pytest.mark.parametrize("name", optimizers.__all__)
def test_every_public_optimizer_is_found(name):
    assert names.constructors([name]) == {name: getattr(optimizers, name)}


def test_a_new_public_optimizer_is_found_by_itself(monkeypatch):
    monkeypatch.setattr(optimizers, "__all__", [*optimizers.__all__, "fresh"])
    monkeypatch.setattr(optimizers, "fresh", optax.sgd, raising=False)
    assert list(names.constructors(["fresh", "adamw"])) == ["fresh", "adamw"]
    assert names.constructors(["fresh"])["fresh"] is optax.sgd


@pytest.mark.parametrize(
    ("name", "orthogonalized"),
    [
        (
            "optax-muon",
            {f"blocks/{p}/kernel" for p in ("q", "k", "v", "o", "up", "down")},
        ),
        (
            "optax-muon-default",
            {
                "embed/embedding",
                "pos_embed/embedding",
                "head/kernel",
                "blocks/norm1/scale",
                "blocks/norm2/scale",
            },
        ),
    ],
)
def test_what_the_two_rows_of_optax_orthogonalize(name, orthogonalized):
    def init():
        params = models.initial(models.SHAPES["tiny"], 0)
        return names.constructors([name])[name](0.01).init(params)

    state = jax.eval_shape(init).inner_states["muon"]
    momentum = optax.tree.get(state, "mu")
    paths = jax.tree_util.tree_flatten_with_path(momentum)[0]
    keystr = jax.tree_util.keystr
    found = {keystr(path, simple=True, separator="/") for path, _ in paths}
    assert found == orthogonalized
