# SPDX-License-Identifier: Apache-2.0
"""The order of the laws: one subject after the other."""


def pytest_collection_modifyitems(items):
    """All laws of a subject in a row, so that one process compiles it, and once."""
    name = lambda item: item.callspec.params["subject"].name
    places = [i for i, item in enumerate(items) if of_a_subject(item)]
    ordered = sorted((items[i] for i in places), key=name)
    for i, item in zip(places, ordered, strict=True):
        items[i] = item


def of_a_subject(item):
    """Whether it is a law, held to one subject."""
    return "subject" in getattr(getattr(item, "callspec", None), "params", {})
