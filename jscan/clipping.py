"""Where colours were clipped: the blocks there obey no table, whatever their history.

A colour beyond black or white is cut off when a picture is brightened, sharpened or merely decoded. That moves every
coefficient of the block, and a first compression that is plain to see next to it is gone, as in a part that never had
one.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from jscan.tiling import BLOCK, cells

CLOSE = 3
"""Levels from black and white within which a colour counts as clipped: a last compression moves it by a few."""
STRIP = 512
"""Rows of pixels that are looked at together."""


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
