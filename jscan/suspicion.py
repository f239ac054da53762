"""The suspicion map: the probability, cell by cell, of another history than the background's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jscan.tiling import BLOCK, STRIDE, WINDOW, cells
from jscan.weights import Model

JPEG_MODEL = "regions-jpeg"
PIXEL_MODEL = "regions-pixels"


def estimate(model: Model, channels: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """(2 R, 2 C) logits of the cells around the centres of (R, C) windows, from their maps (K, R, C)."""
    out = model(maps=np.ascontiguousarray(channels[None], np.float32))["logits"][0]
    rows, cols = out.shape[1:]
    # The four answers of a window are its upper left, upper right, lower left and lower right cell.
    return np.ascontiguousarray(out.reshape(2, 2, rows, cols).transpose(2, 0, 3, 1).reshape(2 * rows, 2 * cols))


def _axis(length: int, windows: int, origin: int) -> npt.NDArray[np.int64]:
    """(cells,) index into 2 * windows answers that lies nearest to each cell's centre."""
    centres = np.arange(cells(length)) * BLOCK + BLOCK / 2
    first = origin + WINDOW / 2 - STRIDE / 4
    # Of two that are equally near the first, as in `tiling.nearest_window`.
    index: npt.NDArray[np.int64] = np.rint((centres - first) / (STRIDE / 2) - 1e-9).astype(np.int64)
    return np.clip(index, 0, 2 * windows - 1)


def to_cells(
    answers: npt.NDArray[np.float32], size: tuple[int, int], origin: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """(ceil(H / 8), ceil(W / 8)) answers at the cells of an image; cells beyond the outer windows take the nearest."""
    rows = _axis(size[0], answers.shape[0] // 2, origin[0])
    cols = _axis(size[1], answers.shape[1] // 2, origin[1])
    return answers[np.ix_(rows, cols)]
