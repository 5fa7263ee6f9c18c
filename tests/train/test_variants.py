# SPDX-License-Identifier: Apache-2.0
"""The chains of an ablation, and named optimizers written as chains."""

import jax
import pytest

from orthoptax import optimizers
from orthoptax.train.chains import ChainOptimizer
from orthoptax.train.config import UsageError
from orthoptax.train.variants import WRITTEN, variants
from tests import zoo

SHAPES = {"blocks": {"up": {"kernel": (2, 6, 4)}}, "bias": (6,)}


def changes(base, *replacements):
    return {v.change: v.chain for v in variants(base, replacements)}


def test_each_link_is_dropped_once():
    assert changes("momentum | sign|rms_align()") == {
        "base": "momentum | sign | rms_align",
        "without momentum": "sign | rms_align",
        "without sign": "momentum | rms_align",
        "without rms_align": "momentum | sign",
    }


def test_a_wrapper_is_dropped_whole_and_taken_off():
    assert changes("momentum | keep_norm(normalize_neurons(0.9) | sign)") == {
        "base": "momentum | keep_norm(normalize_neurons(0.9) | sign)",
        "without momentum": "keep_norm(normalize_neurons(0.9) | sign)",
        "without keep_norm(normalize_neurons(0.9) | sign)": "momentum",
        "without keep_norm around normalize_neurons(0.9) | sign": (
            "momentum | normalize_neurons(0.9) | sign"
        ),
        "without normalize_neurons(0.9)": "momentum | keep_norm(sign)",
        "without sign": "momentum | keep_norm(normalize_neurons(0.9))",
    }


def test_a_compressor_stays_where_it_is():
    found = changes("error_feedback(0.9, submatrix(orthogonalize | sign)) | sign")
    assert set(found.values()) == {
        "error_feedback(0.9, submatrix(orthogonalize | sign)) | sign",
        "sign",
        "error_feedback(0.9, submatrix(orthogonalize | sign))",
        "error_feedback(0.9, submatrix(sign)) | sign",
        "error_feedback(0.9, submatrix(orthogonalize)) | sign",
    }


def test_two_changes_with_one_result_are_one():
    found = changes("sign | sign | momentum")
    assert list(found) == ["base", "without sign", "without momentum"]


def test_replacements_by_name_or_as_written_also_within():
    base = "momentum(0.9) | keep_norm(sign)"
    found = changes(
        base, "momentum -> rms_align|sign", "sign -> momentum", "momentum(0.9)->l2"
    )
    assert found["momentum -> rms_align|sign"] == "rms_align | sign | keep_norm(sign)"
    assert found["sign -> momentum"] == "momentum(0.9) | keep_norm(momentum)"
    assert found["momentum(0.9)->l2"] == "l2 | keep_norm(sign)"
    assert len(found) == len(changes(base)) + 3


def test_only_what_is_gone_counts_as_dropped():
    dropped = [v.dropped for v in variants("momentum | sign", ["sign -> rms_align"])]
    assert dropped == [False, True, True, False]


@pytest.mark.parametrize(
    ("base", "replacements", "wrong"),
    [
        ("momentum", (), r"has one link and nothing.* Expected a chain of two"),
        ("momentum | sgn", (), r"'sgn' is unknown\. Expected one of .*\^\^\^"),
        ("momentum | sign", ("sign",), r"not of the form 'link -> chain'\. Expected"),
        ("momentum | sign", ("sin -> l2",), r"'sin' is unknown.* Did you mean 'sign'"),
        ("momentum | sign", ("sign -> l3",), r"'l3' is unknown"),
        (
            "turbo_muon",
            (),
            r"chain of optimizer 'turbo_muon' is unknown\. Expected one",
        ),
    ],
)
def test_what_cannot_be_ablated(base, replacements, wrong):
    with pytest.raises(UsageError, match=f"(?s){wrong}"):
        variants(base, replacements)


FAST = {"muon", "muown", "dasgo", "dion2"}  # two wrappers and a compressor among them


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in WRITTEN],
)
def test_a_named_optimizer_written_as_a_chain_gives_the_same_steps(name):
    params, grads = zoo.tree(0, SHAPES), [zoo.tree(seed, SHAPES) for seed in (1, 2)]
    results = []
    for constructor in (ChainOptimizer(WRITTEN[name]), getattr(optimizers, name)):
        tx = constructor(0.1)
        state = tx.init(params)
        options = {"xla_backend_optimization_level": 0}
        update = jax.jit(tx.update).lower(grads[0], state, params).compile(options)
        for g in grads:
            updates, state = update(g, state, params)
        results.append(updates)
    zoo.assert_close(*results)
