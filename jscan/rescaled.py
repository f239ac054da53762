"""Brings an image that was resized after a JPEG compression back to the scale at which its blocks are 8 x 8 pixels.

The period of the block edges (`jscan/blockperiod.py`) tells the scale to a few thousandths, and nothing of where the
blocks began between the pixels. Both are looked for in a square of the image where the period shows most.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from jscan.blockperiod import Candidate
from jscan.tiling import BLOCK

LONGEST = 32_000
"""Pixels along a side that OpenCV can warp."""
SCALES = (1.0, 0.997, 1.003, 0.9925, 1.0075)
"""Factors tried around the scale of a candidate: over a window an error of 1 % blurs the comb."""
FINE_SCALES = (0.9985, 1.0015)
"""And around the best of these."""
PHASES = ((0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5))
"""Fractions of a pixel, down and across, tried with each factor: blocks that begin between pixels show no comb."""
FINE_PHASES = ((0.25, 0.0), (-0.25, 0.0), (0.0, 0.25), (0.0, -0.25))
"""And around the best of these."""
SQUARE, FINE_SQUARE = 256, 384
"""Pixels along a side of the squares in which they are tried."""
LEAST_SHOWN = 8.0
"""Windows that must show a compression there, each counted by what its probability is above one half. Eleven resized
parts that were pasted in had 16 to 213; of 33 candidates in 14 pictures that were warped 15 had less than this."""

Place = tuple[int, int]
"""(y, x) in pixels."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How an image is brought back to blocks of 8 pixels."""

    factor: float
    """By which it is enlarged."""
    phase: tuple[float, float] = (0.0, 0.0)
    """By which it is then moved up and left, in the new pixels."""

    def about(self, place: Place, fine: float = 1.0, move: tuple[float, float] = (0.0, 0.0)) -> Scale:
        """The scale `fine` times as large at which `place` lies where it did between the new pixels, or `move` on."""
        grown = self.factor * (fine - 1)
        down, across = (
            (p + (at + 0.5) * grown + more) % 1 for p, at, more in zip(self.phase, place, move, strict=True)
        )
        return Scale(self.factor * fine, (down, across))

    def within(self, corner: Place) -> Scale:
        """The same for a piece of the image that begins at `corner`."""
        down, across = ((p - at * self.factor) % 1 for p, at in zip(self.phase, corner, strict=True))
        return Scale(self.factor, (down, across))


def size(luma: npt.NDArray[np.uint8], factor: float) -> tuple[int, int]:
    """(height, width) of the image enlarged by this factor."""
    return round(luma.shape[0] * factor), round(luma.shape[1] * factor)


def restore(luma: npt.NDArray[np.uint8], scale: Scale) -> npt.NDArray[np.uint8]:
    """The image (H, W) uint8 at another scale."""
    height, width = size(luma, scale.factor)
    down, across = ((0.5 + p) / scale.factor - 0.5 for p in scale.phase)
    back = np.array([[1 / scale.factor, 0, across], [0, 1 / scale.factor, down]])
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(luma, back, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def around(candidate: Candidate) -> list[Scale]:
    """Scales that may be a candidate's, the likeliest first."""
    first = Scale(BLOCK / candidate.period)
    factors = sorted((*SCALES, *FINE_SCALES), key=lambda factor: abs(factor - 1))
    return [first.about(candidate.place, f, phase) for f, phase in itertools.product(factors, PHASES)]


def find(
    luma: npt.NDArray[np.uint8], candidate: Candidate, shown: Callable[[npt.NDArray[np.uint8]], float]
) -> Scale | None:
    """The scale at which most of a compression is `shown` where the candidate shows most; None where too little is.

    `shown` tells of an image (H, W) uint8 how many windows show compression.
    """
    place = candidate.place

    def best(tries: Iterable[Scale], side: int) -> tuple[float, Scale]:
        corner = (_begin(place[0], luma.shape[0], side), _begin(place[1], luma.shape[1], side))
        square = luma[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        return max(((shown(restore(square, s.within(corner))), s) for s in tries), key=lambda found: found[0])

    first = Scale(BLOCK / candidate.period)
    much, scale = best((first.about(place, f, phase) for f, phase in itertools.product(SCALES, PHASES)), SQUARE)
    if much == 0:
        return None
    _, scale = best((scale.about(place, f) for f in (1.0, *FINE_SCALES)), FINE_SQUARE)
    much, scale = best((scale.about(place, move=move) for move in ((0.0, 0.0), *FINE_PHASES)), FINE_SQUARE)
    return scale if much >= LEAST_SHOWN else None


def _begin(middle: int, length: int, side: int) -> int:
    """Where a side of so many pixels begins that has its middle there, as far as the image reaches."""
    return max(0, min(middle - side // 2, length - side))
