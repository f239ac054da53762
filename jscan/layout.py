"""How the compiled loops are given what they work on: tables of functions, pixels of tiles, and memory."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jscan import comb, kernels, tiling
from jscan.comb import Band
from jscan.jpegtables import ZIGZAG
from jscan.tiling import BLOCK, STRIDE, WINDOW


@dataclass(frozen=True)
class Layout:
    """How a kernel finds the functions of each coefficient; see `kernels.comb_sums`."""

    bands: tuple[Band, ...]

    @cached_property
    def coefs(self) -> list[int]:
        """Zigzag indices, band by band."""
        return [i for band in self.bands for i in band.coefs]

    @cached_property
    def frequencies(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Vertical and horizontal frequency of each coefficient."""
        down, along = np.array([ZIGZAG[i] for i in self.coefs], np.int64).T
        return np.ascontiguousarray(down), np.ascontiguousarray(along)

    @cached_property
    def rows(self) -> tuple[Any, ...]:
        """`begin`, `padded`, `place`, `again` and `table` (int16); begin and padded count rows of a register."""
        begin, padded, place, again, tables, row, feature = [], [], [], [], [], 0, 0
        for band in self.bands:
            wide = comb.padded(band)
            table = np.rint(band.table() * comb.SCALE).astype(np.int16)
            table = np.pad(table, ((0, 0), (0, wide - band.size))).reshape(-1, comb.REGISTER)
            for k in range(len(band.coefs)):
                begin.append(row)
                padded.append(wide // comb.REGISTER)
                place.append(feature)
                again.append(k > 0)
            tables.append(table)
            row += len(table)
            feature += band.size
        tables.append(np.zeros((kernels.MOST_ROWS, comb.REGISTER), np.int16))
        return (
            *(np.array(x, np.int64) for x in (begin, padded, place)),
            np.array(again),
            kernels.aligned(np.concatenate(tables)),
        )

    @cached_property
    def width(self) -> int:
        """Numbers of a row of features, with the padding."""
        return self.size + comb.padding(self.bands)

    @cached_property
    def size(self) -> int:
        """The same without the padding."""
        return sum(b.size for b in self.bands)


class Room(threading.local):
    """Memory that each thread uses again for tile after tile: new pages cost as much as filling them."""

    def __init__(self) -> None:
        self._flat: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """An array with anything in it; of one `kind` for each name."""
        size = math.prod(shape)
        if name not in self._flat or len(self._flat[name]) < size:
            self._flat[name] = np.empty(size, kind)
        return self._flat[name][:size].reshape(shape)


def cut(
    luma: npt.NDArray[np.uint8], tile: tiling.Tile, origin: tuple[int, int], room: Room
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """The pixels of a tile around 0, in the `room`, and how many block positions down and across lie in the image."""
    part, shape = tiling.part_of(luma, tile, origin)
    pixels, (height, width), middle = room("pixels", shape), part.shape, np.float32(128)
    np.subtract(part, middle, out=pixels[:height, :width], dtype=np.float32)
    pixels[height:], pixels[:height, width:] = -middle, -middle
    return pixels, tiling.block_positions(luma.shape, tile, origin)


def blocks(
    tile: tiling.Tile, valid: tuple[int, int], shifts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """How many blocks of a tile's windows at these shifts lie in the image, down (rows, S) and across (columns, S).

    None is less than one, so that nothing is divided by zero.
    """

    def along(windows: int, limit: int, first: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        begin = STRIDE * np.arange(windows)[:, None] + first
        return np.asarray(np.clip(-(-(limit - begin) // BLOCK), 1, WINDOW // BLOCK), np.float32)

    return along(tile.shape[0], valid[0], shifts // BLOCK), along(tile.shape[1], valid[1], shifts % BLOCK)
