# SPDX-License-Identifier: Apache-2.0
"""What every test stands on: eight devices, fixed seeds, float64 on request."""

import contextlib
import os
import pathlib
import shutil
import time

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # before the first call that needs one

# Newer compilers have no other way to emit fusions, and end at a flag they do not know.
EMITTERS = ["--xla_cpu_use_fusion_emitters=false"] * (jax.__version_info__ < (0, 11))
QUICK = ["--xla_backend_optimization_level=0", *EMITTERS]
OWN = pytest.StashKey[pathlib.Path]()
WEEK = 7 * 24 * 3600


def pytest_configure(config):
    """Sets how and how often programs are compiled: most of the suite's time.

    The fast suite leaves out optimizations of machine code; the program XLA makes is
    the same. `make slow` has them all. What earlier runs compiled is taken from
    pytest's cache.

    Every process works on links of its own, since jax does not write a file at once and
    another process could read half of it.
    """
    if config.option.markexpr == "not slow":
        flags = os.environ.get("XLA_FLAGS", ""), *QUICK
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    if not hasattr(config, "cache"):
        return  # -p no:cacheprovider
    shared = config.cache.mkdir("compiled")
    own = config.cache.mkdir(f"compiled-{os.getpid()}")
    for file in shared.iterdir():
        if time.time() - file.stat().st_mtime > WEEK:
            file.unlink(missing_ok=True)
        else:
            add(file, own)
    config.stash[OWN] = own
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    own = config.stash.get(OWN, None)
    if own is not None:
        for file in own.iterdir():
            add(file, config.cache.mkdir("compiled"))
        shutil.rmtree(own)


def add(file, folder):
    """The file in another folder as well, at once or not at all."""
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.link(file, folder / file.name)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same for every test and in every order of tests."""
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """64-bit types inside the test, and only there."""
    with jax.enable_x64(True):
        yield
