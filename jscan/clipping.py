"""Where colours were clipped: the blocks there obey no table, whatever their history.

A colour beyond black or white is cut off when a picture is brightened, sharpened or merely decoded. That moves every
coefficient of the block, and a first compression that is plain to see next to it is gone, as in a part that never had
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from jscan.tiling import BLOCK, cells

CLOSE = 3
"""Levels from black and white within which a colour counts as clipped: a last compression moves it by a few."""
STRIP = 512
"""Rows of pixels that are looked at together."""
MOST_CELLS = 256
"""Places along a side of an image at which its colours are looked at."""
TONED = 1.5
"""Levels by which a colour difference deviates, at most, from what the luma alone makes of it in a picture of greys.
Photographs that were made grey had 0.0, in sepia 0.6 to 6.8, and 2.7 to 54 as Kodak, CLIC and cameras have them."""

Clipped = Callable[[], npt.NDArray[np.float32] | None]
"""Tells of an image what `share` does; None where its colours are not known."""


@dataclass(frozen=True, slots=True)
class Colours:
    """What is asked of an image's colours, once something is suspicious."""

    clipped: Clipped
    grey: Callable[[], bool]
    """Whether the image `is_grey`, so that what was clipped before it was made grey cannot be seen."""


def share(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(ceil(H / 8), ceil(W / 8)) share of each cell's pixels of which a colour is clipped, of an image (H, W, 3)."""
    height, width = rgb.shape[:2]
    out = np.zeros((cells(height), cells(width)), np.float32)
    for top in range(0, height, STRIP):
        part = rgb[top : top + STRIP]
        odd = cv2.inRange(part, (CLOSE + 1,) * 3, (254 - CLOSE,) * 3) == 0  # where all three lie between
        rows, cols = cells(odd.shape[0]), cells(width)
        padded = np.pad(odd, ((0, rows * BLOCK - odd.shape[0]), (0, cols * BLOCK - width)), mode="edge")
        shares = cv2.resize(padded.astype(np.float32), (cols, rows), interpolation=cv2.INTER_AREA)
        out[top // BLOCK : top // BLOCK + rows] = shares
    return out


def in_frame(luma: npt.NDArray[np.uint8], part: npt.NDArray[np.bool_]) -> float:
    """The share of the cells of a part (ceil(H / 8), ceil(W / 8)) that lie in a frame around an image (H, W).

    That are the rows and columns of cells at its edges, each of one colour from end to end.
    """
    rows, cols = part.shape
    down = [luma[BLOCK * r : BLOCK * (r + 1)] for r in range(rows)]
    across = [luma[:, BLOCK * c : BLOCK * (c + 1)] for c in range(cols)]
    (top, bottom), (left, right) = ((_plain(x), len(x) - _plain(x[::-1])) for x in (down, across))
    return 1 - float(part[top:bottom, left:right].sum() / max(part.sum(), 1))


def _plain(strips: list[npt.NDArray[np.uint8]]) -> int:
    """How many strips are of one colour each, from the first one on; those behind them are not looked at."""
    return next((k for k, strip in enumerate(strips) if (strip != strip[0, 0]).any()), len(strips))


def blocks(
    clipped: npt.NDArray[np.float32] | None, size: tuple[int, ...], first: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """(r, c) whole blocks from `first` on, 0 to 7 each, of an image of `size` (H, W) in which a colour is clipped.

    `clipped` is what `share` tells; without it none is.
    """
    rows, cols = ((side - begin) // BLOCK for side, begin in zip(size, first, strict=True))
    if clipped is None:
        return np.zeros((rows, cols), bool)
    cut = np.pad(clipped > 0, ((0, 1), (0, 1)))
    down, across = (int(begin > 0) for begin in first)
    out = cut[:rows, :cols] | cut[down : down + rows, :cols]
    out |= cut[:rows, across : across + cols] | cut[down : down + rows, across : across + cols]
    return np.ascontiguousarray(out)


def is_grey(rgb: npt.NDArray[np.uint8]) -> bool:
    """Whether an image (H, W, 3) has no colours, or those of one tone, as sepia: a parabola of the luma gives them."""
    height, width = rgb.shape[:2]
    # Means of cells, as chroma is mostly stored at half the resolution; of a large image of fewer, larger ones.
    size = tuple(min(MOST_CELLS, max(1, side // BLOCK)) for side in (width, height))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).reshape(-1, 3).astype(np.float64)
    luma = small @ (0.299, 0.587, 0.114)
    powers = np.stack([np.ones_like(luma), luma, luma * luma], axis=1)
    differences = small[:, ::2] - luma[:, None]
    rest = differences - powers @ np.linalg.lstsq(powers, differences, rcond=None)[0]
    return bool(rest.std(axis=0).max() <= TONED)
