"""The trace of the background's first compression in single blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from material import file_of, photo, pixels_of

from jscan import trace
from jscan.decode import decode
from jscan.jpegtables import N_COEFS, Q1_OFFSET, standard_table
from jscan.records import WindowPosteriors
from jscan.tiling import cells, window_grid

SHIFT = (3, 5)
"""Pixels cropped between the two compressions."""


def luma_of(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(decode(data, max_pixels=10**7, rgb=False).luma)


def windows(luma: npt.NDArray[np.uint8], origin: tuple[int, int] = (0, 0)) -> WindowPosteriors:
    """Posteriors that say nothing, of the windows of an image."""
    rows, cols = window_grid(luma.shape[0] - origin[0], luma.shape[1] - origin[1])
    logp, shift = (np.zeros((rows, cols, n), np.float16) for n in (Q1_OFFSET[-1], 64))
    return WindowPosteriors(logp, shift, np.ones((rows, cols), np.float32), origin, luma.shape)


def spliced(
    qf1: int, qf2: int, square: int, *, other: int | None = None
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Luma of a double JPEG with a square of another history pasted in, and row and column where it begins."""
    picture = photo()
    ground = pixels_of(file_of(picture, quality=qf1))[SHIFT[0] :, SHIFT[1] :].copy()
    donor = picture if other is None else pixels_of(file_of(picture[:, 1:], quality=other))
    y, x = 200, 230
    ground[y : y + square, x : x + square] = donor[100 : 100 + square, 180 : 180 + square]
    return luma_of(file_of(ground, quality=qf2)), (y, x)


def against(luma: npt.NDArray[np.uint8], qf1: int, shift: tuple[int, int] = SHIFT) -> npt.NDArray[np.float32]:
    place = (-shift[0] % 8) * 8 + -shift[1] % 8
    return trace.background_trace(luma, windows(luma), tuple(standard_table(qf1)[:N_COEFS].tolist()), place)


def middle(y: int, x: int, side: int) -> tuple[int, int]:
    """The window whose centre is nearest to that of a square."""
    return tuple(round((v + side / 2 - 32) / 16) for v in (y, x))  # type: ignore[return-value]


@pytest.mark.parametrize(("qf1", "qf2", "other"), [(75, 90, None), (75, 90, 92), (85, 90, None), (70, 85, 82)])
def test_a_square_of_32_pixels_stands_out(qf1: int, qf2: int, other: int | None) -> None:
    luma, (y, x) = spliced(qf1, qf2, 32, other=other)
    found = against(luma, qf1)
    assert found.shape == (3, *window_grid(*luma.shape)) and np.abs(found).max() <= trace.MOST / 4
    row, col = middle(y, x, 32)
    near = found[0, row - 1 : row + 2, col - 1 : col + 2]
    assert near.max() > 0.5
    far = np.ones(found.shape[1:], bool)
    far[row - 4 : row + 5, col - 4 : col + 5] = False
    # At QF1 70 and QF2 85 one place in twelve lacks the trace: 4 % of those without clipped colours, and 19 % of those
    # where a fifth or more of the pixels were clipped on the way through RGB.
    assert (found[0][far] > 0.5).mean() < 0.1 and np.median(found[0][far]) < -1


def test_another_table_or_grid_leaves_no_trace() -> None:
    luma, _ = spliced(75, 90, 0)
    assert np.median(against(luma, 75)[2]) < -2
    assert np.median(np.abs(against(luma, 75, (6, 1))[2])) < 0.2


def test_an_image_that_was_compressed_once_has_none() -> None:
    luma = luma_of(file_of(photo(), quality=90))
    assert np.median(np.abs(against(luma, 75)[2])) < 0.3


def test_where_windows_begin_elsewhere() -> None:
    """The shift is seen from the windows' origin: windows that begin in the image are as those of a crop."""
    luma, _ = spliced(75, 90, 48)
    table, origin = tuple(standard_table(75)[:N_COEFS].tolist()), (8, 16)
    place = (-SHIFT[0] % 8) * 8 + -SHIFT[1] % 8
    inside = trace.background_trace(luma, windows(luma, origin), table, place)
    alone = against(np.ascontiguousarray(luma[origin[0] :, origin[1] :]), 75)
    assert inside.shape == alone.shape
    # Blocks before the origin count for the windows at the border of the one, and the image's means are of more pixels.
    assert np.abs(inside - alone)[:, 2:-2, 2:-2].mean() < 0.05


def test_the_smallest_image() -> None:
    luma = np.ascontiguousarray(spliced(75, 90, 0)[0][:64, :64])
    luma.setflags(write=False)
    assert against(luma, 75).shape == (3, 1, 1)


