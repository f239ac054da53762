"""The trace of the background's first compression, block by block: finer than windows, once its table is known.

A window of 64 x 64 pixels is needed to find a table and a grid among all; whether a given one is there shows in a few
blocks. On the background's grid a coefficient that its first compression quantised by q lies near a multiple of q:
cos(2 pi c / q) is a in the mean, where a, near 1 for coarse steps and 0 for those that the second compression
drowned, is measured on the image itself; elsewhere it is 0 in the mean. With normal noise of equal deviation the
log-likelihood ratio of "elsewhere" against "background" is proportional to the sum of a (a - 2 cos(2 pi c / q)).
Beyond the 15 estimated steps those of the nearest standard table are tried: where they are wrong, a is 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

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
_STRIP = 64


def background_trace(
    luma: npt.NDArray[np.uint8], found: WindowPosteriors, table: tuple[int, ...], shift: int
) -> npt.NDArray[np.float32]:
    """(3, R, C) for the windows of an image (H, W): how much speaks against the background around their centres.

    `table` (15,) and `shift` (dy * 8 + dx, seen from the windows' origin) are the background's first compression. About
    -3 to 3, above 0 where it is missing, 0 where nothing can be told; the sums are over `REACH` blocks.
    """
    rows, cols = found.present.shape
    steps = standard_table(round(nearest_qf(table))).astype(np.float32)
    steps[:N_COEFS] = table
    first = [(s + o) % BLOCK for s, o in zip(divmod(shift, BLOCK), found.origin, strict=True)]
    away = [(f + BLOCK // 2) % BLOCK for f in first]
    here, elsewhere = (_mean_cosines(luma, steps, place) for place in (first, away))
    strength = np.clip(here - np.maximum(elsewhere, 0), 0, STRONGEST)
    strength[strength < FAINT] = 0
    against = np.concatenate([_against(cosines, strength) for cosines in _cosines(luma, steps, first)])
    picked = []
    for origin, begin, count, length in zip(found.origin, first, (rows, cols), against.shape, strict=True):
        centres = origin + np.arange(count) * STRIDE + WINDOW / 2
        picked.append(np.clip(np.rint((centres - begin - BLOCK / 2) / BLOCK), 0, length - 1).astype(np.int64))
    out = np.empty((len(REACH), rows, cols), np.float32)
    for k, reach in enumerate(REACH):
        summed = cv2.boxFilter(against, -1, (reach, reach), normalize=False, borderType=cv2.BORDER_CONSTANT)
        out[k] = np.clip(summed[np.ix_(*picked)], -MOST, MOST) / 4
    return out


def _cosines(
    luma: npt.NDArray[np.uint8], steps: npt.NDArray[np.float32], first: list[int]
) -> Iterator[npt.NDArray[np.float32]]:
    """(r, c, 64) cos(2 pi c / q) of the blocks from `first` on, some rows at a time; NaN where it says nothing.

    Blocks that hold black or white pixels say nothing: clipping moves their coefficients.
    """
    across = (luma.shape[1] - first[1]) // BLOCK
    basis, (down, along) = dct_basis(), np.array(ZIGZAG).T
    for top in range(first[0], luma.shape[0] - BLOCK + 1, BLOCK * _STRIP):
        count = min(_STRIP, (luma.shape[0] - top) // BLOCK)
        part = luma[top : top + BLOCK * count, first[1] : first[1] + BLOCK * across]
        clipped = ((part == 0) | (part == 255)).reshape(count, BLOCK, across, BLOCK).any(axis=(1, 3))
        columns = np.matmul(basis, (part.astype(np.float32) - 128).reshape(count, BLOCK, BLOCK * across))
        blocks = np.matmul(columns.reshape(count, BLOCK, across, BLOCK), basis.T)
        coefficients = blocks[:, down, :, along].transpose(1, 2, 0)
        cosines = np.cos(np.float32(2 * np.pi) / steps * coefficients)
        speaks = (np.abs(coefficients) > SPEAKS * steps) & (steps > 1) & ~clipped[..., None]
        yield np.where(speaks, cosines, np.float32(np.nan))


def _mean_cosines(
    luma: npt.NDArray[np.uint8], steps: npt.NDArray[np.float32], first: list[int]
) -> npt.NDArray[np.float32]:
    """(64,) mean cosine of each coefficient, 0 where fewer than FEWEST speak."""
    total, count = np.zeros(len(steps)), np.zeros(len(steps))
    for cosines in _cosines(luma, steps, first):
        total += np.nansum(cosines, axis=(0, 1), dtype=np.float64)
        count += np.isfinite(cosines).sum(axis=(0, 1))
    return np.asarray(np.where(count < FEWEST, 0, total / np.maximum(count, 1)), np.float32)


def _against(cosines: npt.NDArray[np.float32], strength: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(r, c) sums over the coefficients of each block that speak (r, c, 64); `strength` (64,)."""
    ratio = strength * (strength - 2 * cosines)
    return np.asarray(np.nansum(ratio, axis=2), np.float32)
