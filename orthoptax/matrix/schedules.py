# SPDX-License-Identifier: Apache-2.0
"""Published coefficients of polynomial polar iterations, as data.

A stage (a, b, c) maps every singular value x to a x + b x^3 + c x^5; a stage (a, b) is
the cubic. "Band" is where singular values in [0.01, 1] end. Use a list as it stands:
cutting, cycling or extending one made for a fixed count does harm, unless noted. A list
without headroom sends values a little above 1 far away: compute in float32 or wider.
"""

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
"""Muon's five equal quintics: band 0.68-1.13. Any count of the triple is fine.

Source: KellerJordan/Muon@857d1ad, muon.py; four decimals as published.
"""

QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Five tuned quintics: band 0.978-1.032. Do not cycle: its first stage sends 1 to 0.12.

Source: microsoft/dion@0a059a4; optax `dion`; Emerging-Optimizers `quintic`.
"""

CUBIC5 = (
    (3.3656576, -3.3420992),
    (2.5744352, -1.4957376),
    (2.5368962, -1.4312570),
    (2.4418906, -1.2764040),
    (2.2230472, -0.9630650),
)
"""Exactly five cubics: band 0.77-1.30, two thirds of the products of five quintics.

Source: Emerging-Optimizers@fd77292, muon_utils.py, `cubic5`.
"""

DEEPSEEK_V4 = (*JORDAN, *JORDAN[:3], (2.0, -1.5, 0.5), (2.0, -1.5, 0.5))
"""Ten quintics, the last two Newton's: band 1-1.0005. The last may be repeated.

Source: Emerging-Optimizers@fd77292, muon_utils.py, `deepseekv4`.
"""

GEN4 = (
    (4.6051, -9.6552, 5.6769),
    (4.7505, -6.0861, 2.1790),
    (2.7763, -2.3190, 0.5523),
    (2.4231, -2.2861, 0.8193),
)
"""Exactly four quintics for the scale `aol`, from a genetic search: band 0.941-1.050.

Source: microsoft/dion@0a059a4, `fast_aol4`; thib-s/flash-newton-schulz@cdb03db.
"""

TURBO = QUINTIC[1:]
"""The last four of `QUINTIC`, for the scale `aol`: band 0.973-1.145.

The last three, two or one may be used alone; nothing may follow.
Source: Boissin et al., Turbo-Muon, arXiv:2512.04632; code
thib-s/flash-newton-schulz@145260f.
"""

NEMO_CANS = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)
"""Five minimax quintics for [0.001, 1], no headroom: band 0.884-1.120.

Repeating the last does not converge to 1.
Source: Emerging-Optimizers@fd77292, muon_utils.py, `cans`; as `composition((5,) * 5)`,
rounded to four decimals.
"""

NEMO_AOL = (
    (4.0098, -7.0585, 2.4635),
    (3.4585, -5.5479, 2.5959),
    (2.7573, -3.2939, 1.4254),
    (2.7215, -3.0494, 1.3169),
)
"""Four quintics, for parity only: band -1.08-1.08.

The first is negative near 1: under any scale that reaches 1, directions flip sign.
Source: Emerging-Optimizers@fd77292, muon_utils.py, `aol`, used there with Frobenius.
"""

POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""Eight minimax quintics for [0.001, 1], no headroom: band 1-1. The last may repeat.

Source: Amsel et al., The Polar Express, arXiv:2505.16932, printed table; as
`polar_express(8, cushion=0.02407327424182761)`.
"""


def _with_safety(schedule: tuple, factor: float) -> tuple:
    """p(x / factor) for every stage: values up to `factor` are mapped as designed."""
    return tuple(
        tuple(c / factor ** (2 * j + 1) for j, c in enumerate(stage))
        for stage in schedule
    )


POLAR_EXPRESS_101 = (*_with_safety(POLAR_EXPRESS[:7], 1.01), POLAR_EXPRESS[7])
"""`POLAR_EXPRESS`, safety 1.01 but in the last: band 1-1. The last may repeat.

The first K alone are the authors' K-step list; the first five end in 0.870-1.124.
Expects a scale that divides by 1.01 times the norm: `frobenius(factor=1.01)`.
Source: arXiv:2505.16932; NoahAmsel/PolarExpress@7f0fb57, basic.py.
"""

POLAR_EXPRESS_105 = _with_safety(POLAR_EXPRESS[:5], 1.05)
"""The first five of `POLAR_EXPRESS`, safety 1.05 in each: band 0.846-1.124.

Source: Dao-AILab/gram-newton-schulz@f08f25e.
"""

POLAR_EXPRESS_102 = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Five minimax quintics with a safety factor of 1.02: band 0.859-1.141.

Expects a scale that divides by 1.02 times the norm: `frobenius(factor=1.02)`.
Source: Amsel et al., The Polar Express, arXiv:2505.16932; generator(1e-3, 5 steps,
safety 0.02, cushion 0.02) as shipped in microsoft/dion@0a059a4.
"""

POLAR_EXPRESS_8 = (
    (8.2051, -22.9019, 16.4607),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
    (2.2779, -1.6198, 0.3985),
    (1.8726, -1.2307, 0.3585),
    (1.8564, -1.2132, 0.3568),
    (1.8750, -1.2500, 0.3750),
)
"""Eight minimax quintics, safety 1.01 but in the last: band 1-1. The last may repeat.

Source: arXiv:2505.16932, rounded to four decimals in Emerging-Optimizers@fd77292.
"""

ROOT_BY_SHAPE = {
    (2048, 2048): ((3.4916, -4.8224, 2.1095),) * 5,
    (2048, 16384): ((3.1943, -3.8221, 1.5322),) * 5,
    (2048, 3072): ((3.4509, -4.5790, 1.9325),) * 5,
    (2048, 8192): ((2.9794, -3.6674, 1.6207),) * 5,
}
"""Five equal quintics a shape, keyed by (short side, long side): see `by_shape`.

In the order above: band 0.772-3.314, 0.884-1.069, 0.789-1.190, 0.932-1.092. The first
triple has values that it does not bring back: its peak lies above its fixed point.

Source: He et al., ROOT, arXiv:2511.20626; huawei-noah/noah-research@aa0f80c, ROOT.
"""
