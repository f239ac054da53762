"""How much of a first compression is left, compared with what the last one alone would leave."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import Pixels, file_of, photo, pixels_of

from jscan import kept, trace
from jscan.decode import decode
from jscan.jpegtables import N_COEFS, Q1_MAX, standard_table
from jscan.tiling import cells

SHIFT = (3, 5)
"""Pixels cropped between the two compressions."""


def twice(
    qf1: int, qf2: int, between: Callable[[Pixels], Pixels] = lambda pixels: pixels, shift: tuple[int, int] = SHIFT
) -> npt.NDArray[np.uint8]:
    """Luma of a photograph that was compressed twice, with something done to it in between."""
    once = pixels_of(file_of(photo(), quality=qf1))[shift[0] :, shift[1] :]
    data = file_of(np.ascontiguousarray(between(once)), quality=qf2)
    return np.asarray(decode(data, max_pixels=10**7, rgb=False).luma)


def share(
    luma: npt.NDArray[np.uint8],
    qf1: int,
    qf2: int,
    shift: tuple[int, int] = SHIFT,
    where: npt.NDArray[np.bool_] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> float | None:
    table = tuple(min(q, most) for q, most in zip(standard_table(qf1)[:N_COEFS].tolist(), Q1_MAX, strict=True))
    first = ((origin[0] - shift[0]) % 8, (origin[1] - shift[1]) % 8)
    everywhere = np.ones((cells(luma.shape[0]), cells(luma.shape[1])), bool)
    left = kept.share(
        luma, trace.whole_table(table), first, standard_table(qf2), origin, everywhere if where is None else where
    )
    assert left is None or left.weight >= kept.ENOUGH_WEIGHT
    return None if left is None else left.share


def noisy(pixels: Pixels) -> Pixels:
    noise = np.random.default_rng(1).normal(0, 2.5, pixels.shape)
    return np.asarray(np.clip(np.rint(pixels + noise), 0, 255), np.uint8)


def blurred(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.7), np.uint8)


def denoised(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.fastNlMeansDenoisingColored(pixels, None, 4, 3, 5, 11), np.uint8)


def brighter(pixels: Pixels) -> Pixels:
    return np.asarray(np.clip(np.rint(pixels * 1.07), 0, 255), np.uint8)


@pytest.mark.parametrize(
    ("qf1", "qf2", "shift"), [(60, 90, SHIFT), (75, 95, SHIFT), (75, 85, (4, 4)), (80, 95, (0, 0)), (60, 80, (5, 4))]
)
def test_all_of_it_where_nothing_was_done(qf1: int, qf2: int, shift: tuple[int, int]) -> None:
    found = share(twice(qf1, qf2, shift=shift), qf1, qf2, shift)
    assert found is not None and 0.8 < found < 1.2


@pytest.mark.parametrize("between", [noisy, blurred, denoised, brighter])
@pytest.mark.parametrize(("qf1", "qf2"), [(60, 90), (75, 95)])
def test_less_where_the_picture_was_processed(between: Callable[[Pixels], Pixels], qf1: int, qf2: int) -> None:
    found = share(twice(qf1, qf2, between), qf1, qf2)
    assert found is not None and found < 0.7


def test_steps_beyond_the_largest_that_is_told_are_found() -> None:
    """Of a table coarser than any that windows tell, they tell that it is as coarse as that."""
    assert (standard_table(35)[:N_COEFS] > Q1_MAX).all()
    found = share(twice(35, 90), 35, 90)
    assert found is not None and 0.8 < found < 1.2
    processed = share(twice(35, 90, blurred), 35, 90)
    assert processed is not None and processed < 0.7


def test_of_some_cells_alone() -> None:
    """Half of a picture is processed: each half tells of itself."""

    def left_half(pixels: Pixels) -> Pixels:
        out = pixels.copy()
        out[:, : out.shape[1] // 2] = noisy(pixels)[:, : out.shape[1] // 2]
        return out

    luma = twice(60, 92, left_half)
    where = np.zeros((cells(luma.shape[0]), cells(luma.shape[1])), bool)
    where[:, : where.shape[1] // 2 - 2] = True
    processed, plain = share(luma, 60, 92, where=where), share(luma, 60, 92, where=where[:, ::-1])
    assert processed is not None and plain is not None and processed < 0.7 and plain > 0.8


def test_the_last_grid_may_begin_anywhere() -> None:
    """As it does in decoded pixels that were cropped: what is told does not change with it."""
    luma = twice(65, 92)
    whole = share(luma, 65, 92)
    moved = share(np.ascontiguousarray(luma[3:, 6:]), 65, 92, origin=(5, 2))
    assert whole is not None and moved is not None and abs(whole - moved) < 0.05


@pytest.mark.parametrize("apart", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("cut", [(0, 0), (3, 6)])
def test_the_picture_is_compressed_again_where_neither_of_its_grids_lies(
    apart: tuple[int, int], cut: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[tuple[int, int]] = []
    compressed = kept._compressed

    def spied(pixels: Pixels, steps: npt.NDArray[np.float32], first: tuple[int, int]) -> Pixels:
        grids.append(first)
        return compressed(pixels, steps, first)

    monkeypatch.setattr(kept, "_compressed", spied)
    luma = np.ascontiguousarray(twice(65, 92, shift=apart)[cut[0] :, cut[1] :])
    origin = (-cut[0] % 8, -cut[1] % 8)
    assert share(luma, 65, 92, apart, origin=origin) is not None
    own = {origin, ((origin[0] - apart[0]) % 8, (origin[1] - apart[1]) % 8)}
    assert len(grids) >= 2 and not own & set(grids)


def test_nothing_is_said_where_there_is_nothing_to_compare() -> None:
    luma = twice(65, 92)
    nowhere = np.zeros((cells(luma.shape[0]), cells(luma.shape[1])), bool)
    assert share(luma, 65, 92, where=nowhere) is None
    nowhere[10:12, 10:12] = True
    assert share(luma, 65, 92, where=nowhere) is None  # too few blocks
    assert share(np.full((256, 256), 90, np.uint8), 65, 92) is None  # flat
    assert share(twice(98, 75), 98, 75) is None  # the last compression left nothing of the first
    assert share(luma[:9, :9], 65, 92) is None


def test_less_may_be_enough_to_say_something() -> None:
    luma = twice(65, 92)
    some = np.zeros((cells(luma.shape[0]), cells(luma.shape[1])), bool)
    some[10:20, 10:20] = True
    asked = (
        luma,
        trace.whole_table(tuple(standard_table(65)[:N_COEFS].tolist())),
        (5, 3),
        standard_table(92),
        (0, 0),
        some,
    )
    left = kept.share(*asked, least=1.0)
    assert left is not None and 1 < left.weight < kept.ENOUGH_WEIGHT and kept.share(*asked) is None
    assert abs(left.share - 1) < 4 / left.weight**0.5
    assert kept.share(*asked, least=left.weight + 1) is None


def test_evenly_spread_rows_of_a_large_picture_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    luma = np.tile(twice(65, 92), (3, 1))
    luma = luma[: luma.shape[0] // 8 * 8]
    all_rows = share(luma[:424], 65, 92)
    monkeypatch.setattr(kept, "ENOUGH", 900)
    some = share(luma[:424], 65, 92)
    assert all_rows is not None and some is not None and all_rows != some and abs(all_rows - some) < 0.1
