"""Where the background's first compression is missing, as sharply as its blocks allow: for parts smaller than a window.

`trace` weighs cosines; here the likelihood itself is taken. Where the background's first compression quantised a
coefficient by q, its values have the density of pictures' coefficients (Laplace's) rounded to multiples of q, and the
noise of the second compression; where it is missing they have that density alone. How strong the noise is and how wide
the density is measured on the image itself, for each coefficient and for blocks of like activity: a flat block is
quantised to zeros, which adds less noise. A ratio that takes all blocks for alike finds half as many squares of 32 x
32 pixels at the same number of false alarms (`train/README.md`).

Clipped colours make their blocks obey no comb. They have to be left out: with them, a picture's brightest places are
the likeliest not to have its first compression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jscan import clipping, kernels, trace
from jscan.clipping import Clipped
from jscan.tiling import BLOCK
from jscan.trace import APART, BASIS, ENOUGH, Blocks, Trace

SPEAKS = 0.4
"""Share of its step from which a coefficient counts; those that lie nearer to 0 do so with any history."""
EDGES = np.array([30, 60, 120, 230, 380, 600, 950], np.float32)
"""Sums of |c| of a block, the first coefficient's aside, that part blocks of one activity from those of the next."""
FEWEST = 60
"""Coefficients of a frequency, in the whole image, below which their mean says nothing."""
SHARED = 20.0
"""So many coefficients of blocks of any activity count beside those of one, of which there may be few."""
FAINT, STRONGEST = 0.06, 0.995
"""Mean cosines below which a coefficient says nothing, and that none is believed to exceed."""
ODD = 0.02
"""Share of the coefficients that obey no comb whatever their history: none speaks against it by more than 4 nats."""
NARROWEST = 0.2
"""Mean of |c|, in steps, that none is below: of coefficients that large few are as rare as Laplace's density says."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What the coefficients of an image do, for blocks of each activity, at 8 * down + along."""

    deviation: npt.NDArray[np.float32]
    """(K, 64) of the noise around multiples of the step, in steps; 0 where nothing can be told."""
    spread: npt.NDArray[np.float32]
    """(K, 64) mean of |c|, in steps."""


