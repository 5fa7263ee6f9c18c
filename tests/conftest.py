# SPDX-License-Identifier: Apache-2.0
"""What every test stands on: eight devices, fixed seeds, float64 on request."""

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # before the first call that needs one


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same for every test and in every order of tests."""
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """64-bit types inside the test, and only there."""
    with jax.enable_x64(True):
        yield
