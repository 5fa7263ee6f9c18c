# SPDX-License-Identifier: Apache-2.0
"""Tests that compile for TPUs ahead of time: they need libtpu, not a TPU.

`make test-tpu` runs them; pytest enters this folder only where it is named. It loads
this file before a test calls jax, which is when jax would look for devices.
"""

import os

import jax
import pytest

# libtpu asks where it runs, first of all the cloud's metadata server. The answer is any
# machine: what is compiled for is said by the topology.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is taken, so none is contended for
    "TPU_LOG_DIR": "disabled",  # or it leaves files behind, the same for all users
}
jax.config.update("jax_platforms", "cpu")
# Programs for absent devices can be written to the cache of compiled code, not read.
jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture(autouse=True, scope="session")
def compiler():
    """Skips, with the reason, where the TPU compiler is not installed."""
    pytest.importorskip(
        "libtpu", reason="libtpu is not installed: pip may have none for this machine"
    )
