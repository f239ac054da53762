"""Geometry of windows, cells and tiles.

Windows are 64 x 64 pixels and lie 16 pixels apart. An image is covered by whole tiles of windows, each read with
a margin, so that what is found for a window does not depend on the tile that it was computed in. Maps have one cell
for each 8 x 8 block; a cell takes what was found for the window whose centre is nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WINDOW = 64
"""Pixels along a side of a window (Tondi 2021, section 4.2)."""
STRIDE = 16
"""Pixels between windows. A stride of 8 costs four times as much and shares 7/8 of its pixels with its neighbours."""
BLOCK = 8
"""Pixels along a side of a JPEG block, and of a cell of a map."""
MARGIN = 7
"""Pixels by which a block at the largest grid shift reaches beyond the cell it begins in."""
TILE = 20
"""Windows along a side of a tile: of smaller ones more is read twice, larger ones take memory and gain nothing."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of windows, end-exclusive."""

    row: int
    col: int
    row_end: int
    col_end: int

    @property
    def shape(self) -> tuple[int, int]:
        """Windows down and across."""
        return self.row_end - self.row, self.col_end - self.col


def window_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of windows that cover an image; the last ones may reach beyond its edge by up to 15 pixels.

    Raises ValueError for an image smaller than a window.
    """
    if height < WINDOW or width < WINDOW:
        raise ValueError(f"an image of {width} x {height} pixels holds no window of {WINDOW} x {WINDOW}")
    return -(-(height - WINDOW) // STRIDE) + 1, -(-(width - WINDOW) // STRIDE) + 1


def tiles(rows: int, cols: int, side: int = TILE, across: int | None = None) -> Iterator[Tile]:
    """Tiles of at most `side` x `side`, or `side` x `across`, windows, row by row."""
    step = side if across is None else across
    for row in range(0, rows, side):
        for col in range(0, cols, step):
            yield Tile(row, col, min(row + side, rows), min(col + step, cols))


def cut_tile(
    luma: npt.NDArray[np.uint8], tile: Tile, origin: tuple[int, int] = (0, 0)
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The pixels (h, w) uint8 that a tile's windows need, and how many block positions (rows, cols) lie in the image.

    `origin` is where the first window begins. Pixels beyond the image are zero and no block that touches them is valid.
    """
    part, shape = part_of(luma, tile, origin)
    out = np.zeros(shape, np.uint8)
    out[: part.shape[0], : part.shape[1]] = part
    return out, np.array(block_positions(luma.shape, tile, origin), np.int64)


def part_of(
    luma: npt.NDArray[np.uint8], tile: Tile, origin: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """What there is in an image of the pixels that a tile's windows need, and their number (h, w) were all there."""
    y, x = origin[0] + tile.row * STRIDE, origin[1] + tile.col * STRIDE
    rows, cols = ((n - 1) * STRIDE + WINDOW + MARGIN for n in tile.shape)
    return luma[y : y + rows, x : x + cols], (rows, cols)


def block_positions(size: tuple[int, ...], tile: Tile, origin: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Rows and columns of block positions of a tile that lie in an image of `size` (H, W)."""
    begin = (origin[0] + tile.row * STRIDE, origin[1] + tile.col * STRIDE)
    rows, cols = (
        min((windows - 1) * STRIDE + WINDOW, max(0, length - MARGIN - first))
        for windows, length, first in zip(tile.shape, size, begin, strict=True)
    )
    return rows, cols


def cells(length: int) -> int:
    """Cells along a side of this many pixels."""
    return -(-length // BLOCK)


def nearest_window(length: int, windows: int, origin: int = 0) -> npt.NDArray[np.int64]:
    """(cells,) index of the window whose centre is nearest to each cell's centre, along one axis."""
    centres = np.arange(cells(length)) * BLOCK + BLOCK / 2
    index = np.rint((centres - origin - WINDOW / 2) / STRIDE - 1e-9)
    return np.clip(index, 0, windows - 1).astype(np.int64)


def centre_cells(length: int, windows: int, origin: int = 0) -> npt.NDArray[np.int64]:
    """(windows,) index of the cell that holds each window's centre, along one axis."""
    centres = (origin + STRIDE * np.arange(windows) + WINDOW // 2) // BLOCK
    return np.minimum(centres, cells(length) - 1).astype(np.int64)
