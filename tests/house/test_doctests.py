# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import orthoptax

ROOMS = [
    module.name
    for module in pkgutil.walk_packages(orthoptax.__path__, "orthoptax.")
    if not module.name.startswith(("orthoptax.train", "orthoptax.__main__"))
]


@pytest.mark.parametrize("name", ROOMS)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, verbose=False)
    assert outcome.failed == 0


def test_examples_exist():
    finder = doctest.DocTestFinder()
    examples = sum(
        len(test.examples)
        for name in ROOMS
        for test in finder.find(importlib.import_module(name))
    )
    assert examples > 40
