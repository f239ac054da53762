"""The trace of the background's first compression, block by block: finer than windows, once its table is known.

A window of 64 x 64 pixels is needed to find a table and a grid among all; whether a given one is there shows in a few
blocks. On the background's grid a coefficient that its first compression quantised by q lies near a multiple of q:
cos(2 pi c / q) is a in the mean, where a, near 1 for coarse steps and 0 for those that the second compression
drowned, is measured on the image itself; elsewhere it is 0 in the mean. With normal noise of equal deviation the
log-likelihood ratio of "elsewhere" against "background" is proportional to the sum of a (a - 2 cos(2 pi c / q)).
Beyond the 15 estimated steps those of the nearest standard table are tried: where they are wrong, a is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
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


APART = ((4, 4), (2, 3), (5, 2), (3, 6), (6, 5), (2, 6))
"""By how far the blocks of other grids begin off the background's: what coefficients do there they do by themselves."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What the background's first compression left in an image, coefficient by coefficient, at 8 * down + along."""

    steps: npt.NDArray[np.float32]
    """(64,) its table."""
    strength: npt.NDArray[np.float32]
    """(64,) mean cosine in the image, beyond that of another grid; 0 where nothing is told from it."""
    first: tuple[int, int]
    """Row and column, 0 to 7, at which its first block begins."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """What each block of an image on the background's grid says, as far as whole ones fit."""

    against: npt.NDArray[np.float32]
    """(r, c) how much speaks against the background in each block, in nats; 0 where nothing can be told."""
    first: tuple[int, int]
    """Row and column, 0 to 7, at which the first of them begins."""


def moved(first: Sequence[int], by: Sequence[int]) -> tuple[int, int]:
    """The grid that begins `by` so many rows and columns after another."""
    down, along = ((f + b) % BLOCK for f, b in zip(first, by, strict=True))
    return down, along


