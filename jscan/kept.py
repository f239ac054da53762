"""How much of a first compression's trace is left, beside what the last compression alone would have left of it.

Where nothing was done to a picture between two compressions, its coefficients lie as near to the multiples of the first
steps as the noise of the last compression lets them, and how near that is can be found out: the picture itself is
compressed with both tables once more, on other grids. What was filtered, made brighter or darker, warped or given to
another codec in between keeps less, and not the same everywhere; that parts of it differ then says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jscan import trace
from jscan.jpegtables import N_COEFS, Q1_MAX, ZIGZAG
from jscan.tiling import BLOCK
from jscan.trace import BASIS, ENOUGH, moved

APART = ((4, 4), (3, 5), (5, 2), (2, 3))
"""How far off the picture's own grids the two compressions are tried: there its coefficients lie anywhere."""
MARGIN = 2 * BLOCK
"""Pixels around a part that are compressed with it, so that all its blocks are whole."""
BAND = 128
"""Rows of pixels that are looked at together; of a large picture evenly spread ones are."""
FEWEST = 50
"""Coefficients of a frequency below which their mean says nothing."""
SHOWN = 0.15
"""Mean cosine that two compressions must leave of a frequency, at least, for it to be compared."""
ENOUGH_WEIGHT = 200.0
"""Coefficients, each counted by the square of that cosine, from which the share is said: it deviates by 0.05 then."""
MOST_CAPPED = 2.5
"""How many times as large as the largest step that is told a step is looked for, where that is what is told."""
_AT = [BLOCK * u + v for u, v in ZIGZAG]


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a first compression's trace."""

    share: float
    """Of what the last compression alone would have left; 1 where nothing was done."""
    weight: float
    """Coefficients that told it, each counted by the square of the mean cosine that two compressions leave of it."""


def share(
    luma: npt.NDArray[np.uint8],
    steps: npt.NDArray[np.float32],
    first: tuple[int, int],
    q2: Sequence[int],
    origin: tuple[int, int],
    where: npt.NDArray[np.bool_],
    *,
    least: float = ENOUGH_WEIGHT,
) -> Left | None:
    """The share of a first compression's trace that is left in some cells of an image (H, W).

    `steps` (64,), at 8 * down + along, and `first`, where a block begins, 0 to 7 down and along, are of the first
    compression, `q2` (64,), zigzag, and `origin` of the last one; `where` (ceil(H / 8), ceil(W / 8)) are the cells.
    None where there is too little to be compared, of a weight below `least`.
    """
    last = np.empty(BLOCK * BLOCK, np.float32)
    last[_AT] = np.maximum(q2, 1)
    pieces = list(_pieces(luma, where))
    steps = _beyond(pieces, steps, first)
    between = moved(first, (-origin[0], -origin[1]))
    off = next(d for d in APART if d not in (between, moved((0, 0), (-between[0], -between[1]))))
    here, there = np.zeros((2, 2, BLOCK * BLOCK)), np.zeros((2, 2, BLOCK * BLOCK))
    for pixels, inside, (top, left) in pieces:
        one, two = moved(first, (-top, -left)), moved(origin, (-top, -left))
        again = _compressed(_compressed(pixels, steps, moved(one, off)), last, moved(two, off))
        here += _sums(pixels, inside, steps, one)
        there += _sums(again, inside, steps, moved(one, off))
    (left_of_it, count), (expected, tried) = _means(here), _means(there)
    used = [k for k in _AT[1:N_COEFS] if min(count[k], tried[k]) >= FEWEST and expected[k] >= SHOWN]
    weight = count[used] * expected[used] ** 2
    if weight.sum() < least:
        return None
    shares = left_of_it[used] / expected[used]
    order = np.argsort(shares)
    middle = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    # A step that was taken for another makes one mean too small, and the mean of all more than the middle one.
    return Left(float(max(shares[order][middle], (weight @ shares) / weight.sum())), float(weight.sum()))


_Piece = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], tuple[int, int]]


