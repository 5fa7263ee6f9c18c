# SPDX-License-Identifier: Apache-2.0
"""Inverse square roots of symmetric positive semidefinite matrices.

Each constructor returns a `Root`, a function of (..., d, d) arrays. All are scale-free
by default, V -> c V gives V^(-1/2)/sqrt(c), and zero goes to zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from orthoptax._check import in_range, message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Root, Schedule
from orthoptax.matrix.inner import local
from orthoptax.matrix.running import divide, norm, power_of_two

_SAFETY = 1.01  # the minimax stages below are stretched by it, all but the last
_MINIMAX = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271965868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_LIFT = 8  # units of rounding; at 1 the iterations were already stable to d = 512
POLAR_EXPRESS_ROOT = (
    *((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _MINIMAX),
    *(((1.875, -1.25, 0.375),) * 3),
)
"""Ten stages of the coupled iteration; the last may be repeated.

Eigenvalues down to about 1e-9 of the norm end at their inverse square root.
Source: Amsel et al., The Polar Express, arXiv:2505.16932, as used in
infinity-stars/ASGO@d3ef14b.
"""
NEWTON_ROOT = ((2.0, -1.5, 0.5),) * 20
"""Twenty stages of Newton's iteration: eigenvalues down to about 1e-10 of the norm.

