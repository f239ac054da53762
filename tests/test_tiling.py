"""Geometry: windows cover the image, tiles partition the windows, every cell has its window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jscan import layout, tiling
from jscan.tiling import BLOCK, MARGIN, STRIDE, TILE, WINDOW, Tile

SIDES = st.integers(WINDOW, 1200)
ORIGINS = st.integers(0, 7)


@given(SIDES, SIDES)
def test_windows_cover_the_image(height: int, width: int) -> None:
    for length, windows in zip((height, width), tiling.window_grid(height, width), strict=True):
        end = (windows - 1) * STRIDE + WINDOW
        assert 0 <= end - length < STRIDE


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (0, 100)])
def test_no_window_fits(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="holds no window"):
        tiling.window_grid(*size)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40))
def test_tiles_partition_the_windows(rows: int, cols: int, side: int) -> None:
    times = np.zeros((rows, cols), int)
    for tile in tiling.tiles(rows, cols, side):
        assert 1 <= tile.shape[0] <= side and 1 <= tile.shape[1] <= side
        times[tile.row : tile.row_end, tile.col : tile.col_end] += 1
    assert (times == 1).all()


def test_tiles_have_a_default_side() -> None:
    assert list(tiling.tiles(TILE + 1, 2)) == [Tile(0, 0, TILE, 2), Tile(TILE, 0, TILE + 1, 2)]


@given(st.integers(64, 150), st.integers(64, 150), ORIGINS, ORIGINS, st.integers(1, 5))
def test_a_tile_holds_the_pixels_of_its_windows(height: int, width: int, oy: int, ox: int, side: int) -> None:
    luma = np.random.default_rng(height * 1000 + width).integers(1, 256, (height + oy, width + ox)).astype(np.uint8)
    luma.setflags(write=False)
    room = layout.Room()
    for tile in tiling.tiles(*tiling.window_grid(height, width), side):
        pixels, valid = tiling.cut_tile(luma, tile, (oy, ox))
        rows, cols = ((n - 1) * STRIDE + WINDOW for n in tile.shape)
        assert pixels.shape == (rows + MARGIN, cols + MARGIN) and pixels.dtype == np.uint8
        y, x = oy + tile.row * STRIDE, ox + tile.col * STRIDE
        # Far beyond the image there are zeros; no pixel of an image of ones to 255 is.
        beyond = np.zeros((height + 200, width + 200), np.uint8)
        beyond[: luma.shape[0], : luma.shape[1]] = luma
        assert np.array_equal(pixels, beyond[y : y + rows + MARGIN, x : x + cols + MARGIN])
        # A block position is valid when all of its 8 x 8 pixels lie in the image.
        whole = [sum((pixels[i : i + 8, 0] > 0).all() and i + 8 <= len(pixels) for i in range(rows))]
        whole.append(sum((pixels[0, i : i + 8] > 0).all() and i + 8 <= pixels.shape[1] for i in range(cols)))
        assert valid.tolist() == whole and valid.dtype == np.int64
        # The loops are given the same around 0; of the tile before nothing is left in the memory that both use.
        around_0, again = layout.cut(luma, tile, (oy, ox), room)
        assert np.array_equal(around_0, pixels - np.float32(128)) and again == tuple(whole)


@given(SIDES, ORIGINS)
def test_every_cell_has_the_nearest_window(length: int, origin: int) -> None:
    if length - origin < WINDOW:
        return
    windows = tiling.window_grid(length - origin, WINDOW)[0]
    index = tiling.nearest_window(length, windows, origin)
    assert len(index) == tiling.cells(length) == -(-length // BLOCK)
    centres = origin + WINDOW / 2 + STRIDE * np.arange(windows)
    distance = np.abs(centres[None, :] - (BLOCK * np.arange(len(index)) + BLOCK / 2)[:, None])
    assert np.array_equal(distance[np.arange(len(index)), index], distance.min(axis=1))
    assert (np.diff(index) >= 0).all()
    assert set(index) == set(range(windows)), "a window that no cell shows is wasted"
