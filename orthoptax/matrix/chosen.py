# SPDX-License-Identifier: Apache-2.0
"""Schedules of our own: the cheapest that may stand for five stages of `JORDAN`.

From no spectrum, by `choose.cheapest`, which makes them anew: each brings every
singular value at least as near to 1 as the five classic stages do, and lifts small ones
as steeply. Costs are in those of the five classic stages, for a square matrix and where
a product with a Hermitian result costs 1/2 (5/8). The first has degree 5 or more, so
that the scale `schatten_8` costs nothing, and degree 17 does not stand first or last.
"""

OURS = (
    (14.8226963145, -143.554079504, 472.822345788, -601.631788921, 259.135806573),
    (
        11.0954602674,
        -90.51949136,
        290.806947245,
        -444.551250787,
        368.246684191,
        -174.855034214,
        47.5631810824,
        -6.88983732606,
        0.411939107464,
    ),
    (3.21243286653, -5.66545848466, 5.22577887822, -2.13778655077, 0.314849741671),
)
"""Degrees 9, 17, 9: cost 0.533 (0.617), error 0.057 from 0.00231 on.

For any scale that divides by a bound of the largest singular value.
"""

OURS_16_BITS = (
    (8.39406587356, -24.6017782302, 18.0653705782),
    (2.54515051039, -0.634743856276),
    (6.52365320147, -15.53939745, 13.0822752815, -4.29135278727, 0.478073184609),
    (3.82280141576, -7.59145261445, 6.88778095401, -2.62079204447, 0.349300739942),
)
"""Degrees 5, 3, 9, 9: cost 0.567 (0.642), error 0.158 from 0.0018 on; none above 9.

For products of 16 bits, which degree 17 stands badly in the plain form.
"""

OURS_ERROR, OURS_16_BITS_ERROR = 0.0567, 0.158
"""How far from 1 they leave what they reach, rounded up."""

BY_GAIN = {
    1.0: OURS,
    1.5: (  # 5, 17, 9: 0.500 (0.575), 0.114 from 0.00296 on
        (8.34420400881, -24.4068580365, 17.911855464),
        (
            11.8235744258,
            -98.4883008313,
            316.423137526,
            -481.364282706,
            396.044848747,
            -186.605419925,
            50.34116293,
            -7.22972447191,
            0.428459060855,
        ),
        (3.58044878962, -6.83357221897, 6.24706138373, -2.43787582293, 0.336015440275),
    ),
    3.0: (  # 9, 17, 3: 0.467 (0.533), 0.064 from 0.0066 on
        (14.2624247415, -136.27558893, 447.06365092, -567.764496212, 244.271751287),
        (
            8.06473205974,
            -57.0975758008,
            181.621876392,
            -284.795769567,
            245.513011229,
            -122.209179956,
            34.9948328271,
            -5.35042168401,
            0.338234835513,
        ),
        (1.56978912343, -0.50574948007),
    ),
    8.0: (  # 5, 3, 9: 0.400 (0.450), 0.139 from 0.0147 on
        (7.87263005304, -22.5652951604, 16.4621415314),
        (2.30574219171, -0.603791942988),
        (3.72101502872, -7.2742919152, 6.62144457983, -2.54516742144, 0.343776896299),
    ),
}
"""{certain gain: schedule}, for `by_gain`, whose scale forms the first square."""