def _pieces(luma: npt.NDArray[np.uint8], where: npt.NDArray[np.bool_]) -> Iterator[_Piece]:
    """Parts of an image that hold up to about ENOUGH blocks of the cells: pixels, which count, and where they begin."""
    rows, cols = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return
    left, right = max(0, int(cols[0]) * BLOCK - MARGIN), int(cols[-1] + 1) * BLOCK + MARGIN
    first, last = int(rows[0]) * BLOCK, min(int(rows[-1] + 1) * BLOCK, luma.shape[0])
    every = max(1, int(where.sum()) // ENOUGH)
    for begin in range(first, last, BAND * every):
        end, top = min(begin + BAND, last), max(0, begin - MARGIN)
        pixels = luma[top : end + MARGIN, left:right]
        wide = np.zeros(where.shape, bool)
        wide[begin // BLOCK : -(-end // BLOCK)] = where[begin // BLOCK : -(-end // BLOCK)]
        cells = wide[top // BLOCK :, left // BLOCK :].repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
        inside = cells[: pixels.shape[0], : pixels.shape[1]]
        # At the edges blocks are cut off, so that they are compressed once or not at all.
        inside[:BLOCK], inside[-BLOCK:], inside[:, :BLOCK], inside[:, -BLOCK:] = False, False, False, False
        yield pixels, inside, (top, left)


def _compressed(
    pixels: npt.NDArray[np.uint8], steps: npt.NDArray[np.float32], first: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """The pixels (H, W) as they are after a compression with these steps (64,) of the blocks from `first` on."""
    out = pixels.astype(np.float32)
    rows, cols = ((n - f) // BLOCK for n, f in zip(pixels.shape, first, strict=True))
    box = (slice(first[0], first[0] + BLOCK * rows), slice(first[1], first[1] + BLOCK * cols))
    blocks = out[box].reshape(rows, BLOCK, cols, BLOCK) - np.float32(128)
    table = steps.reshape(BLOCK, BLOCK)
    coefs = np.rint(np.einsum("ua,racb,vb->rcuv", BASIS, blocks, BASIS, optimize=True) / table) * table
    blocks = np.einsum("ua,rcuv,vb->racb", BASIS, coefs, BASIS, optimize=True) + np.float32(128)
    out[box] = blocks.reshape(BLOCK * rows, BLOCK * cols)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def _sums(
    pixels: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_], steps: npt.NDArray[np.float32], first: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """(2, 2, 64) sums of cosines and how many they are, on a grid and on another."""
    kept = _only(pixels, inside)
    return np.array([trace.cosines(kept, steps, first, off) for off in ((0, 0), trace.APART[0])])


def _only(pixels: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The pixels, of which blocks that are not all inside do not count: they hold black ones."""
    return np.where(inside, pixels, np.uint8(0))


def _means(sums: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(64,) mean cosines beyond those of another grid, and of how many."""
    own, other = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return own - np.maximum(other, 0), sums[0, 1]


def _beyond(
    pieces: Sequence[_Piece], steps: npt.NDArray[np.float32], first: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """The steps, with those of which is known only that they are as large or larger replaced by what fits best."""
    capped = [k for k, cap in zip(_AT, Q1_MAX, strict=False) if steps[k] >= cap]
    if not capped:
        return steps
    out, best = steps.copy(), np.full(BLOCK * BLOCK, -1.0)
    for more in range(int((MOST_CAPPED - 1) * max(Q1_MAX))):
        tried = steps.copy()
        tried[capped] += more
        total, count = np.zeros(BLOCK * BLOCK), np.zeros(BLOCK * BLOCK)
        for pixels, inside, (top, left) in pieces:
            some, number = trace.cosines(_only(pixels, inside), tried, moved(first, (-top, -left)), (0, 0))
            total += some
            count += number
        mean = np.where(count < FEWEST, 0, total / np.maximum(count, 1))
        for k in capped:
            if mean[k] > best[k] and tried[k] <= MOST_CAPPED * steps[k]:
                best[k], out[k] = mean[k], tried[k]
    return out
