"""What the blocks of an image say against its background's first compression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from material import file_of, photo, pixels_of
from test_trace import SHIFT, luma_of, spliced, windows

from jscan import clipping, likelihood, trace
from jscan.jpegtables import N_COEFS, standard_table
from jscan.likelihood import Likelihood
from jscan.tiling import cells

SQUARE = 32


def seen_in(luma: npt.NDArray[np.uint8], qf1: int, shift: tuple[int, int] = SHIFT) -> trace.Trace:
    place = (-shift[0] % 8) * 8 + -shift[1] % 8
    return trace.measure(luma, windows(luma), trace.whole_table(tuple(standard_table(qf1)[:N_COEFS].tolist())), place)


def part_of(luma: npt.NDArray[np.uint8], y: int, x: int, side: int) -> npt.NDArray[np.bool_]:
    part = np.zeros((cells(luma.shape[0]), cells(luma.shape[1])), bool)
    part[-(-y // 8) : (y + side) // 8, -(-x // 8) : (x + side) // 8] = True
    return part


@pytest.mark.parametrize(("qf1", "qf2", "other"), [(75, 90, None), (75, 95, 92), (85, 95, None), (70, 85, 82)])
def test_a_square_of_32_pixels_stands_out_more_than_by_cosines(qf1: int, qf2: int, other: int | None) -> None:
    luma, (y, x) = spliced(qf1, qf2, SQUARE, other=other)
    seen = seen_in(luma, qf1)
    inside = part_of(luma, y, x, SQUARE)
    away = ~part_of(luma, y - 24, x - 24, SQUARE + 48)
    found = Likelihood(luma, seen, None).around_cells(np.inf)
    assert found.shape == inside.shape and found.dtype == np.float32 and np.isfinite(found).all()
    cosines = trace.around_cells(trace.blocks(luma, seen), luma.shape)
    assert found[inside].max() > 15 and found[inside].max() > 2 * found[away].max()
    assert found[inside].max() / found[away].max() > cosines[inside].max() / cosines[away].max()
    assert np.median(found[away]) < -5, "the background shows its compression everywhere"


def test_where_there_is_nothing_to_be_seen_nothing_is_said() -> None:
    flat = np.full((128, 160), 90, np.uint8)
    assert not Likelihood(flat, seen_in(flat, 75), None).around_cells(np.inf).any()
    once = luma_of(file_of(photo(), quality=90))
    assert np.abs(np.median(Likelihood(once, seen_in(once, 75), None).around_cells(np.inf))) < 0.5


@pytest.mark.parametrize("size", [(64, 64), (71, 65)])
def test_the_smallest_image(size: tuple[int, int]) -> None:
    luma = np.ascontiguousarray(spliced(75, 90, 0)[0][: size[0], : size[1]])
    luma.setflags(write=False)
    for first in ((0, 0), (7, 7), (4, 1)):
        seen = replace(seen_in(luma, 75), first=first)
        likely = Likelihood(luma, seen, lambda: np.zeros((cells(size[0]), cells(size[1])), np.float32))
        assert likely.around_cells(-np.inf).shape == (cells(size[0]), cells(size[1]))
        everything = np.ones((cells(size[0]), cells(size[1])), bool)
        assert np.isfinite(likely.shows(everything))


def test_clipped_blocks_say_nothing_and_are_asked_for_only_where_something_is_missing() -> None:
    luma, (y, x) = spliced(75, 95, SQUARE)
    asked = []

    def clipped() -> npt.NDArray[np.float32]:
        asked.append(True)
        share = np.zeros((cells(luma.shape[0]), cells(luma.shape[1])), np.float32)
        share[y // 8 - 1 : (y + SQUARE) // 8 + 2, x // 8 - 1 : (x + SQUARE) // 8 + 2] = 0.1
        return share

    inside = part_of(luma, y, x, SQUARE)
    likely = Likelihood(luma, seen_in(luma, 75), clipped)
    before = likely.around_cells(1e6)
    assert before[inside].max() > 15 and not asked
    after = likely.around_cells(15)
    assert asked == [True] and not after[inside].any()
    assert after.max() < before[inside].max() / 10, "what is left is where colours of the photograph itself are clipped"
    likely.around_cells(15)
    assert asked == [True]
    unknown = Likelihood(luma, seen_in(luma, 75), lambda: None).around_cells(15)
    assert np.array_equal(unknown, before)


def test_a_part_of_the_background_shows_its_compression_and_a_pasted_one_does_not() -> None:
    luma, (y, x) = spliced(75, 95, 64)
    likely = Likelihood(luma, seen_in(luma, 75), None)
    assert likely.shows(part_of(luma, y, x, 64)) == 0
    own = [likely.shows(part_of(luma, *at, 64)) for at in ((40, 40), (120, 300), (0, 0))]
    assert min(own) > 20
    # A part that is cut out of its image says the same, up to the noise of the whole.
    assert likely.shows(part_of(luma, luma.shape[0] - 64, luma.shape[1] - 64, 64)) > 3


def test_content_that_lies_on_any_grid_s_multiples_alike_shows_nothing() -> None:
    luma, _ = spliced(75, 95, 0)
    seen = seen_in(luma, 75)
    elsewhere = replace(seen, first=tuple((f + 3) % 8 for f in seen.first))
    assert Likelihood(luma, elsewhere, None).shows(part_of(luma, 40, 40, 64)) < 3


def test_noise_is_less_where_a_block_is_flat() -> None:
    picture = pixels_of(file_of(photo(), quality=70))[SHIFT[0] :, SHIFT[1] :].copy()
    luma = luma_of(file_of(picture, quality=85))
    seen = seen_in(luma, 70)
    noise = likelihood.measure(luma, seen, clipping.blocks(None, luma.shape, seen.first))
    kinds = len(likelihood.EDGES) + 1
    assert noise.deviation.shape == noise.spread.shape == (kinds, 64)
    known = (noise.deviation > 0).all(axis=0)
    assert known.sum() > 5
    quiet, loud = noise.deviation[:3, known].mean(), noise.deviation[-3:, known].mean()
    assert quiet < loud and (noise.spread >= likelihood.NARROWEST).all()
