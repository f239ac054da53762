"""Runs a window model over a whole image, tile by tile, in bounded memory."""

from __future__ import annotations

from math import isqrt
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jscan import tiling
from jscan.inparallel import in_order
from jscan.records import WindowPosteriors
from jscan.stages import stage
from jscan.weights import Model

LOWEST = -30.0
"""Log-posteriors below this are cut off: half precision holds the rest to 1 %."""

WINDOW_BYTES = 450_000
"""What a comb model holds at a time for each window of a large tile.

It holds most where the features of the bands are put together, which are there twice then: of the QF network 2 copies x
64 shifts x 608 features x 4 bytes are 311,000. The rows of the tables, 256 positions x 4 bytes for each of 39
coefficients, are still there: 40,000 a cell, and in a large tile there is hardly more than one to a window. The Q1
network has 441 features and 64 coefficients: 226,000 and 66,000. On a CPU, in tiles of 20 and 32 windows a side, up to
450,000 and 370,000 were measured: an arena hands memory out in pieces that do not fit exactly.
"""
OWN_BYTES = 1 << 30
"""What a worker takes of a GPU beside what its tiles take: CUDA's context and libraries, and their scratch space."""
TIMES_KEPT = 4
"""How often a worker may hold what one tile takes: each of two comb models keeps what it once took, and that grows by
doubling."""
MOST_ACROSS = 64
"""Windows along a side of the largest tiles: 4096 windows, of 1 megapixel, are more than enough work for any GPU."""
STEP_ACROSS = 8
"""Chosen sides are multiples of this, so that a little more memory or less does not change the last bits of answers."""


def tile_side(batch: int, free: int | None, sharing: int = 1) -> int:
    """Windows along a side of a tile on a GPU that is to look at `batch` windows together.

    Where `batch` is 0 the side is chosen from the bytes that are `free` on the GPU, of which each of the workers
    `sharing` it takes its part; where nobody knows them (None) it is that of a CPU.
    """
    if batch:
        return min(isqrt(batch), MOST_ACROSS)
    if free is None:
        return tiling.TILE
    windows = max(0, free // sharing - OWN_BYTES) // (TIMES_KEPT * WINDOW_BYTES)
    return min(max(isqrt(windows) // STEP_ACROSS * STEP_ACROSS, STEP_ACROSS), MOST_ACROSS)


class Windows(Protocol):
    """What gives the posteriors of all windows of an image."""

    def __call__(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int] = (0, 0), **inputs: npt.NDArray[np.float32]
    ) -> WindowPosteriors:
        """The posteriors of all windows of an image (H, W) uint8 whose first window begins at `origin`.

        Raises ValueError where less than one window is left from there on.
        """


class LooksAgain(Protocol):
    """What looks once more, and more closely, at some windows of an image whose posteriors it gave."""

    def again(
        self,
        found: WindowPosteriors,
        where: npt.NDArray[np.bool_],
        luma: npt.NDArray[np.uint8],
        **inputs: npt.NDArray[np.float32],
    ) -> WindowPosteriors:
        """What was `found`, with the windows `where` (R, C) looked at once more."""


class AllShifts:
    """Runs a comb model, which computes all features at all 64 grid shifts: on a GPU, and where speed is no matter.

    It looks at tiles of at most `side` x `side` windows.
    """

    def __init__(self, model: Model, side: int = tiling.TILE) -> None:
        self._model = model
        self._side = side

    def __call__(
        self, luma: npt.NDArray[np.uint8], origin: tuple[int, int] = (0, 0), **inputs: npt.NDArray[np.float32]
    ) -> WindowPosteriors:
        """The posteriors of all windows of an image; see `Windows`.

        As many tiles at a time as the model has threads, each by one of them: sharing out the work inside a tile would
        change the last bits of its answers with the number of threads.
        """
        height, width = luma.shape
        rows, cols = tiling.window_grid(height - origin[0], width - origin[1])
        logp: npt.NDArray[np.float16] | None = None
        shift = np.empty((rows, cols, 64), np.float16)
        present = np.empty((rows, cols), np.float32)
        model = self._model.given(**inputs)

        def answer(tile: tiling.Tile) -> dict[str, Any]:
            pixels, valid = tiling.cut_tile(luma, tile, origin)
            return model(luma=pixels[None, None], valid=valid)

        answers = in_order(answer, tiling.tiles(rows, cols, self._side), self._model.threads)
        for tile in tiling.tiles(rows, cols, self._side):
            with stage("network"):  # where other threads compute, this one waits for them here
                out = next(answers)
            if logp is None:
                logp = np.empty((rows, cols, out["logp"].shape[1]), np.float16)
            here = (slice(tile.row, tile.row_end), slice(tile.col, tile.col_end))
            logp[here] = np.maximum(out["logp"], LOWEST).reshape(*tile.shape, -1)
            shift[here] = np.maximum(out["shift"], LOWEST).reshape(*tile.shape, -1)
            present[here] = out["present"].reshape(tile.shape)
        assert logp is not None
        return WindowPosteriors(logp, shift, present, origin, (height, width))
