"""The trace of the background's first compression, block by block: finer than windows, once its table is known.

A window of 64 x 64 pixels is needed to find a table and a grid among all; whether a given one is there shows in a few
blocks. On the background's grid a coefficient that its first compression quantised by q lies near a multiple of q:
cos(2 pi c / q) is a in the mean, where a, near 1 for coarse steps and 0 for those that the second compression
drowned, is measured on the image itself; elsewhere it is 0 in the mean. With normal noise of equal deviation the
log-likelihood ratio of "elsewhere" against "background" is proportional to the sum of a (a - 2 cos(2 pi c / q)).
Beyond the 15 estimated steps those of the nearest standard table are tried: where they are wrong, a is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import kernels
from jscan.jpegtables import N_COEFS, ZIGZAG, dct_basis, nearest_qf, standard_table
from jscan.records import WindowPosteriors
from jscan.tiling import BLOCK, STRIDE, WINDOW, cells

REACH = (3, 5, 9)
"""Blocks along a side over which the ratio is summed up around the centre of a window: 24, 40 and 72 pixels."""
SPEAKS = 0.75
"""Share of its step from which a coefficient counts: a zero lies on every comb."""
FAINT, STRONGEST = 0.08, 0.95
"""Mean cosines below which a coefficient says nothing, and that none is believed to exceed."""
MOST = 12.0
"""Sums are cut off here: surer than that nobody need be."""
ENOUGH = 16_000
"""Blocks of an image whose mean cosines are as good as those of all: they are off by less than 0.01."""
FEWEST = 100
"""Coefficients of a frequency, in the whole image, below which their mean says nothing."""
BASIS = np.ascontiguousarray(dct_basis(), np.float32)
TURNED = np.ascontiguousarray(BASIS.T)


@dataclass(frozen=True, slots=True)
class Blocks:
    """What each block of an image on the background's grid says, as far as whole ones fit."""

    against: npt.NDArray[np.float32]
    """(r, c) how much speaks against the background in each block, in nats; 0 where nothing can be told."""
    first: tuple[int, int]
    """Row and column, 0 to 7, at which the first of them begins."""


def blocks(
    luma: npt.NDArray[np.uint8],
    found: WindowPosteriors,
    table: tuple[int, ...],
    shift: int,
    *,
    all_rows: bool = False,
) -> Blocks:
    """What the blocks of an image (H, W) say of the background's first compression.

    `table` (15,) and `shift` (dy * 8 + dx, seen from the windows' origin) are those of that compression. How strong it
    is is measured on ENOUGH blocks of a large image, or on `all_rows` of them.
    """
    zigzag = standard_table(round(nearest_qf(table))).astype(np.float32)
    zigzag[:N_COEFS] = table
    steps = np.empty_like(zigzag)
    steps[[BLOCK * u + v for u, v in ZIGZAG]] = zigzag
    first = [(s + o) % BLOCK for s, o in zip(divmod(shift, BLOCK), found.origin, strict=True)]
    away = [(f + BLOCK // 2) % BLOCK for f in first]
    here, elsewhere = (_mean_cosines(luma, steps, place, all_rows) for place in (first, away))
    strength = np.clip(here - np.maximum(elsewhere, 0), 0, STRONGEST)
    strength[strength < FAINT] = 0
    against = np.empty([(side - f) // BLOCK for side, f in zip(luma.shape, first, strict=True)], np.float32)
    waves, least = _read(steps)
    kernels.ratios(luma, first[0], first[1], BASIS, TURNED, waves, least, strength.astype(np.float32), against)
    return Blocks(against, (first[0], first[1]))


def around_windows(seen: Blocks, found: WindowPosteriors) -> npt.NDArray[np.float32]:
    """(3, R, C) for the windows of an image: how much speaks against the background around their centres.

    About -3 to 3, above 0 where it is missing, 0 where nothing can be told; the sums are over `REACH` blocks.
    """
    picked = []
    for axis in range(2):
        centres = found.origin[axis] + np.arange(found.present.shape[axis]) * STRIDE + WINDOW / 2
        picked.append(_nearest(centres, seen, axis))
    out = np.empty((len(REACH), *found.present.shape), np.float32)
    for k, reach in enumerate(REACH):
        out[k] = np.clip(_summed(seen, reach)[np.ix_(*picked)], -MOST, MOST) / 4
    return out


def around_cells(seen: Blocks, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(ceil(H / 8), ceil(W / 8)) nats that speak against the background in 24 x 24 pixels around each cell's centre.

    Not cut off, as a sum over so few blocks is what a small part is judged by. `size` is (H, W).
    """
    picked = [_nearest(np.arange(cells(n)) * BLOCK + BLOCK / 2, seen, axis) for axis, n in enumerate(size)]
    return np.ascontiguousarray(_summed(seen, REACH[0])[np.ix_(*picked)])


def background_trace(
    luma: npt.NDArray[np.uint8], found: WindowPosteriors, table: tuple[int, ...], shift: int
) -> npt.NDArray[np.float32]:
    """(3, R, C) what `around_windows` says of `blocks`."""
    return around_windows(blocks(luma, found, table, shift), found)


def _nearest(centres: npt.NDArray[np.floating[Any]], seen: Blocks, axis: int) -> npt.NDArray[np.int64]:
    """Indices of the blocks whose centres lie nearest to these rows or columns."""
    place = np.rint((centres - seen.first[axis] - BLOCK / 2) / BLOCK)
    return np.clip(place, 0, seen.against.shape[axis] - 1).astype(np.int64)


def _summed(seen: Blocks, reach: int) -> npt.NDArray[np.float32]:
    """(r, c) sums over the reach x reach blocks around each."""
    summed = cv2.boxFilter(seen.against, -1, (reach, reach), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(summed, np.float32)


def _read(steps: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """1 / q, and the least |c| that counts; a step of 1 says nothing: no |c| reaches what stands there.

    It is not infinity, as loops that are compiled for fast arithmetic need not compare with it rightly.
    """
    return np.float32(1) / steps, np.where(steps > 1, SPEAKS * steps, np.float32(1e6)).astype(np.float32)


def _mean_cosines(
    luma: npt.NDArray[np.uint8], steps: npt.NDArray[np.float32], first: list[int], all_rows: bool
) -> npt.NDArray[np.float32]:
    """(64,) mean cosine of each coefficient, 0 where fewer than FEWEST speak."""
    total, count = np.zeros(len(steps)), np.zeros(len(steps))
    waves, least = _read(steps)
    every = 1 if all_rows else max(1, luma.size // (BLOCK * BLOCK * ENOUGH))
    kernels.cosine_sums(luma, first[0], first[1], every, BASIS, TURNED, waves, least, total, count)
    return np.asarray(np.where(count < FEWEST, 0, total / np.maximum(count, 1)), np.float32)
