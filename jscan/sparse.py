"""Looking at every second window first, and at those between where their neighbours do not agree.

Neighbouring windows share three quarters of their pixels, so that most of them say the same. What a window between
agreeing neighbours would have said is their mean; measured on double JPEGs, that mean is a little more often right than
the window itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

PRESENT_APART = 0.15
"""Difference of two probabilities of a compression from which they count as different."""
SURE = 0.5
"""Probability from which a window counts as sure of something."""
STEPS_APART = 0.15
"""Share of the groups of a table in which two sure windows may differ and still agree."""


def axis(count: int) -> npt.NDArray[np.int64]:
    """Positions along an axis that are looked at first: every second one, and the last."""
    return np.unique(np.append(np.arange(0, count, 2), count - 1))


def between(count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(count,) for each position the indices in `axis` of the nearest ones before and behind it, or its own."""
    first = axis(count)
    before = np.searchsorted(first, np.arange(count), side="right") - 1
    behind = np.searchsorted(first, np.arange(count), side="left")
    return before, behind


def disagreement(
    logp: FloatArray, shift: FloatArray, present: FloatArray, groups: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """(r, c) where two windows disagree among the four at (i, j), (i, j + 1), (i + 1, j) and (i + 1, j + 1).

    `logp` (r, c, K), `shift` (r, c, 64) and `present` (r, c) are of the windows looked at first; `groups` are the
    borders of the posteriors in `logp`. In the last row and column two windows are left of the four, in the corner one.
    """
    steps = np.stack([logp[..., a:b].argmax(axis=2) for a, b in pairwise(groups)], axis=2)
    sure_steps = np.mean([logp[..., a:b].max(axis=2) for a, b in pairwise(groups)], axis=0) > np.log(SURE)
    place, sure_place = shift.argmax(axis=2), shift.max(axis=2) > np.log(SURE)
    there = present > SURE

    def apart(a: tuple[slice, slice], b: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        both = there[a] & there[b]
        moved = both & sure_place[a] & sure_place[b] & (place[a] != place[b])
        other = (steps[a] != steps[b]).mean(axis=2) > STEPS_APART
        other &= both & sure_steps[a] & sure_steps[b]
        found: npt.NDArray[np.bool_] = (np.abs(present[a] - present[b]) > PRESENT_APART) | moved | other
        return found

    low, high, each = slice(None, -1), slice(1, None), slice(None)
    across, down = np.zeros(there.shape, bool), np.zeros(there.shape, bool)
    across[:, low] = apart((each, low), (each, high))
    down[low] = apart((low, each), (high, each))
    out = across | down
    out[low] |= across[high]
    out[:, low] |= down[:, high]
    out[low, low] |= apart((low, low), (high, high)) | apart((low, high), (high, low))
    return out
