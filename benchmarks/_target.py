# SPDX-License-Identifier: Apache-2.0
"""What steps are compiled for: this machine's devices, or TPUs that are not there."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from _report import Clock, clock
from jax.experimental import topologies

# Without this, CPU's scheduler trades memory for work in parallel, which TPUs do not.
IN_ORDER = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
# A collective that runs beside several products would be listed in each of them.
APART = {"xla_tpu_enable_async_collective_fusion": False}
# libtpu asks where it runs: on any machine, as the topology says what for.
ANYWHERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}


class Target(NamedTuple):
    """What is compiled for: eight devices, the compiler's options, the products."""

    devices: Sequence[jax.Device]
    options: Mapping[str, Any]
    precision: str

    def compile(self, step: Any, *arguments: Any, **jitted: Any) -> tuple[Any, Clock]:
        lower = lambda: jax.jit(step, **jitted).lower(*arguments)
        with jax.default_matmul_precision(self.precision):
            return clock(lambda: lower().compile(self.options))


def target(topology: str | None, precision: str) -> Target:
    if topology is None:
        return Target(jax.devices(), IN_ORDER, precision)
    os.environ |= ANYWHERE
    try:
        found = topologies.get_topology_desc(topology, "tpu")
    except Exception as error:  # of jaxlib's own, and one more if libtpu is missing
        sys.exit(
            f"--topology {topology}: {error}. Expected libtpu and eight chips, "
            "as in v5e:2x4. Run it with .venv-tpu/bin/python, which make test-tpu makes"
        )
    return Target(found.devices, APART, precision)
