# SPDX-License-Identifier: Apache-2.0
"""What an optimizer really did: measures of matrices, and a link that records them."""

from orthoptax.diagnostics.measures import (
    Probed,
    orthogonality_error,
    probe,
    rms,
    spectral_norm,
    update_to_weight,
)
from orthoptax.diagnostics.record import RecordState, record

__all__ = [
    "Probed",
    "RecordState",
    "orthogonality_error",
    "probe",
    "record",
    "rms",
    "spectral_norm",
    "update_to_weight",
]
