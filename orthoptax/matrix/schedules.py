# SPDX-License-Identifier: Apache-2.0
"""Published coefficients of polynomial polar iterations, as data.

A stage (a, b, c) maps every singular value x to a x + b x^3 + c x^5; a stage (a, b) is
the cubic. "Band" is where singular values in [0.01, 1] end. Use a list as it stands:
cutting, cycling or extending one made for a fixed count does harm, unless noted.
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

POLAR_EXPRESS_102 = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Five minimax quintics with a safety factor of 1.02: band 0.859-1.141.

Expects a scale that divides by 1.02 times the norm: `frobenius_add(eps, factor=1.02)`.
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