class Likelihood:
    """What an image (H, W) says against its background's first compression, of which the trace has been `seen`.

    Where colours were clipped is asked only where something is missing: most images are spared decoding them.
    """

    def __init__(self, luma: npt.NDArray[np.uint8], seen: Trace, clipped: Clipped | None) -> None:
        self._luma, self._seen, self._clipped = luma, seen, clipped
        self._share: npt.NDArray[np.float32] | None = None
        self._noise = measure(luma, seen, self._skipped())

    def around_cells(self, least: float) -> npt.NDArray[np.float32]:
        """(ceil(H / 8), ceil(W / 8)) nats around each cell, see `trace.around_cells`.

        Clipped colours may hide the compression wherever it is `least` or more.
        """
        size = (self._luma.shape[0], self._luma.shape[1])
        found = trace.around_cells(against(self._luma, self._seen, self._noise, self._skipped()), size)
        if float(found.max()) < least or not self._look():
            return found
        return trace.around_cells(against(self._luma, self._seen, self._noise, self._skipped()), size)

    def shows(self, part: npt.NDArray[np.bool_]) -> float:
        """By how many nats more a part of the image speaks for its background's first compression than for another.

        The others are the same table on each of six other grids: what content alone makes of it. `part` (ceil(H / 8),
        ceil(W / 8)) are its cells. 0 where they speak against it.
        """
        here = self.against(part)
        return 0.0 if here >= 0 else min(self.against(part, off) for off in APART) - here

    def against(self, part: npt.NDArray[np.bool_], off: tuple[int, int] = (0, 0)) -> float:
        """Nats that the blocks of a part speak against the background's compression, on a grid `off` its own."""
        self._look()
        rows, cols = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
        # A cell more around, so that all blocks are whole; from a multiple of 8 on, so that they begin where they did.
        top, left = max(0, int(rows[0]) - 1), max(0, int(cols[0]) - 1)
        box = (slice(top, int(rows[-1]) + 2), slice(left, int(cols[-1]) + 2))
        luma = np.ascontiguousarray(self._luma[tuple(slice(BLOCK * b.start, BLOCK * b.stop) for b in box)])
        share = None if self._share is None else self._share[box]

        seen = _moved(self._seen, off)
        skip = clipping.blocks(share, luma.shape, seen.first)
        # Blocks whose middle lies in the part.
        down, across = (
            np.minimum((BLOCK * np.arange(n) + f + BLOCK // 2) // BLOCK, side - 1)
            for n, f, side in zip(skip.shape, seen.first, part[box].shape, strict=True)
        )
        return float(against(luma, seen, self._noise, skip).against[part[box][np.ix_(down, across)]].sum())

    def _look(self) -> bool:
        """Whether it is known now where colours were clipped, and was not before."""
        if self._clipped is None or self._share is not None:
            return False
        self._share = self._clipped()
        if self._share is None:
            return False
        self._noise = measure(self._luma, self._seen, self._skipped())
        return True

    def _skipped(self) -> npt.NDArray[np.bool_]:
        return clipping.blocks(self._share, self._luma.shape, self._seen.first)


def _moved(seen: Trace, off: tuple[int, int]) -> Trace:
    """The same on another grid."""
    return replace(seen, first=trace.moved(seen.first, off))


def measure(luma: npt.NDArray[np.uint8], seen: Trace, skip: npt.NDArray[np.bool_]) -> Noise:
    """What the coefficients of an image (H, W) do on the background's grid, but for the blocks to `skip` (r, c)."""
    every = max(1, luma.size // (BLOCK * BLOCK * ENOUGH))
    scale, least = trace.waves(seen.steps, SPEAKS)
    total, count, size = (np.zeros((len(EDGES) + 1, BLOCK * BLOCK)) for _ in range(3))
    number = np.zeros(len(EDGES) + 1)
    kernels.comb_facts(luma, *seen.first, every, BASIS, scale, least, EDGES, skip, total, count, size, number)
    by_itself = np.maximum(_elsewhere(luma, seen, every), 0)
    together = count.sum(axis=0)
    mean = np.where(together < FEWEST, 0, total.sum(axis=0) / np.maximum(together, 1)) - by_itself
    mean = np.clip(mean, 0, STRONGEST)
    each = np.clip((total - count * by_itself + SHARED * mean) / (count + SHARED), 0, STRONGEST)
    # The mean cosine of a normal deviate is exp(-2 pi^2 s^2).
    with np.errstate(divide="ignore"):
        deviation = np.sqrt(-2 * np.log(each)) / (2 * np.pi)
    deviation[:, mean < FAINT] = 0
    deviation[~np.isfinite(deviation)] = 0
    spread = np.maximum(size / np.maximum(number, 1)[:, None] * scale, NARROWEST)
    return Noise(deviation.astype(np.float32), spread.astype(np.float32))


def against(luma: npt.NDArray[np.uint8], seen: Trace, noise: Noise, skip: npt.NDArray[np.bool_]) -> Blocks:
    """What speaks against the background's first compression in each block of an image (H, W); 0 in those to `skip`."""
    out = np.empty(skip.shape, np.float32)
    scale, least = trace.waves(seen.steps, SPEAKS)
    kernels.comb_ratios(
        luma, *seen.first, BASIS, scale, least, EDGES, skip, noise.deviation, noise.spread, np.float32(ODD), out
    )
    return Blocks(out, seen.first)


def _elsewhere(luma: npt.NDArray[np.uint8], seen: Trace, every: int) -> npt.NDArray[np.float64]:
    """(64,) the mean cosines on another grid: what the coefficients do by themselves."""
    scale, least = trace.waves(seen.steps, SPEAKS)
    total, count = np.zeros(BLOCK * BLOCK), np.zeros(BLOCK * BLOCK)
    kernels.cosine_sums(luma, *_moved(seen, APART[0]).first, every, BASIS, scale, least, total, count)
    return np.where(count < FEWEST, 0, total / np.maximum(count, 1))