@pytest.mark.parametrize("origin", [(0, 0), (3, 6)])
def test_cells_are_those_of_the_image(origin: tuple[int, int]) -> None:
    """A square of 32 pixels without the trace stands out among the cells, wherever the windows begin."""
    luma, (y, x) = spliced(75, 95, 32)
    place = ((-SHIFT[0] - origin[0]) % 8) * 8 + (-SHIFT[1] - origin[1]) % 8
    table = tuple(standard_table(75)[:N_COEFS].tolist())
    seen = trace.blocks(luma, trace.measure(luma, windows(luma, origin), trace.whole_table(table), place))
    assert seen.first == (-SHIFT[0] % 8, -SHIFT[1] % 8)
    found = trace.around_cells(seen, luma.shape)
    assert found.shape == (cells(luma.shape[0]), cells(luma.shape[1])) and found.dtype == np.float32
    row, col = np.unravel_index(int(found.argmax()), found.shape)
    assert y <= 8 * row + 4 < y + 32 and x <= 8 * col + 4 < x + 32
    far = np.ones(found.shape, bool)
    far[y // 8 - 2 : y // 8 + 7, x // 8 - 2 : x // 8 + 7] = False
    assert found.max() > trace.MOST and found.max() > 1.5 * found[far].max() and np.median(found[far]) < -10


def test_around_cells_adds_up_nine_blocks() -> None:
    against = np.zeros((6, 7), np.float32)
    against[2, 3] = 5.0
    found = trace.around_cells(trace.Blocks(against, (3, 0)), (3 + 6 * 8, 7 * 8))
    # Of cells 1 to 3 the nearest blocks are 1 to 3, which begin 3 rows further down.
    assert found.shape == (7, 7) and set(np.unique(found)) == {0.0, 5.0}
    assert np.array_equal(np.flatnonzero(found.any(axis=0)), [2, 3, 4])
    assert np.array_equal(np.flatnonzero(found.any(axis=1)), [1, 2, 3])


@pytest.mark.parametrize("first", range(8))
def test_every_block_is_some_cells_own(first: int) -> None:
    """Also where the middles of blocks lie as near to those of two cells."""
    for axis in (0, 1):
        against = np.zeros((9, 9), np.float32)
        origin = (first, 0) if axis == 0 else (0, first)
        index = trace._nearest(np.arange(10) * 8 + 4.0, trace.Blocks(against, origin), axis)
        assert set(index.tolist()) == set(range(9)) and (np.diff(index) >= 0).all()


def lacking(luma: npt.NDArray[np.uint8], qf1: int, *boxes: tuple[int, int, int]) -> list[float]:
    """How far squares (row, column and side in pixels) fall short of the background's trace."""
    place = (-SHIFT[0] % 8) * 8 + -SHIFT[1] % 8
    seen = trace.measure(luma, windows(luma), trace.whole_table(tuple(standard_table(qf1)[:N_COEFS].tolist())), place)
    out = []
    for y, x, side in boxes:
        part = np.zeros((cells(luma.shape[0]), cells(luma.shape[1])), bool)
        part[y // 8 : -(-(y + side) // 8), x // 8 : -(-(x + side) // 8)] = True
        out.append(trace.lacking(luma, seen, part))
    return out


@pytest.mark.parametrize(("qf1", "qf2"), [(75, 90), (70, 85), (80, 95)])
def test_a_pasted_square_falls_short_of_the_trace(qf1: int, qf2: int) -> None:
    luma, (y, x) = spliced(qf1, qf2, 96)
    height, width = luma.shape
    pasted, *others = lacking(luma, qf1, (y, x, 96), (40, 40, 96), (0, 0, 96), (height - 96, width - 96, 96))
    assert pasted > 5 and max(others) < 2.5
    # The deviations by which it does grow with its side, and so do those by which it might.
    part, whole = lacking(luma, qf1, (y, x, 48), (y, x, 96))
    assert 1 < part < whole


def test_the_deviations_are_those_of_places_without_a_trace() -> None:
    """Of a table that the image does not have, and of one that it has: they scatter as they should."""
    luma, _ = spliced(75, 90, 0)
    places = [(y, x, 64) for y in range(0, luma.shape[0] - 64, 72) for x in range(0, luma.shape[1] - 64, 72)]
    there = np.array(lacking(luma, 75, *places))
    assert abs(np.median(there)) < 1.5 and np.median(np.abs(there - np.median(there))) < 2


def test_nothing_is_short_where_nothing_can_be_told() -> None:
    luma, (y, x) = spliced(75, 90, 96)
    assert lacking(luma_of(file_of(photo(), quality=90)), 75, (y, x, 96))[0] < 2.5  # the image has no such trace
    luma = luma.copy()
    luma[y - 16 : y + 112, x - 16 : x + 112] = 90
    assert lacking(luma, 75, (y, x, 96))[0] < 2.5  # flat
    luma[y - 16 : y + 112, x - 16 : x + 112] = 0
    assert lacking(luma, 75, (y, x, 96))[0] == 0  # black
