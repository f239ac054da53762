"""Whether a part of decoded pixels shows the edges of blocks on a given grid of 8 pixels, however faintly.

Across the line between two blocks neighbouring pixels differ by more than the differences before and behind it let
expect (Fan and de Queiroz 2003). In one window that is little beside the content; over a part it adds up, also where
pixels were filtered, brightened or compressed by another codec since, so that the table of the compression is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from jscan.tiling import BLOCK

MOST = 4.0
"""Grey levels beyond which a difference counts as no more: edges in the picture are larger than those of blocks."""


STEEP = 3.0
"""Times that steps across the lines are as large as those between them from which the blocks are those of a mosaic. Of
21 parts that were pixelated in squares of 16 and looked compressed 18 had more, of 47 parts with a JPEG's blocks, of
quality 15 to 80, two."""
COARSE = 3.0
"""Grey levels from one square to the next, in the tenth of these steps that is the largest, from which it is one: in
flat places there is nothing in the blocks of a JPEG either. Of 37 mosaics in photographs all had 4 and more, of four
such parts with a JPEG's blocks none more than 2."""


def is_mosaic(luma: npt.NDArray[np.uint8], part: npt.NDArray[np.bool_], grid: Sequence[int]) -> bool:
    """Whether a part of an image was pixelated: its squares lie on a grid, and there is nothing in them.

    `luma`, `part` and `grid` are as for `stand_out`. Faces are made unrecognisable so, and what is left looks like a
    very coarse compression.
    """
    core = cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # without what is around it
    if not core.any():
        return False
    pixels, inside = _in_box(luma, core)
    both = [_steps(pixels.T, inside.T, grid[0]), _steps(pixels, inside, grid[1])]
    if not all(len(lines) and len(others) for lines, others in both):
        return False
    steep = all(float(lines.mean()) >= STEEP * max(float(others.mean()), 1e-6) for lines, others in both)
    return steep and max(float(np.percentile(lines, 90)) for lines, _ in both) >= COARSE


def _steps(
    pixels: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], first: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(n,) steps across the lines down, where blocks begin at column `first`, and (m,) those between them."""
    steps = np.abs(np.diff(pixels, axis=1))
    both = inside[:, 1:] & inside[:, :-1]
    on = np.arange(1, pixels.shape[1]) % BLOCK == first
    return steps[:, on][both[:, on]], steps[:, ~on][both[:, ~on]]


def stand_out(luma: npt.NDArray[np.uint8], part: npt.NDArray[np.bool_], grid: Sequence[int]) -> tuple[float, float]:
    """Standard deviations by which edges stand out on the lines across and down of a grid, in a part of an image.

    `luma` is (H, W), `part` (ceil(H / 8), ceil(W / 8)), `grid` the row and column, 0 to 7, at which blocks begin. What
    they are compared with is the median of the seven other grids. 0 where the part has too little to tell.
    """
    pixels, inside = _in_box(luma, part)
    return _along(pixels.T, inside.T, grid[0]), _along(pixels, inside, grid[1])


def _in_box(
    luma: npt.NDArray[np.uint8], part: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The pixels of the box around a part, and which of them are of it.

    The box begins at a multiple of 8, so lines of a grid lie at the same remainders in it.
    """
    rows, cols = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    top, left = (BLOCK * int(k[0]) for k in (rows, cols))
    box = (slice(top, BLOCK * (int(rows[-1]) + 1)), slice(left, BLOCK * (int(cols[-1]) + 1)))
    pixels = luma[box].astype(np.float32)
    inside = part[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    return pixels, inside[: pixels.shape[0], : pixels.shape[1]]


def _along(pixels: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], first: int) -> float:
    """The same for the lines down, where blocks begin at column `first`."""
    if pixels.shape[1] < 2 * BLOCK:
        return 0.0
    steps = np.abs(np.diff(pixels, axis=1))
    excess = np.clip(steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2, -MOST, MOST)
    whole = cv2.erode(inside.astype(np.uint8), np.ones((1, 4), np.uint8), anchor=(1, 0))[:, 1:-2] > 0
    # Column k of `excess` is the step from pixel k + 1 to pixel k + 2.
    mean, error = np.zeros(BLOCK), np.inf
    for phase in range(BLOCK):
        begin = (phase - 2) % BLOCK
        values = excess[:, begin::BLOCK][whole[:, begin::BLOCK]]
        if len(values) < BLOCK:
            return 0.0
        mean[phase] = values.mean()
        if phase == first:
            error = float(values.std()) / len(values) ** 0.5
    return float((mean[first] - np.median(np.delete(mean, first))) / max(error, 1e-6))
