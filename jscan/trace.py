"""The trace of the background's first compression, block by block: finer than windows, once its table is known.

A window of 64 x 64 pixels is needed to find a table and a grid among all; whether a given one is there shows in a few
blocks. On the background's grid a coefficient that its first compression quantised by q lies near a multiple of q:
cos(2 pi c / q) is a in the mean, where a, near 1 for coarse steps and 0 for those that the second compression
drowned, is measured on the image itself; elsewhere it is 0 in the mean. With normal noise of equal deviation the
log-likelihood ratio of "elsewhere" against "background" is proportional to the sum of a (a - 2 cos(2 pi c / q)).
Beyond the 15 estimated steps those of the nearest standard table are tried: where they are wrong, a is 0.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from jscan import kernels
from jscan.jpegtables import N_COEFS, ZIGZAG, dct_basis, nearest_qf, standard_table
from jscan.records import WindowPosteriors
from jscan.tiling import BLOCK, STRIDE, WINDOW

REACH = (3, 5, 9)
"""Blocks along a side over which the ratio is summed up around the centre of a window: 24, 40 and 72 pixels."""
SPEAKS = 0.75
"""Share of its step from which a coefficient counts: a zero lies on every comb."""
FAINT, STRONGEST = 0.08, 0.95
"""Mean cosines below which a coefficient says nothing, and that none is believed to exceed."""
MOST = 12.0
"""Sums are cut off here: surer than that nobody need be."""
FEWEST = 100
"""Coefficients of a frequency, in the whole image, below which their mean says nothing."""
_BASES = tuple(np.ascontiguousarray(basis, np.float32) for basis in (dct_basis(), dct_basis().T))


def background_trace(
    luma: npt.NDArray[np.uint8], found: WindowPosteriors, table: tuple[int, ...], shift: int
) -> npt.NDArray[np.float32]:
    """(3, R, C) for the windows of an image (H, W): how much speaks against the background around their centres.

    `table` (15,) and `shift` (dy * 8 + dx, seen from the windows' origin) are the background's first compression. About
    -3 to 3, above 0 where it is missing, 0 where nothing can be told; the sums are over `REACH` blocks.
    """
    rows, cols = found.present.shape
    zigzag = standard_table(round(nearest_qf(table))).astype(np.float32)
    zigzag[:N_COEFS] = table
    steps = np.empty_like(zigzag)
    steps[[BLOCK * u + v for u, v in ZIGZAG]] = zigzag
    first = [(s + o) % BLOCK for s, o in zip(divmod(shift, BLOCK), found.origin, strict=True)]
    away = [(f + BLOCK // 2) % BLOCK for f in first]
    here, elsewhere = (_mean_cosines(luma, steps, place) for place in (first, away))
    strength = np.clip(here - np.maximum(elsewhere, 0), 0, STRONGEST)
    strength[strength < FAINT] = 0
    blocks = [(side - f) // BLOCK for side, f in zip(luma.shape, first, strict=True)]
    against = np.empty(blocks, np.float32)
    kernels.ratios(luma, first[0], first[1], *_BASES, *_read(steps), strength.astype(np.float32), against)
    picked = []
    for origin, begin, count, length in zip(found.origin, first, (rows, cols), against.shape, strict=True):
        centres = origin + np.arange(count) * STRIDE + WINDOW / 2
        picked.append(np.clip(np.rint((centres - begin - BLOCK / 2) / BLOCK), 0, length - 1).astype(np.int64))
    out = np.empty((len(REACH), rows, cols), np.float32)
    for k, reach in enumerate(REACH):
        summed = cv2.boxFilter(against, -1, (reach, reach), normalize=False, borderType=cv2.BORDER_CONSTANT)
        out[k] = np.clip(summed[np.ix_(*picked)], -MOST, MOST) / 4
    return out


def _read(steps: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """1 / q, and the least |c| that counts; a step of 1 says nothing."""
    return np.float32(1) / steps, np.where(steps > 1, SPEAKS * steps, np.float32(np.inf)).astype(np.float32)


def _mean_cosines(
    luma: npt.NDArray[np.uint8], steps: npt.NDArray[np.float32], first: list[int]
) -> npt.NDArray[np.float32]:
    """(64,) mean cosine of each coefficient, 0 where fewer than FEWEST speak."""
    total, count = np.zeros(len(steps)), np.zeros(len(steps))
    kernels.cosine_sums(luma, first[0], first[1], *_BASES, *_read(steps), total, count)
    return np.asarray(np.where(count < FEWEST, 0, total / np.maximum(count, 1)), np.float32)
