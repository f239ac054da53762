"""Whether a part that shows a compression at one scale is but a place of a picture that was warped as a whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jscan import blockperiod, doubts

BESIDE, GRADUAL = (3, 8), 0.15
"""Cells from a part that are beside it, and the share of them that may show a compression at any scale: of twelve parts
that were pasted in 0.06 at most did, of three in warped pictures 0.28, 0.58 and 0.66, and of a fourth none."""
GOES_ON, CLEAR = 0.5, 3
"""How much more a rhythm of about 8 pixels than others may show, so many cells from a part and farther, in an image
that was brought to the scale of the part, if the part alone is to show a compression. Of 36 lens-warped pictures of
which that was wrongly said 33 had more: blocks go on around their middle, on grids that bend, which no window tells.
Of 116 with a resized part that was pasted in 10 had, mostly from blocks of about that size in the picture itself."""


def fits_elsewhere(part: npt.NDArray[np.bool_], anywhere: npt.NDArray[np.bool_]) -> bool:
    """Whether a part is but where one of the scales fits that were tried, and others fit elsewhere.

    All of what was pasted in shows at one scale, or nearly, and what is around it at none; of a picture that was warped
    each place does at its own. So more of it shows a compression far from the part than in it, or much beside the part.
    """
    beside = doubts.far_from(part, BESIDE[0]) & ~doubts.far_from(part, BESIDE[1])
    elsewhere = int((anywhere & doubts.far_from(part)).sum())
    return elsewhere > int((anywhere & part).sum()) or int((anywhere & beside).sum()) > GRADUAL * int(beside.sum())


def goes_on(restored: npt.NDArray[np.uint8], part: npt.NDArray[np.bool_]) -> bool:
    """Whether blocks show around a part as well, in an image `restored` to its scale, and of about that size."""
    more = blockperiod.rest(restored, ~doubts.far_from(part, CLEAR))
    return more is not None and more >= GOES_ON
