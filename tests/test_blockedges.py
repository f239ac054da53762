"""Edges of blocks in a part of decoded pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import file_of, photo, pixels_of

from jscan.blockedges import is_mosaic, stand_out
from jscan.tiling import cells

SHIFT = (3, 5)
GRID = (-SHIFT[0] % 8, -SHIFT[1] % 8)


def grey(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), np.uint8)


def part(luma: npt.NDArray[np.uint8], y: int, x: int, side: int) -> npt.NDArray[np.bool_]:
    out = np.zeros((cells(luma.shape[0]), cells(luma.shape[1])), bool)
    out[y // 8 : (y + side) // 8, x // 8 : (x + side) // 8] = True
    return out


def compressed(quality: int = 80) -> npt.NDArray[np.uint8]:
    return pixels_of(file_of(photo(), quality=quality))[SHIFT[0] :, SHIFT[1] :].copy()


@pytest.mark.parametrize("how", ["as it is", "noise", "blur", "vignette"])
def test_the_grid_shows_in_a_part_whatever_was_done_to_the_whole(how: str) -> None:
    pixels = compressed().astype(np.float32)
    if how == "noise":
        pixels += np.random.default_rng(1).normal(0, 2, pixels.shape)
    elif how == "blur":
        pixels = cv2.GaussianBlur(pixels, (0, 0), 0.5)
    elif how == "vignette":
        pixels *= np.linspace(1, 0.6, pixels.shape[1], dtype=np.float32)[None, :, None]
    luma = grey(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    here = part(luma, 64, 80, 192)
    assert min(stand_out(luma, here, GRID)) > 3.3
    for axis in (0, 1):
        z = [stand_out(luma, here, (k, k))[axis] for k in range(8)]
        assert int(np.argmax(z)) == GRID[axis]


def test_pixels_that_were_never_compressed_show_none_even_inside_a_jpeg() -> None:
    pixels = compressed()
    pixels[64:256, 80:272] = photo()[64 : 64 + 192, 80 : 80 + 192]
    luma = grey(pixels)
    assert min(stand_out(luma, part(luma, 72, 88, 176), GRID)) < 2
    assert min(stand_out(luma, ~part(luma, 64, 80, 192), GRID)) > 10


def test_too_little_says_nothing() -> None:
    luma = grey(compressed())
    for here in (part(luma, 0, 0, 8), part(luma, 16, 16, 16) & (np.arange(cells(luma.shape[1])) == 2)):
        assert stand_out(luma, here, GRID)[1] == 0
    flat = np.full((100, 90), 7, np.uint8)
    assert stand_out(flat, np.ones((13, 12), bool), (0, 0)) == (0, 0)


def test_the_last_cells_of_an_image_that_is_no_multiple_of_eight() -> None:
    luma = np.ascontiguousarray(grey(compressed())[:203, :157])
    assert min(stand_out(luma, np.ones((26, 20), bool), GRID)) > 3.3


@pytest.mark.parametrize("saved", [None, 95, 85])
def test_squares_of_a_mosaic_are_told_from_blocks_of_a_compression(saved: int | None) -> None:
    """On the grid on which they look like those of a very coarse one."""
    y, x, side = 83, 122, 160
    hidden = photo()[y : y + side, x : x + side]
    few = cv2.resize(np.ascontiguousarray(hidden), (side // 16, side // 16), interpolation=cv2.INTER_AREA)
    picture = photo().copy()
    picture[y : y + side, x : x + side] = cv2.resize(few, (side, side), interpolation=cv2.INTER_NEAREST)
    luma = grey(picture if saved is None else pixels_of(file_of(picture, quality=saved)))
    here = part(luma, y + 5, x + 6, side - 8)
    assert is_mosaic(luma, here, (y % 8, x % 8))
    assert not is_mosaic(luma, here, ((y + 4) % 8, (x + 4) % 8))
    assert not is_mosaic(luma, part(luma, 260, 20, 120), (y % 8, x % 8))
    assert not is_mosaic(luma, part(luma, y + 5, x + 6, 8), (y % 8, x % 8)), "too little to tell"
    coarse = grey(compressed(20))
    assert not is_mosaic(coarse, part(coarse, 80, 120, 160), GRID)


def test_flat_blocks_of_a_compression_are_no_mosaic() -> None:
    """Their levels differ by one or two; the squares of a mosaic differ as its picture does."""
    y, x = np.mgrid[:160, :200] // 8
    for step, found in ((1, False), (2, False), (4, True)):
        for luma in (100 + step * ((y + x) % 12), 100 + step * (y % 12)):
            here = part(luma, 16, 24, 112)
            assert is_mosaic(luma.astype(np.uint8), here, (0, 0)) == (found and luma[0, 8] != luma[0, 0])
