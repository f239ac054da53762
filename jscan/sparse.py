"""Looking at every second window first, and at those between where their neighbours do not agree.

Neighbouring windows share three quarters of their pixels, so that most of them say the same. What a window between
agreeing neighbours would have said is their mean; measured on double JPEGs, that mean is a little more often right than
the window itself. Where a glance shows that there is nothing to be found, every eighth window is enough.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

PRESENT_APART = 0.15
"""Difference of two probabilities of a compression from which they count as different, where one of them is sure."""
SURE = 0.5
"""Probability from which a window counts as sure of something."""
STEPS_APART = 0.15
"""Share of the groups of a table in which two sure windows may differ and still agree."""


QUIET = 0.4
"""Expected probability of a compression, by a glance, below which windows are quiet: in forged images with a region
that was compressed before, nearly no window was in which a closer look was sure of it."""
CALM = 0.32
"""Median of these in an image below which any of its windows may be quiet. Most photographs as cameras wrote them stay
below; pictures whose first quality was above their last one, which shows only in many windows together, do not."""
SMALL = 4096
"""Windows, a megapixel, of an image below which none is quiet: its parts are small, and so is what it costs."""
AROUND = 2
"""Windows around one that is not quiet, to each side, that are not either."""
EVERY_QUIET = 8
"""Of how many quiet windows along an axis one is looked at."""


def calm(glance: FloatArray) -> bool:
    """Whether an image is large and CALM; in others, windows that say little alone say something together."""
    return glance.size >= SMALL and float(np.median(glance)) < CALM


def quiet(glance: FloatArray) -> npt.NDArray[np.bool_]:
    """(R, C) windows far from any for which the mean of `glance` (R, C) over its neighbours speaks of a compression."""
    mean = cv2.blur(glance, (3, 3), borderType=cv2.BORDER_REPLICATE)
    side = 2 * AROUND + 1
    return np.asarray(cv2.dilate(mean, np.ones((side, side), np.uint8)) < QUIET)


@functools.cache
def axis(count: int) -> npt.NDArray[np.int64]:
    """Positions along an axis that are looked at first: every second one. They are not to be changed."""
    return np.arange(0, count, 2)


def quiet_axis(count: int) -> npt.NDArray[np.int64]:
    """Those of them that are enough where windows are quiet: the middle of every eight."""
    first = min(EVERY_QUIET // 2, (count - 1) // 4 * 2)
    return np.arange(first, count, EVERY_QUIET)


@functools.cache
def between(count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(count,) for each position the indices in `axis` of the nearest ones before and behind it, or its own.

    Behind the last one there is none, which lies before it as well. They are not to be changed.
    """
    every = np.arange(count)
    return every // 2, np.minimum((every + 1) // 2, len(axis(count)) - 1)


def fill(first: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """(R, C) numbers of all windows from those of the ones that are looked at first: in between their mean."""
    (above, below), (left, right) = between(shape[0]), between(shape[1])
    rows = first[above] + first[below]
    return np.asarray((rows[:, left] + rows[:, right]) / 4, np.float32)


def around(
    at: npt.NDArray[np.int64], first: npt.NDArray[np.int64]
) -> tuple[tuple[npt.NDArray[np.int64], FloatArray], ...]:
    """The positions in `first` before and behind each of `at`, with their weights; both the same beyond the ends."""
    low = first[np.maximum(np.searchsorted(first, at, side="right") - 1, 0)]
    high = first[np.minimum(np.searchsorted(first, at, side="left"), len(first) - 1)]
    share = ((at - low) / np.maximum(high - low, 1)).astype(np.float32)
    return (low, 1 - share), (high, share)


def disagreement(p: FloatArray, shift: FloatArray, present: FloatArray, groups: Sequence[int]) -> npt.NDArray[np.bool_]:
    """(r, c) where two windows disagree among the four at (i, j), (i, j + 1), (i + 1, j) and (i + 1, j + 1).

    The probabilities `p` (r, c, K), `shift` (r, c, 64) and `present` (r, c) are of the windows looked at first;
    `groups` are the borders of the posteriors in `p`. In the last row and column two windows are left of the four, in
    the corner one.
    """
    best = np.stack([p[..., a:b].argmax(axis=2) for a, b in pairwise(groups)], axis=2)
    most = np.take_along_axis(p, best + np.asarray(groups[:-1]), axis=2)
    steps, sure_steps = best, np.log(most).mean(axis=2) > np.log(SURE)
    place, sure_place = shift.argmax(axis=2), shift.max(axis=2) > SURE
    there = present > SURE

    def apart(a: tuple[slice, slice], b: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        both = there[a] & there[b]
        moved = both & sure_place[a] & sure_place[b] & (place[a] != place[b])
        other = (steps[a] != steps[b]).mean(axis=2) > STEPS_APART
        other &= both & sure_steps[a] & sure_steps[b]
        here = (there[a] | there[b]) & (np.abs(present[a] - present[b]) > PRESENT_APART)
        found: npt.NDArray[np.bool_] = here | moved | other
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