def beside(shift: int) -> tuple[tuple[int, int], bool]:
    """By how far the blocks of a grid begin off those at `shift` that are compared with it, and whether it is alike.

    `shift` is dy * 8 + dx off the last grid; the other is its mirror image, which lies to the last grid as it does.
    Where blocks begin in the same rows or columns as the last ones, the steps of the last compression are seen through
    the other grid: compared with one apart from both, coefficients seemed to lie on steps of 2 to 10 there. Half a
    block from the last grid, in either direction or both, a grid is its own mirror image, and none is alike.
    """
    if shift == 0:
        return APART[0], True  # what the last compression does to its own blocks is no other grid's
    down, along = divmod(shift, BLOCK)
    if {down, along} <= {0, BLOCK // 2}:
        return ((3 if down else 0), (3 if along else 0)), False
    return (-2 * down % BLOCK, -2 * along % BLOCK), True


def whole_table(table: tuple[int, ...], known: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
    """(64,) steps at 8 * down + along: the 15 estimated ones, and the others of the nearest standard table.

    `known` (64,) are steps, zigzag, that are known better, 0 where none is.
    """
    zigzag = standard_table(round(nearest_qf(table))).astype(np.float32)
    zigzag[:N_COEFS] = table
    if known is not None:
        zigzag[known > 0] = known[known > 0]
    steps = np.empty_like(zigzag)
    steps[[BLOCK * u + v for u, v in ZIGZAG]] = zigzag
    return steps


def measure(
    luma: npt.NDArray[np.uint8],
    found: WindowPosteriors,
    steps: npt.NDArray[np.float32],
    shift: int,
    *,
    all_rows: bool = False,
) -> Trace:
    """How strong the background's trace is in an image (H, W).

    `steps` (64,), at 8 * down + along, and `shift` (dy * 8 + dx, seen from the windows' origin) are those of that
    compression. It is measured on ENOUGH blocks of a large image, or on `all_rows` of them.
    """
    first = moved(divmod(shift, BLOCK), found.origin)
    every = 1 if all_rows else max(1, luma.size // (BLOCK * BLOCK * ENOUGH))
    here, elsewhere = (
        np.where(count < FEWEST, 0, total / np.maximum(count, 1))
        for total, count in (cosines(luma, steps, first, off, every) for off in ((0, 0), APART[0]))
    )
    strength = np.clip(here - np.maximum(elsewhere, 0), 0, STRONGEST).astype(np.float32)
    strength[strength < FAINT] = 0
    return Trace(steps, strength, first)


def blocks(luma: npt.NDArray[np.uint8], seen: Trace) -> Blocks:
    """What the blocks of an image (H, W) say of the background's first compression."""
    sides = [(side - f) // BLOCK for side, f in zip(luma.shape, seen.first, strict=True)]
    against = np.empty(sides, np.float32)
    scale, least = waves(seen.steps)
    kernels.ratios(luma, *seen.first, BASIS, scale, least, seen.strength, against)
    return Blocks(against, seen.first)


def lacking(luma: npt.NDArray[np.uint8], seen: Trace, part: npt.NDArray[np.bool_]) -> float:
    """By how many standard deviations a part of an image (H, W) falls short of the background's trace.

    `part` (ceil(H / 8), ceil(W / 8)) are its cells. Large where the trace is missing; small where it is there, and
    where the part holds too little for it to show. How much more than on other grids the blocks of the part, weighed
    by the strengths, lie on the steps is compared with how much it would be if the trace were there. A cosine deviates
    by the root of one half.
    """
    rows, cols = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    inside = part[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].astype(np.uint8)
    # Out to half a block around, so that the blocks that lie in there whole are those whose centres are in the part.
    half = BLOCK // 2
    wide = np.pad(inside.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1), half)
    wide = np.asarray(cv2.dilate(wide, np.ones((BLOCK + 1, BLOCK + 1), np.uint8)))
    top, left = int(rows[0]) * BLOCK - half, int(cols[0]) * BLOCK - half
    wide = wide[max(0, -top) :, max(0, -left) :]
    top, left = max(0, top), max(0, left)
    pixels = luma[top : top + wide.shape[0], left : left + wide.shape[1]]
    # Blocks that hold black pixels do not count.
    pixels = np.where(wide[: pixels.shape[0], : pixels.shape[1]] > 0, pixels, np.uint8(0))
    first = (seen.first[0] - top, seen.first[1] - left)
    weight = seen.strength.astype(np.float64)
    weight[0] = 0  # where it is flat the mean of a block is the same on all grids
    (total, count), *others = (cosines(pixels, seen.steps, first, off) for off in ((0, 0), *APART))
    expected = float(weight**2 @ count)
    spoken = float(sum(weight @ n for _, n in others))
    if expected == 0 or spoken == 0:
        return 0.0
    by_itself = float(sum(weight @ t for t, _ in others)) / spoken * float(weight @ count)
    share = expected / float(sum(weight**2 @ n for _, n in others))
    return (expected - (float(weight @ total) - by_itself)) / float(np.sqrt(expected / 2 * (1 + share)))


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
    return around_windows(blocks(luma, measure(luma, found, whole_table(table), shift)), found)


def _nearest(centres: npt.NDArray[np.floating[Any]], seen: Blocks, axis: int) -> npt.NDArray[np.int64]:
    """Indices of the blocks whose centres lie nearest to these rows or columns."""
    # Of two that are equally near the second: rounded to even numbers, every other block would be nobody's.
    place = np.floor((centres - seen.first[axis] - BLOCK / 2) / BLOCK + 0.5)
    return np.clip(place, 0, seen.against.shape[axis] - 1).astype(np.int64)


def _summed(seen: Blocks, reach: int) -> npt.NDArray[np.float32]:
    """(r, c) sums over the reach x reach blocks around each."""
    summed = cv2.boxFilter(seen.against, -1, (reach, reach), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(summed, np.float32)


def waves(
    steps: npt.NDArray[np.float32], share: float = SPEAKS
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """1 / q, and the least |c| that counts, this share of q.

    A step of 1 says nothing: no |c| reaches what stands there.

    It is not infinity, as loops that are compiled for fast arithmetic need not compare with it rightly.
    """
    return np.float32(1) / steps, np.where(steps > 1, share * steps, np.float32(1e6)).astype(np.float32)


def cosines(
    luma: npt.NDArray[np.uint8],
    steps: npt.NDArray[np.float32],
    first: Sequence[int],
    off: tuple[int, int],
    every: int = 1,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(64,) sums of the cosines of each coefficient of an image (H, W), and how many of them speak.

    Of blocks that begin at `first` and `off` that, in every `every`-th row of them; those with black or white pixels
    do not count.
    """
    total, count = np.zeros(len(steps)), np.zeros(len(steps))
    scale, least = waves(steps)
    kernels.cosine_sums(luma, *moved(first, off), every, BASIS, scale, least, total, count)
    return total, count