Source: infinity-stars/ASGO@d3ef14b, which repeats it a hundred times.
"""


def polar_express_root(
    schedule: Schedule | None = None,
    *,
    eps: float | None = None,
    precision: lax.PrecisionLike = None,
) -> Root:
    """V^(-1/2) by coupled polynomials with minimax coefficients; products only.

        nu <- 1.01 ||V + eps I||_F;  Y <- V/nu;  Z <- I
        W <- Z Y;  B <- b W + c W W;  Y <- a Y + Y B;  Z <- a Z + B Z    every stage
        V^(-1/2) <- Z / sqrt(nu)

    Args:
      schedule: stages (a, b, c); None: `POLAR_EXPRESS_ROOT`. Static.
      eps: the authors' epsilon, absolute, and in the norm alone; a V without full rank
        then meets the rounding of its zeros. None: V + 8 u ||V||_F I is taken for V,
        where u is the unit of rounding. Static.
      precision: of every product; None means HIGHEST. Static.
    Returns: a `Root`; 16-bit inputs compute in float32.
    Raises: ValueError for an empty schedule or a stage without three coefficients, or a
      negative `eps`.
    Example:
      >>> v = jnp.diag(jnp.asarray([4.0, 0.25]))
      >>> polar_express_root()(v).round(3).tolist()
      [[0.5, 0.0], [0.0, 2.0]]

    Deviations: the authors' code replaces a result that is not finite by I; here NaN
      stays NaN, and `eps=None` keeps finite input finite.
    Source: An et al., ASGO, arXiv:2503.20762; code infinity-stars/ASGO@d3ef14b.
    """
    schedule = POLAR_EXPRESS_ROOT if schedule is None else schedule
    stages = _checked("polar_express_root", schedule, eps)

    def start(v: jax.Array, eye: jax.Array) -> tuple[jax.Array, jax.Array]:
        if eps is None:
            v = _lifted(v, eye)
            nu = _SAFETY * norm(v)
        else:
            nu = _SAFETY * norm(v + eps * eye)
        return divide(v, nu), nu

    return _coupled(stages, start, eps is not None, precision)


def newton_schulz_root(
    schedule: Schedule | None = None,
    *,
    eps: float | None = None,
    precision: lax.PrecisionLike = None,
) -> Root:
    """V^(-1/2) by the coupled Newton-Schulz iteration; products only.

        nu <- ||V||_F;  Y <- (V + eps I)/(nu + eps);  Z <- I
        stages as in `polar_express_root`
        V^(-1/2) <- Z / sqrt(nu)

    Args:
      schedule: stages (a, b, c); None: `NEWTON_ROOT`. Static.
      eps: the authors' epsilon, absolute. None: 8 u ||V||_F, where u is the unit of
        rounding. Static.
      precision: of every product; None means HIGHEST. Static.
    Returns: a `Root`; 16-bit inputs compute in float32.
    Raises: ValueError for an empty schedule or a stage without three coefficients, or a
      negative `eps`.
    Example:
      >>> v = jnp.diag(jnp.asarray([4.0, 0.25]))
      >>> newton_schulz_root()(v).round(3).tolist()
      [[0.5, 0.0], [0.0, 2.0]]

    Deviations: as in `polar_express_root`.
    Source: Higham, Functions of Matrices, ch. 6; code infinity-stars/ASGO@d3ef14b.
    """
    schedule = NEWTON_ROOT if schedule is None else schedule
    stages = _checked("newton_schulz_root", schedule, eps)

    def start(v: jax.Array, eye: jax.Array) -> tuple[jax.Array, jax.Array]:
        nu = norm(v)
        if eps is None:
            y = _lifted(v, eye)
            return divide(y, norm(y)), nu
        return divide(v + eps * eye, nu + eps), nu

    return _coupled(stages, start, eps is not None, precision)


def eigen_root(eps: ArrayLike = 0.0) -> Root:
    """(V^(1/2) + eps I)^(-1) by eigendecomposition: the slow twin.

        Q, s <- eigh(V);   Q diag(1/(sqrt(s) + eps)) Q^H  over s > d u s_max

    Args:
      eps: added to the roots of the eigenvalues, absolute. Traceable.
    Returns: a `Root`, a pseudo-inverse where V has no full rank; 16-bit inputs compute
      in float32.
    Raises: ValueError if `eps` is a negative or NaN Python number.
    Example:
      >>> eigen_root()(jnp.diag(jnp.asarray([4.0, 0.0]))).tolist()
      [[0.5, 0.0], [0.0, 0.0]]

    Deviations: the authors' code gives the identity for a V without full rank.
    Source: An et al., ASGO, arXiv:2503.20762, Algorithm 1; code
      infinity-stars/ASGO@d3ef14b (eps 0).
    """
    in_range("eigen_root", "eps", eps)

    def root(v: jax.Array) -> jax.Array:
        work = v.astype(work_dtype(v.dtype))
        unit = power_of_two(local.largest(work))
        s, q = jnp.linalg.eigh(work / unit.astype(work.dtype))
        tol = v.shape[-1] * jnp.finfo(work.dtype).eps * s[..., -1:]
        size = jnp.sqrt(unit[..., 0]).astype(s.dtype)
        roots = size * jnp.sqrt(jnp.maximum(s, 0)) + jnp.asarray(eps).astype(s.dtype)
        powers = jnp.where(s > tol, divide(jnp.ones_like(s), roots), 0 * s)
        scaled = q * powers.astype(q.dtype)[..., None, :]
        z = jnp.matmul(scaled, jnp.conj(q).mT, precision=lax.Precision.HIGHEST)
        return z.astype(v.dtype)

    return root


def _checked(where: str, schedule: Schedule, eps: float | None) -> Schedule:
    """The stages as floats; checks them and epsilon."""
    if eps is not None:
        in_range(where, "eps", eps)
    stages = [[float(c) for c in stage] for stage in schedule]
    if not stages or any(len(stage) != 3 for stage in stages):
        raise ValueError(
            message(
                where,
                f"schedule {schedule!r} is not usable",
                "at least one stage, each of three coefficients",
                "Pass for example orthoptax.matrix.POLAR_EXPRESS_ROOT",
            )
        )
    return stages


def _lifted(v: jax.Array, eye: jax.Array) -> jax.Array:
    """V with its zeros lifted to the level of rounding, where negative ones are too.

    A negative eigenvalue of Z Y grows with every stage, without bound.
    """
    lift = _LIFT * float(jnp.finfo(v.dtype).eps) * norm(v)
    return v + lift.astype(v.dtype) * eye


def _coupled(
    stages: Schedule,
    start: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    absolute: bool,
    precision: lax.PrecisionLike,
) -> Root:
    """The iteration that all coupled roots share.

    Args:
      stages: triples (a, b, c).
      start: (V, I) -> (Y, nu).
      absolute: V has to reach `start` as it is.
      precision: of every product; None means HIGHEST.
    """
    precision = lax.Precision.HIGHEST if precision is None else precision
    times = lambda a, b: jnp.matmul(a, b, precision=precision)

    def stage(pair: tuple[jax.Array, jax.Array], c: jax.Array) -> tuple[Any, None]:
        y, z = pair
        w = times(z, y)
        poly = c[1] * w + c[2] * times(w, w)
        return (c[0] * y + times(y, poly), c[0] * z + times(poly, z)), None

    def root(v: jax.Array) -> jax.Array:
        work = v.astype(work_dtype(v.dtype))
        top = local.largest(work)
        unit = jnp.ones_like(top) if absolute else power_of_two(top)
        # A sum, as a loop inside `shard_map` wants what differs from device to device.
        eye = jnp.broadcast_to(jnp.eye(v.shape[-1], dtype=work.dtype), work.shape)
        eye = eye + jnp.zeros_like(work)
        y, nu = start(work / unit.astype(work.dtype), eye)
        (_, z), _ = lax.scan(stage, (y, eye), jnp.asarray(stages).astype(work.dtype))
        return divide(z, jnp.sqrt(nu) * jnp.sqrt(unit)).astype(v.dtype)

    return root
