# SPDX-License-Identifier: Apache-2.0
"""Published figures of accelerators: arithmetic, memory and links of one chip."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from orthoptax._check import message

GIB, GB, TERA = 2.0**30, 1e9, 1e12
PASSES = 6  # bfloat16 passes of a float32 product on TPU (`jax.lax.Precision.HIGHEST`)
BOTH_WAYS = 2  # an axis of a torus has two links, one to each neighbour
TPU_DOCS = "docs.cloud.google.com/tpu/docs/"
BOOK = "jax-ml.github.io/scaling-book/"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One chip: peaks as published, which programs approach and do not reach.

    Static and hashable. Memory is as printed, GB or GiB; the runtime keeps some of it.
    A ring collective over n chips, an all-gather or a reduce-scatter of so many bytes
    in all, takes about bytes * (n - 1) / n divided by `link_bandwidth`. An all-to-all
    takes less, a quarter of that on a ring and one nth of it behind a switch: nothing
    here models it, nor latency, nor traffic between nodes or slices.

    Args:
      name: what `hardware` and tables call it.
      flops_float32: multiplications and additions a second of float32 products at
        precision HIGHEST, which our kernels use: six bfloat16 passes on a TPU, the
        ordinary cores (no TF32) on a GPU.
      flops_bfloat16: the same of dense 16-bit products.
      hbm_bytes: main memory of the chip.
      hbm_bandwidth: bytes a second between it and the chip.
      link_bandwidth: bytes a second that one chip sends (not: sends and receives)
        along one mesh axis whose chips form a ring. On a torus that is both links of
        one axis, and half as much where the axis does not wrap around; on NVLink all
        that the chip can send, which several axes share, and only among the chips of
        one node or switch.
      source: where the figures are published.
      platform: what JAX calls it, "tpu", "cuda", "rocm" or "cpu"; None: not known, and
        plans count the dearest of what a program does by platform.
    Raises: ValueError for a figure that is not positive.
    Example:
      >>> mine = Hardware("mine", 1e14, 8e14, 64e9, 2e12, 1e11, "measured")
      >>> mine.flops("bfloat16")
      800000000000000.0

    Source: "How to Scale Your Model", jax-ml.github.io/scaling-book, chapters 2, 3, 12.
    """

    name: str
    flops_float32: float
    flops_bfloat16: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    source: str
    platform: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[1:-2]:
            value = getattr(self, field.name)
            if not value > 0:  # also refuses NaN
                raise ValueError(
                    message(
                        "Hardware",
                        f"{field.name}={value} of {self.name!r} is out of range",
                        "a positive number",
                        f"Change {field.name}",
                    )
                )

    def flops(self, dtype: DTypeLike) -> float:
        """Peak of matrix products of this dtype; 16-bit ones as bfloat16.

        Raises: ValueError for a dtype without a figure.
        """
        peaks = {
            "float32": self.flops_float32,
            "bfloat16": self.flops_bfloat16,
            "float16": self.flops_bfloat16,
        }
        word = jnp.dtype(dtype).name
        if word not in peaks:
            raise ValueError(
                message(
                    "Hardware.flops",
                    f"no figure for {word} on {self.name!r}",
                    f"one of {', '.join(peaks)}",
                    "Plan with the dtype that the products are computed in",
                )
            )
        return peaks[word]


def _tpu(
    name: str, flops: float, size: float, bandwidth: float, *, link: float
) -> Hardware:
    """A TPU from its bfloat16 peak, its memory, and one link's one-way bandwidth."""
    source = f"{TPU_DOCS}{name} (peak, memory); {BOOK}tpus (link)"
    links = BOTH_WAYS * link
    return Hardware(name, flops / PASSES, flops, size, bandwidth, links, source, "tpu")


# Links: the book's one-way figure of one link, 0.9 of what follows from the figures per
# chip, sent plus received, that Google prints for v5e, v5p and v6e (400 GB/s over 4
# links, 1200 over 6, 800 over 4). GPUs: SXM boards, without sparsity; datasheets print
# NVLink as sent plus received.
_TABLE = (
    _tpu("v4", 275 * TERA, 32 * GIB, 1200 * GB, link=45 * GB),
    _tpu("v5e", 197 * TERA, 16 * GB, 819 * GB, link=45 * GB),
    _tpu("v5p", 459 * TERA, 95 * GIB, 2765 * GB, link=90 * GB),
    _tpu("v6e", 918 * TERA, 32 * GB, 1638 * GB, link=90 * GB),
    Hardware(
        "a100", 19.5 * TERA, 312 * TERA, 80 * GB, 2039 * GB, 600 * GB / BOTH_WAYS,
        "NVIDIA A100 datasheet, SXM 80GB", "cuda",
    ),
    Hardware(
        "h100", 67 * TERA, 989 * TERA, 80 * GB, 3350 * GB, 900 * GB / BOTH_WAYS,
        f"NVIDIA H100 datasheet, SXM; {BOOK}gpus", "cuda",
    ),
    Hardware(
        "h200", 67 * TERA, 989 * TERA, 141 * GB, 4800 * GB, 900 * GB / BOTH_WAYS,
        f"NVIDIA H200 datasheet, SXM; {BOOK}gpus", "cuda",
    ),
    # Nominal: one socket of 56 cores at 2 GHz with two 16-lane multiply-add units each,
    # eight channels of DDR5-4800. Collectives copy through memory, a read and a write;
    # bfloat16 products count as float32 ones.
    Hardware(
        "cpu", 56 * 2e9 * 64, 56 * 2e9 * 64, 512 * GIB, 8 * 38.4 * GB, 4 * 38.4 * GB,
        "nominal, after the Intel Xeon Platinum 8480+", "cpu",
    ),
)  # fmt: skip

HARDWARE: dict[str, Hardware] = {chip.name: chip for chip in _TABLE}
"""The chips that are known by name."""


def hardware(name: str | Hardware) -> Hardware:
    """Finds a chip by its name; a `Hardware` is returned as it is.

    Args:
      name: a key of `HARDWARE`, or figures of one's own.
    Returns: a `Hardware`.
    Raises: ValueError for a name that is not known; TypeError for anything else.
    Example:
      >>> hardware("v5p").link_bandwidth
      180000000000.0

    Source: the field `source` of each.
    """
    if isinstance(name, Hardware):
        return name
    wrong = f"{name!r} is no chip with known figures"
    expected = f"one of {', '.join(HARDWARE)}"
    action = "Pass one of them, or a Hardware(...) with your own figures"
    if not isinstance(name, str):
        raise TypeError(message("hardware", wrong, expected, action))
    if name not in HARDWARE:
        raise ValueError(message("hardware", wrong, expected, action))
    return HARDWARE[name]


KINDS = {
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p",
    "TPU v6 lite": "v6e", "TPU v6e": "v6e", "NVIDIA A100": "a100",
    "NVIDIA H100": "h100", "NVIDIA H200": "h200", "cpu": "cpu",
}  # fmt: skip
"""What JAX calls these chips; the names of boards go on."""


def hardware_of(mesh: Any) -> Hardware | None:
    """The chips of a mesh; None where they have no figures here, or do not show.

    Args:
      mesh: a mesh, or the abstract one that arrays show.
    """
    if isinstance(mesh, jax.sharding.Mesh):
        kind = mesh.devices.flat[0].device_kind
    else:
        kind = getattr(getattr(mesh, "abstract_device", None), "device_kind", "")
    fits = [known for known in KINDS if kind.startswith(known)]
    return HARDWARE[KINDS[max(fits, key=len)]] if fits else None
