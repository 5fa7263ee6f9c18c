# SPDX-License-Identifier: Apache-2.0
"""Specs, meshes and places that do not fit: errors name the leaf and the way out."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax import layout, muon, optimizers
from orthoptax.sharding import whole_matrices
from tests.conformance.discovery import placed
from tests.sharding import steps
from tests.sharding.steps import RATE

NAME = "dense/kernel"


def tree(kernel):
    """A tree of one leaf."""
    return {"dense": {"kernel": kernel}}


SHAPE = (8, 16)


def params(shape=SHAPE):
    """Ones."""
    return tree(jnp.ones(shape))


def traced(tx, given):
    """An update under jit, not run."""
    return jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), given)


def assert_says(error, *pieces):
    """The message names the leaf and holds these pieces."""
    said = str(error.value)
    for piece in (f"{NAME!r}", "Expected", *pieces):
        assert piece in said, said


BAD_SPECS = {  # spec: what the message says
    "no such mesh axis": (P("c"), "no mesh axis 'c'", "'a', 'b'"),
    "more entries than axes": (P("a", None, "b"), "3 entries for 2 axes", str(SHAPE)),
    "an axis twice": (P("a", "a"), "'a' cuts it twice", "once"),
    "an axis twice on one dimension": (P(("a", "a")), "'a' cuts it twice", "once"),
    "unconstrained": (P(P.UNCONSTRAINED), "axis 0 is unconstrained", "Name the axes"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
@pytest.mark.parametrize("method", ["init", "update"])
def test_specs_that_do_not_fit(case, method):
    spec, *pieces = BAD_SPECS[case]
    good = muon(RATE, place=whole_matrices(tree(P()), mesh=steps.mesh()))
    state = jax.eval_shape(good.init, params())
    tx = muon(RATE, place=whole_matrices(tree(spec), mesh=steps.mesh()))
    call = {
        "init": lambda: jax.eval_shape(tx.init, params()),
        "update": lambda: jax.eval_shape(tx.update, params(), state, params()),
    }[method]
    with pytest.raises(ValueError, match="sharding: ") as error:
        call()
    assert_says(error, *pieces)


def test_a_size_that_does_not_divide():
    tx = muon(RATE, place=whole_matrices(tree(P("a")), mesh=steps.mesh()))
    with pytest.raises(ValueError, match="sharding: ") as error:
        traced(tx, params((6, 16)))
    assert_says(error, "axis 0 of 6", "4 equal parts", "pad")


@pytest.mark.parametrize("shape", [(0, 16), (8, 0)])
def test_a_matrix_without_entries(shape):
    tx = muon(RATE, place=whole_matrices(tree(P()), mesh=steps.mesh()))
    with pytest.raises(ValueError, match="sharding: ") as error:
        traced(tx, params(shape))
    assert_says(error, str(shape), "no entries", "optax.partition")


@pytest.mark.parametrize("specs", [{}, {"other": {"kernel": P("a")}}])
def test_a_leaf_without_a_spec(specs):
    tx = muon(RATE, place=whole_matrices(specs, mesh=steps.mesh()))
    with pytest.raises(ValueError, match="no spec for") as error:
        traced(tx, params())
    assert_says(error, "a spec for every matrix")


def test_a_spec_for_leaves_that_are_no_matrices_may_be_missing():
    given = {**params(), "norm": {"scale": jnp.ones(8)}}
    tx = muon(RATE, place=whole_matrices(tree(P("a")), mesh=steps.mesh()))
    updates, _ = traced(tx, given)
    assert updates["norm"]["scale"].shape == (8,)


@pytest.mark.parametrize("spec", ["a", ("a", None), 3])
def test_a_spec_of_another_type(spec):
    with pytest.raises(TypeError, match=r"'dense/kernel.*PartitionSpec"):
        whole_matrices(tree(spec))


def test_axes_that_the_mesh_does_not_have():
    place = whole_matrices(tree(P("a")), mesh=steps.mesh(), axes=("a", "c"))
    with pytest.raises(ValueError, match=r"no axes \['c'\].*some of \['a', 'b'\]"):
        traced(muon(RATE, place=place), params())


def test_a_leaf_cut_over_an_axis_that_the_place_may_not_use():
    place = whole_matrices(tree(P("a")), mesh=steps.mesh(), axes=("b",))
    with pytest.raises(ValueError, match="cut over the mesh axes") as error:
        traced(muon(RATE, place=place), params())
    assert_says(error, "['a']", "['b'] only")


def test_no_mesh():
    tx = muon(RATE, place=whole_matrices(tree(P("a"))))
    with pytest.raises(ValueError, match=r"no mesh.*Pass mesh="):
        traced(tx, params())


def test_no_specs_on_auto_axes():
    where = steps.mesh()
    given = {**params(), "bias": {"bias": jnp.ones(8)}}  # not what is to be named
    given = jax.device_put(given, NamedSharding(where, P("a")))
    tx = muon(RATE, place=whole_matrices(mesh=where))
    with pytest.raises(ValueError, match="not Explicit") as error:
        traced(tx, given)
    assert_says(error, "does not show", "Pass specs=")


def test_concrete_arrays_that_lie_otherwise():
    where = steps.mesh()
    given = jax.device_put(params(), NamedSharding(where, P("a")))
    tx = muon(RATE, place=whole_matrices(tree(P(None, "a")), mesh=where))
    with pytest.raises(ValueError, match="but specs say") as error:
        tx.init(given)
    assert_says(error, "P('a')", "P(None, 'a')", str(SHAPE))


def test_explicit_axes_that_show_otherwise():
    where = steps.mesh(AxisType.Explicit)
    given = jax.device_put(params(), NamedSharding(where, P("a")))
    tx = muon(RATE, place=whole_matrices(tree(P(None, "a")), mesh=where))
    with pytest.raises(ValueError, match="but specs say") as error:
        traced(tx, given)
    assert_says(error, "P('a', None)", "P(None, 'a')")


def inside(tx, spec, check_vma, axes=frozenset(steps.AXES)):
    """An update inside shard_map, traced."""
    mapped = jax.shard_map(
        lambda p: tx.update(p, tx.init(p), p)[0],
        mesh=steps.mesh(),
        in_specs=spec,
        out_specs=spec,
        axis_names=set(axes),
        check_vma=check_vma,
    )
    return jax.eval_shape(mapped, params())


@pytest.mark.parametrize("name", placed())
def test_every_optimizer_inside_shard_map_asks_for_a_place(name):
    tx = getattr(optimizers, name)(RATE)
    with pytest.raises(ValueError, match="place: ") as error:
        inside(tx, P("a"), check_vma=False)
    assert_says(error, "['a', 'b']", "may be a part", "whole_matrices(specs)")


def test_inside_shard_map_without_a_place_what_differs_is_named():
    with pytest.raises(ValueError, match="place: ") as error:
        inside(muon(RATE), P("a"), check_vma=True)
    assert_says(error, "differs from device to device over ['a']", "(2, 16)")


def test_inside_shard_map_replicated_matrices_need_no_place():
    updates = inside(muon(RATE), P(), check_vma=True)
    assert updates["dense"]["kernel"].shape == SHAPE


def test_inside_shard_map_replicated_matrices_ask_where_nothing_is_tracked():
    with pytest.raises(ValueError, match="place: ") as error:
        inside(muon(RATE), P(), check_vma=False)
    assert_says(error, "orthoptax.layout.here")


def test_inside_shard_map_whole_matrices_may_stay():
    tx = muon(RATE, place=layout.here)
    assert inside(tx, P(), check_vma=False)["dense"]["kernel"].shape == SHAPE


def test_inside_shard_map_specs_are_needed():
    with pytest.raises(ValueError, match="do not show how they are cut") as error:
        inside(muon(RATE, place=whole_matrices()), P("a"), check_vma=False)
    assert_says(error, "Pass specs=", "axes=")


def test_inside_shard_map_over_some_of_the_axes_that_cut():
    tx = muon(RATE, place=whole_matrices(tree(P("a", "b"))))
    with pytest.raises(ValueError, match=r"mesh axes \['b'\] are not among") as error:
        inside(tx, P("a"), check_vma=False, axes={"a"})
    assert "axis_names" in str(error.value)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10),
    reason="pmap does not show its axes in jax 0.8; its parameters are whole anyway",
)
def test_inside_pmap_without_a_place():
    tx = muon(RATE)
    mapped = jax.pmap(lambda p: tx.update(p, tx.init(p), p)[0], axis_name="i")
    with pytest.raises(ValueError, match="place: ") as error:
        mapped(tree(jnp.ones((8, *SHAPE))))
    assert_says(error, "['i']")
