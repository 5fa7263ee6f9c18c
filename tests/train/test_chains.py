# SPDX-License-Identifier: Apache-2.0
"""From text to optimizer: equal to the chain written in Python, or a message."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.typing import ArrayLike

from orthoptax import matrix, transforms
from orthoptax._types import matrix_link
from orthoptax.layout import by_layout, on_matrices
from orthoptax.train import names, vocabulary
from orthoptax.train.chains import ChainOptimizer
from orthoptax.train.config import UsageError
from orthoptax.transforms import (
    decoupled,
    error_feedback,
    momentum,
    orthogonalize,
    palm,
    scale_by_learning_rate,
    scale_by_shape,
    whole,
    with_input,
    with_statistics,
)
from tests import zoo

RATE = 0.1
PARAMS = zoo.tree(shapes={"tall": {"kernel": (4, 6)}, "bias": (6,)})
GRADS = [
    zoo.tree(seed, shapes={"tall": {"kernel": (4, 6)}, "bias": (6,)}) for seed in (1, 2)
]
rate = lambda: scale_by_learning_rate(RATE)


def two_steps(tx):
    """Parameters and state after two eager steps."""
    params, state = PARAMS, tx.init(PARAMS)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("momentum", lambda: [momentum(), rate()]),
        (
            "momentum(0.9, nesterov=false) | orthogonalize | scale_by_shape(original)",
            lambda: [
                momentum(0.9, nesterov=False),
                on_matrices(orthogonalize(), scale_by_shape(transforms.original)),
                rate(),
            ],
        ),
        (  # two runs of matrix links, one of them of two
            "orthogonalize | decoupled(0.1) | scale_by_shape | orthogonalize(svd)",
            lambda: [
                on_matrices(orthogonalize()),
                decoupled(0.1),
                on_matrices(scale_by_shape(), orthogonalize(matrix.svd())),
                rate(),
            ],
        ),
        (  # factories within factories, tables, functions
            "orthogonalize(newton_schulz(QUINTIC, scale=frobenius_add(1e-7)))",
            lambda: [
                on_matrices(
                    orthogonalize(
                        matrix.newton_schulz(
                            matrix.QUINTIC, scale=matrix.frobenius_add(1e-7)
                        )
                    )
                ),
                rate(),
            ],
        ),
        (  # the last link owns the rate
            "momentum(mu_dtype=bfloat16) | palm(0.1)",
            lambda: [momentum(mu_dtype="bfloat16"), palm(0.1, learning_rate=RATE)],
        ),
        (  # a wrapper in parameter coordinates: runs within it
            "with_statistics(momentum | orthogonalize | scale_by_shape)",
            lambda: [
                with_statistics(
                    momentum(), on_matrices(orthogonalize(), scale_by_shape())
                ),
                rate(),
            ],
        ),
        (  # a wrapper of matrix links only is one itself
            "with_input(orthogonalize) | scale_by_shape",
            lambda: [
                on_matrices(with_input(orthogonalize()), scale_by_shape()),
                rate(),
            ],
        ),
        (  # and of mixed links it is not
            "with_input(momentum | orthogonalize)",
            lambda: [
                with_input(optax.chain(momentum(), on_matrices(orthogonalize()))),
                rate(),
            ],
        ),
        ("error_feedback(0.5, whole)", lambda: [error_feedback(0.5, whole()), rate()]),
        ("error_feedback(0.5, none)", lambda: [error_feedback(0.5), rate()]),
    ],
)
def test_a_chain_is_the_one_written_in_python(text, links):
    ours = ChainOptimizer(text)(RATE)
    rest = optax.adamw(RATE, weight_decay=0.0)
    theirs = by_layout(matrix=optax.chain(*links()), rest=rest)
    zoo.assert_same(two_steps(ours), two_steps(theirs))


def test_a_compressor_of_matrices_is_lifted_and_the_momentum_is_not():
    state = ChainOptimizer("error_feedback(0.5, low_rank)")(RATE).init(PARAMS)
    feedback = state.matrix[0]
    assert feedback.momentum["tall"]["kernel"].shape == (4, 6)
    assert "tall/kernel" in str(
        jax.tree_util.tree_leaves_with_path(feedback.compressor)
    )


def test_a_link_that_makes_steps_comes_after_the_rate():
    tx = ChainOptimizer("momentum | orthogonalize | project_weights")(RATE)
    matrices = lambda tree: tree["tall"]["kernel"]
    before = jnp.linalg.norm(matrices(PARAMS))
    after = jnp.linalg.norm(matrices(two_steps(tx)[0]))
    assert abs(after / before - 1) < 1e-5  # on the sphere, which a rate would leave
    moved = jnp.vdot(matrices(two_steps(tx)[0]) - matrices(PARAMS), matrices(GRADS[0]))
    assert moved < 0


def test_a_wrapper_that_makes_steps_has_the_rate_within():
    bare, full = (
        ChainOptimizer(text)(RATE)
        for text in (
            "weight_norm",
            "weight_norm(scale_by_learning_rate, magnitude=scale_by_learning_rate)",
        )
    )
    ours = transforms.weight_norm(rate(), rate())
    rest = optax.adamw(RATE, weight_decay=0.0)
    expected = two_steps(by_layout(matrix=optax.chain(ours), rest=rest))
    zoo.assert_same(two_steps(bare), expected)
    zoo.assert_same(two_steps(full), expected)


@pytest.mark.parametrize(
    ("text", "pointed_at", "wrong", "expected"),
    [
        ("momentum | orthogonalise", "orthogonalise", "is unknown", "one of adagrad"),
        ("momentm", "momentm", "is unknown", "one of adagrad_norm, "),
        ("svd | momentum", "svd", "'svd' is no link", "one of adagrad_norm, "),
        ("whole", "whole", "'whole' is a compressor", "compressors inside"),
        (
            "error_feedback(0.5, momentum)",
            "momentum",
            "is no compressor",
            "compressors",
        ),
        ("momentum(0.9, b1=0.9)", "b1=0.9", "'b1=0.9' is given twice", "momentum(b1=0"),
        ("momentum(b3=1)", "b3=1", "'b3=1' is not one of its", "momentum(b1=0.95"),
        ("momentum(0.9, 0.9)", "0.9", "'0.9' is not one of its", "momentum(b1=0.95"),
        ("momentum(1.5)", "momentum(1.5)", "b1=1.5 is out of range", "a number in [0,"),
        ("momentum(nesterov=1)", "nesterov=1", "'nesterov' cannot be '1'", "true or"),
        ("momentum(nesterov=none)", "nesterov=none", "'nesterov' cannot", "true or"),
        ("momentum(true)", "true", "'b1' cannot be 'true'", "a number, none or"),
        ("palm(learning_rate=1)", "learning_rate=1", "is the comparison's", "palm("),
        (
            "palm | palm",
            "palm",
            "'palm' applies the learning rate a second",
            "one such",
        ),
        (
            "orthogonalize(momentum)",
            "momentum",
            "'polar' cannot be 'momentum'",
            "a num",
        ),
        ("orthogonalize(svdd)", "svdd", "'svdd' is unknown", "one of BY_GAIN, "),
        (
            "orthogonalize(0.5)",
            "orthogonalize(0.5)",
            "polar=0.5 is not a f",
            "a function",
        ),
        (
            "scale_by_dual_norm(sign | regularize_gradient)",
            "regularize_gradient",
            "calls the loss, which knows no single matrices",
            "links of matrices within",
        ),
        ("with_input(0.5)", "0.5", "'inner' cannot be '0.5'", "one or more of"),
        ("scale_by_shape(original())", "original()", "takes no arguments", "the name"),
        (
            "momentum(__import__)",
            "__import__",
            "'__import__' is unknown",
            "one of BY_GAIN",
        ),
        (
            "momentum | __import__",
            "__import__",
            "'__import__' is unknown",
            "one of ada",
        ),
    ],
)
def test_mistakes_point_at_the_place_and_list_what_would_do(
    text, pointed_at, wrong, expected
):
    with pytest.raises(UsageError) as error:
        ChainOptimizer(text)
    message, shown, carets = str(error.value).split("\n")
    assert wrong in message
    assert f"Expected {expected}" in message
    at = carets.index("^")
    assert shown[at : at + carets.count("^")] == pointed_at


def test_a_near_miss_is_suggested():
    with pytest.raises(UsageError, match=r"Did you mean 'orthogonalize'\?"):
        ChainOptimizer("momentum | orthogonalise")
    with pytest.raises(UsageError, match=r"Did you mean 'svd'\?"):
        ChainOptimizer("orthogonalize(svdd)")


def test_all_public_transforms_and_kernels_are_words():
    for floor in (matrix, transforms):
        functions = {n for n in floor.__all__ if inspect.isfunction(getattr(floor, n))}
        assert functions <= vocabulary.words().keys()
    assert {"momentum", "record"} <= set(vocabulary.links())
    assert {"svd", "QUINTIC", "match_rms", "bfloat16"} <= set(vocabulary.values())
    assert "spectral_norm" in vocabulary.values()  # the shape rule, not the measure
    assert vocabulary.words()["spectral_norm"] is transforms.spectral_norm


def test_a_name_of_two_floors_is_what_the_argument_takes():
    names = set(transforms.__all__) & set(matrix.__all__)
    assert names <= {"spectral"}  # a shape rule, and a scale
    rule = vocabulary.word_for("spectral", transforms.scale_by_shape, "rule")
    scale = vocabulary.word_for("spectral", matrix.newton_schulz, "scale")
    assert rule is transforms.spectral
    assert scale is matrix.spectral


def test_a_switch_is_told_from_a_number_and_may_be_left_open_if_its_default_is():
    def link(
        number: ArrayLike = 1.0, *, flag: bool = True, either: bool | None = None
    ) -> optax.GradientTransformationExtraArgs: ...

    switches = [vocabulary.is_switch(link, n) for n in ("number", "flag", "either")]
    assert switches == [False, True, True]


def test_a_new_public_transform_is_a_word_by_itself(monkeypatch):
    @matrix_link
    def halve(by: float = 0.5) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optax.scale(by))

    monkeypatch.setattr(transforms, "__all__", [*transforms.__all__, "halve"])
    monkeypatch.setattr(transforms, "halve", halve, raising=False)
    vocabulary.words.cache_clear()
    try:
        tx = ChainOptimizer("halve(0.25)")(RATE)
    finally:
        vocabulary.words.cache_clear()
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS)
    assert jnp.allclose(updates["tall"]["kernel"], -0.025 * GRADS[0]["tall"]["kernel"])


def test_chains_are_optimizers_of_the_command_line_by_canonical_spelling():
    found = names.constructors(["adamw", "momentum(.9)|orthogonalize()", "momentum"])
    assert list(found) == ["adamw", "momentum(0.9) | orthogonalize", "momentum"]
    with pytest.raises(UsageError, match="'momentum' twice"):
        names.constructors(["momentum()", "momentum"])
    with pytest.raises(UsageError, match=r"optimizer 'momentun' is unknown"):
        names.constructors(["momentun"])


def test_the_rate_may_be_traced():
    constructor = ChainOptimizer("momentum | palm(0.1)")
    state = constructor(0.0).init(PARAMS)
    step = lambda lr: constructor(lr).update(GRADS[0], state, PARAMS)[0]
    zoo.assert_close(jax.jit(step)(0.1), step(0.1))
