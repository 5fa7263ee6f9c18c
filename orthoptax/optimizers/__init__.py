# SPDX-License-Identifier: Apache-2.0
"""Named optimizers, one chain each; every function imported here is public."""

import inspect as _inspect

from orthoptax.optimizers.adago import adago as adago
from orthoptax.optimizers.adahessian import adahessian as adahessian
from orthoptax.optimizers.adamuon import adamuon as adamuon
from orthoptax.optimizers.aegd import aegd as aegd
from orthoptax.optimizers.asgo import asgo as asgo
from orthoptax.optimizers.auon import auon as auon
from orthoptax.optimizers.dasgo import dasgo as dasgo
from orthoptax.optimizers.dion import dion as dion
from orthoptax.optimizers.dion2 import dion2 as dion2
from orthoptax.optimizers.hybrid_auon import hybrid_auon as hybrid_auon
from orthoptax.optimizers.induced_metric import induced_metric as induced_metric
from orthoptax.optimizers.mfac import mfac as mfac
from orthoptax.optimizers.mop import mop as mop
from orthoptax.optimizers.muon import muon as muon
from orthoptax.optimizers.muon_hyperball import muon_hyperball as muon_hyperball
from orthoptax.optimizers.muown import muown as muown
from orthoptax.optimizers.namo import namo as namo
from orthoptax.optimizers.nordion2 import dion3 as dion3
from orthoptax.optimizers.nordion2 import nordion2 as nordion2
from orthoptax.optimizers.normuon import normuon as normuon
from orthoptax.optimizers.oasis import oasis as oasis
from orthoptax.optimizers.polargrad import polargrad as polargrad
from orthoptax.optimizers.root import root as root
from orthoptax.optimizers.sania import sania as sania
from orthoptax.optimizers.scion import scion as scion
from orthoptax.optimizers.sophia_g import sophia_g as sophia_g
from orthoptax.optimizers.sophia_h import sophia_h as sophia_h
from orthoptax.optimizers.spel import spel as spel
from orthoptax.optimizers.trust_region import trust_region as trust_region
from orthoptax.optimizers.turbo_muon import turbo_muon as turbo_muon

__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll] - aliases export too
    name for name, thing in globals().items() if _inspect.isfunction(thing)
)
