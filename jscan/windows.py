"""Runs a window model over a whole image, tile by tile, in bounded memory."""

from __future__ import annotations

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

        def answer(tile: tiling.Tile) -> dict[str, Any]:
            pixels, valid = tiling.cut_tile(luma, tile, origin)
            return self._model(luma=pixels[None, None], valid=valid, **inputs)

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
