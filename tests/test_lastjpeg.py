"""The last compression's table, from decoded pixels alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import file_of, natural, photo, pixels_of, posteriors, rng

from jscan import clipping, doubts, lastjpeg
from jscan.decode import from_array
from jscan.jpegtables import N_COEFS, standard_table
from jscan.records import Agreement, LastCompression

CAMERA = np.clip(np.rint(standard_table(70) * np.linspace(1.3, 0.5, 64)), 1, 255).astype(int)
"""A table of no quality factor."""


def luma_of(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return from_array(rgb, rgb=False).luma


def estimated(rgb: npt.NDArray[np.uint8], dy: int = 0, dx: int = 0) -> LastCompression | None:
    """The estimate from the pixels below and to the right of (dy, dx), with posteriors that know the grid."""
    luma = luma_of(rgb[dy:, dx:])
    luma.setflags(write=False)
    shift = (-dy % 8) * 8 + (-dx % 8)
    found = posteriors((80,), shift, height=luma.shape[0], width=luma.shape[1])
    return lastjpeg.estimate(luma, found, shift, lambda: clipping.share(np.ascontiguousarray(rgb[dy:, dx:])))


def by_opencv(rgb: npt.NDArray[np.uint8], qf: int, subsampling: str) -> npt.NDArray[np.uint8]:
    factor = {"4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420}[subsampling]
    flags = [cv2.IMWRITE_JPEG_QUALITY, qf, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    return pixels_of(cv2.imencode(".jpg", rgb[..., ::-1], flags)[1].tobytes())


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("crop", [(0, 0), (3, 5)])
@pytest.mark.parametrize("qf", [30, 75, 90, 97])
def test_standard_tables(qf: int, crop: tuple[int, int], subsampling: str) -> None:
    picture = photo("coffee")[:280, :380]
    if qf % 2:
        rgb = by_opencv(picture, qf, subsampling)
    else:
        rgb = pixels_of(file_of(picture, quality=qf, subsampling=subsampling))
    last = estimated(rgb, *crop)
    assert last is not None
    assert last.qf == qf
    assert last.origin == ((-crop[0]) % 8, (-crop[1]) % 8)
    assert last.table[:N_COEFS] == tuple(standard_table(qf)[:N_COEFS].tolist())
    assert len(last.table) == 64 and min(last.table) >= 1


@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea"])
@pytest.mark.parametrize("qf", [15, 20, 25, 30, 40, 55, 60, 63])
def test_one_compression_is_not_taken_for_two(name: str, qf: int) -> None:
    """A last one of quality 99 after it would explain whatever is there."""
    last = estimated(pixels_of(file_of(photo(name)[:240, :320], quality=qf)))
    assert last is not None and last.qf == qf


def told(rgb: npt.NDArray[np.uint8], share: npt.NDArray[np.float32] | None) -> LastCompression:
    """What is told of pixels on the grid from (0, 0) on, a `share` of whose cells is clipped; None if it is unknown."""
    found = posteriors((60,), 0, height=rgb.shape[0], width=rgb.shape[1])
    last = lastjpeg.estimate(luma_of(rgb), found, 0, lambda: share)
    assert last is not None
    return last


def with_contrast(contrast: float) -> npt.NDArray[np.uint8]:
    """A photograph of which the more colours are clipped the larger the contrast."""
    return np.clip((photo("astronaut")[:300, :400] - 128.0) * contrast + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("qf", [20, 40, 60])
def test_blocks_with_clipped_colours_are_left_out(qf: int) -> None:
    """Clipping moves the coefficients off the multiples of coarse steps, onto those of fine ones."""
    rgb = pixels_of(file_of(with_contrast(1.4), quality=qf))
    share, table = clipping.share(rgb), standard_table(qf)
    known, unknown, none, all_of_it = (told(rgb, said) for said in (share, None, 0 * share, 0 * share + 1))
    assert known.qf == unknown.qf == qf and known.exact and np.array_equal(known.table, table)
    assert (np.array(unknown.table) != table).sum() > 10 and none == all_of_it == unknown


@pytest.mark.parametrize("qf", [20, 60])
def test_where_nearly_all_colours_are_clipped_no_fine_compression_is_told(qf: int) -> None:
    rgb = pixels_of(file_of(with_contrast(2.5), quality=qf))
    share = clipping.share(rgb)
    assert (share > 0).mean() > 0.95 and told(rgb, None).qf >= 98, "there is something to be mistaken"
    assert lastjpeg.estimate(luma_of(rgb), posteriors((60,), 0, height=300, width=400), 0, lambda: share) is None


@pytest.mark.parametrize("qf", [40, 78, 90])
def test_many_zeros_beside_a_few_large_coefficients_speak_for_no_large_step(qf: int) -> None:
    """Of a Laplace density with their mean size fewer would be zeros, and a large step makes zeros of more."""
    picture = (photo("coffee")[:296, :400] / 12.0 + 90).astype(np.uint8)
    picture[:80] = with_contrast(1.0)[100:180]
    last = estimated(pixels_of(file_of(picture, quality=qf)), 3, 5)
    assert last is not None and last.exact and np.array_equal(last.table, standard_table(qf))


def test_one_step_that_is_not_a_standard_tables_is_not_believed() -> None:
    table = standard_table(75).copy()
    table[4] += 3
    last = estimated(pixels_of(file_of(photo(), qtables=[natural(table)] * 2, subsampling="4:4:4")))
    assert last is not None and last.exact and last.qf == 75
    table[7] += 4
    last = estimated(pixels_of(file_of(photo(), qtables=[natural(table)] * 2, subsampling="4:4:4")))
    assert last is not None and np.array_equal(last.table[:N_COEFS], table[:N_COEFS])


def test_a_makers_table_is_told_by_the_blocks_without_clipped_colours() -> None:
    rgb = pixels_of(file_of(with_contrast(1.8), qtables=[natural(CAMERA)] * 2, subsampling="4:2:0"))
    assert told(rgb, clipping.share(rgb)).table[:N_COEFS] == tuple(CAMERA[:N_COEFS].tolist())
    assert told(rgb, None).table[:N_COEFS] != tuple(CAMERA[:N_COEFS].tolist()), "there is something to be mistaken"


def test_a_fine_last_compression_is_not_told_where_a_coarse_one_is_found() -> None:
    """What clipped colours, or parts that were pasted in, leave looks like one of 98 or 99."""
    rgb = pixels_of(file_of(photo("astronaut")[:240, :320], quality=60))
    assert told(rgb, None).qf == 60
    both = pixels_of(file_of(pixels_of(file_of(photo("coffee")[:280, :380], quality=85)), quality=98))
    assert told(both, clipping.share(both)).qf == 85


def test_one_that_explains_all_asks_for_no_colours() -> None:
    plain = pixels_of(file_of(photo("coffee")[:280, :380] // 2 + 60, quality=80))
    assert lastjpeg.estimate(
        luma_of(plain), posteriors((80,), 0, height=280, width=380), 0, lambda: pytest.fail("asked")
    )


def test_zeros_speak_for_no_step_of_one() -> None:
    """In a picture that is nearly flat a step of 1 explains the little noise of zeros no better than others."""
    picture = (90 + (np.arange(400)[None, :] // 40 + np.arange(300)[:, None] // 50) % 7)[..., None] * [1.0, 1.1, 0.9]
    picture = picture.astype(np.uint8)
    picture[:60, :90] = photo("coffee")[100:160, 100:190]
    for qf in (50, 75):
        last = estimated(pixels_of(file_of(picture, quality=qf)))
        assert last is not None and abs(last.qf - qf) <= 1


@pytest.mark.parametrize(("first", "second"), [(60, 80), (72, 90), (75, 95)])
def test_a_first_compression_on_the_same_grid_is_not_taken_for_the_last(first: int, second: int) -> None:
    """Many of its steps are two or three times those of the last one, and coefficients lie on multiples of them."""
    once = pixels_of(file_of(photo("coffee")[:280, :380], quality=first))
    last = estimated(pixels_of(file_of(once, quality=second)))
    assert last is not None and last.qf == second
    assert last.table[:N_COEFS] == tuple(standard_table(second)[:N_COEFS].tolist())
    assert (np.array(last.table) == standard_table(second)).mean() > 0.8
    both = [standard_table(qf)[:N_COEFS] for qf in (first, second)]
    assert (both[0] % both[1] == 0).sum() >= 4, "there is something to be mistaken"


def test_a_table_that_is_twice_a_standard_one_in_part_is_a_makers() -> None:
    """Its odd steps are those of no standard table: nothing speaks for a first compression."""
    table = standard_table(90).copy()
    table[:N_COEFS] = table[:N_COEFS] * 2 + 1
    last = estimated(pixels_of(file_of(photo(), qtables=[natural(table)] * 2, subsampling="4:4:4")))
    assert last is not None and not last.exact
    assert last.table[:N_COEFS] == tuple(table[:N_COEFS].tolist())


@pytest.mark.parametrize("crop", [(0, 0), (4, 1)])
def test_tables_of_a_maker(crop: tuple[int, int]) -> None:
    tables = [natural(CAMERA), natural(CAMERA)]
    last = estimated(pixels_of(file_of(photo(), qtables=tables, subsampling="4:4:4")), *crop)
    assert last is not None and not last.exact
    assert last.table[:N_COEFS] == tuple(CAMERA[:N_COEFS].tolist())


def test_grey_pictures() -> None:
    grey = photo("camera")[:300, :300, 0]
    last = estimated(pixels_of(file_of(grey, quality=88)))
    assert last is not None and last.qf == 88


def test_steps_above_those_tried_are_a_standard_tables() -> None:
    last = estimated(pixels_of(file_of(photo("camera"), quality=10)))
    assert last is not None and last.qf == 10
    assert max(last.table) == 255 == standard_table(10).max()


def test_only_windows_that_were_compressed_are_asked() -> None:
    picture = photo("coffee")[:320, :400]
    once, other = (pixels_of(file_of(picture, quality=qf, subsampling="4:4:4")) for qf in (80, 50))
    mixed = once.copy()
    mixed[:, 200:] = other[:, 200:]
    luma = luma_of(mixed)
    found = posteriors((80,), 0, height=320, width=400)
    present = found.present.copy()
    present[:, (200 - 32) // 16 :] = 0.1
    found = type(found)(found.logp, found.shift, present, found.origin, found.size)
    last = lastjpeg.estimate(luma, found, 0)
    assert last is not None and last.qf == 80 and last.table[:N_COEFS] == tuple(standard_table(80)[:N_COEFS].tolist())


def test_only_windows_on_the_grid_are_asked() -> None:
    """A picture that was put together from two may show two compressions as surely."""
    picture = photo("coffee")[:328, :408]
    once = pixels_of(file_of(picture[:320, :400], quality=90, subsampling="4:4:4"))
    other = pixels_of(file_of(picture, quality=60, subsampling="4:4:4"))[3:323, 5:405]
    mixed = once.copy()
    mixed[:, 200:] = other[:, 200:]
    found = posteriors((90,), 0, height=320, width=400)
    shift = found.shift.copy()
    shift[:, (200 - 32) // 16 :] = posteriors((60,), 5 * 8 + 3, height=320, width=400).shift[:, (200 - 32) // 16 :]
    found = type(found)(found.logp, shift, found.present, found.origin, found.size)
    last = lastjpeg.estimate(luma_of(mixed), found, 0)
    assert last is not None and last.qf == 90 and last.table[:N_COEFS] == tuple(standard_table(90)[:N_COEFS].tolist())


@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_flat_picture_says_nothing(grey: int) -> None:
    assert estimated(np.full((128, 200, 3), grey, np.uint8)) is None


def test_too_few_blocks() -> None:
    rgb = pixels_of(file_of(photo("coffee")[:280, :380], quality=80))
    luma = luma_of(rgb)
    nothing = posteriors((80,), 0, height=280, width=380, present=0.1)
    assert lastjpeg.estimate(luma, nothing, 0) is None
    # A flat picture with a corner that is not.
    flat = np.full_like(rgb, 100)
    flat[:32, :32] = rgb[100:132, 100:132]
    assert estimated(flat) is None


def test_clipped_blocks_do_not_mislead() -> None:
    picture = photo("coffee")[:280, :380].copy()
    picture[::16, ::16] = 255
    picture[100:160] = rng().choice(np.array([0, 255], np.uint8), (60, 380, 1))
    last = estimated(pixels_of(file_of(picture, quality=85, subsampling="4:4:4")))
    assert last is not None and last.qf == 85


# --- agreement with it --------------------------------------------------------------------------------------


def in_all(seen: Agreement, here: tuple[slice, slice]) -> float:
    """Nats a coefficient in some of the blocks."""
    return float(seen.nats[here].sum() / seen.count[here].sum())


@pytest.mark.parametrize("crop", [(0, 0), (3, 5)])
@pytest.mark.parametrize("qf", [50, 75, 85])
def test_blocks_agree_with_the_table_that_made_them(crop: tuple[int, int], qf: int) -> None:
    """And what was pasted in afterwards does not, whatever its own history."""
    picture = photo("coffee")[:280, :380]
    rgb = pixels_of(file_of(picture, quality=qf, subsampling="4:2:0")).copy()
    last = estimated(rgb, *crop)
    assert last is not None
    plain = lastjpeg.agreement(luma_of(rgb[crop[0] :, crop[1] :]), last)
    rows, cols = ((n - c - o) // 8 for n, c, o in zip((280, 380), crop, last.origin, strict=True))
    assert plain.nats.shape == plain.count.shape == (rows, cols) and plain.origin == last.origin
    assert in_all(plain, (slice(None), slice(None))) > 0.7
    raw, other = (
        photo("astronaut")[100:200, 100:200],
        pixels_of(file_of(photo("astronaut"), quality=90))[101:201, 102:202],
    )
    for pasted in (raw, other):
        spliced = rgb.copy()
        spliced[120:220, 160:260] = pasted
        seen = lastjpeg.agreement(luma_of(spliced[crop[0] :, crop[1] :]), last)
        assert in_all(seen, (slice(16, 25), slice(21, 30))) < -1.2
        assert np.array_equal(seen.nats[:10], plain.nats[:10])


def test_fine_steps_and_flat_blocks_say_nothing() -> None:
    fine = LastCompression((0, 0), (5,) * 64, 95, True)
    coarse = LastCompression((0, 0), (20,) * 64, 50, True)
    mistaken = LastCompression((0, 0), (1,) * 40 + (9,) * 24, 100, False)
    assert not lastjpeg.agreement(luma_of(photo("coffee")[:64, :64]), mistaken).count.any()
    assert not lastjpeg.agreement(luma_of(photo("coffee")[:64, :64]), fine).count.any()
    flat = lastjpeg.agreement(np.full((64, 70), 90, np.uint8), coarse)
    assert flat.count.shape == (8, 8) and not flat.count.any() and not flat.nats.any()


@pytest.mark.parametrize("silent", [False, True])
def test_cells_agree_where_the_blocks_around_them_do(silent: bool) -> None:
    nats = np.zeros((30, 40), np.float32)
    nats[:, :20] = 1
    nats[10:20, 5:15] = -2
    cells = doubts.agreeing(Agreement(nats, np.ones_like(nats), (3, 6)), (31, 42), silent=silent)
    assert cells.shape == (31, 42)
    # The cell in row 15 and column 10 lies at blocks 14.6 and 9.3.
    assert not cells[15, 10] and cells[2, 2] and cells[28, 12]
    assert cells[0, 41] == cells[30, 35] == silent


def test_agreement_is_the_same_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    luma, last = luma_of(photo("coffee")[:200, :150]), LastCompression((2, 1), tuple(standard_table(60)), 60, True)
    whole = lastjpeg.agreement(luma, last)
    monkeypatch.setattr(lastjpeg, "STRIP", 3)
    strips = lastjpeg.agreement(luma, last)
    assert np.allclose(whole.nats, strips.nats, atol=1e-3) and np.array_equal(whole.count, strips.count)


# --- of a part ----------------------------------------------------------------------------------------------


def with_part(after: Any = None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Luma of a photograph with a piece of a JPEG of 70, with blocks from (3, 5) on, and the cells it lies in."""
    rgb = photo("coffee")[:280, :380].copy()
    piece = pixels_of(file_of(photo("astronaut")[:300, :300], quality=70))[40:200, 40:200]
    rgb[59:219, 85:245] = piece if after is None else after(piece)
    where = np.zeros((35, 48), bool)
    where[7:28, 10:31] = True
    return luma_of(rgb), where


def test_a_part_lies_on_the_multiples_of_its_table() -> None:
    luma, where = with_part()
    luma.setflags(write=False)
    for told_as in (68, 70.4, 73):
        nats = lastjpeg.of_part(luma, where, told_as, (3, 5))
        assert nats is not None and nats > 0.9
    for qf, first in ((50, (3, 5)), (70, (3, 6))):
        nats = lastjpeg.of_part(luma, where, qf, first)
        assert nats is not None and nats < 0


def test_a_part_that_was_filtered_since_lies_off_them() -> None:
    luma, where = with_part(lambda piece: cv2.bilateralFilter(piece, 5, 25, 2))
    nats = lastjpeg.of_part(luma, where, 70, (3, 5))
    assert nats is not None and nats < doubts.LIES


def test_of_a_part_with_too_few_blocks_nothing_is_said() -> None:
    luma, where = with_part()
    few = np.zeros_like(where)
    assert lastjpeg.of_part(luma, few, 70, (3, 5)) is None
    few[10:18, 12:20] = True  # 36 cells inside
    assert lastjpeg.of_part(luma, few, 70, (3, 5)) is None
    assert lastjpeg.of_part(np.full_like(luma, 90), where, 70, (3, 5)) is None


def test_a_part_may_reach_to_all_edges() -> None:
    luma = luma_of(pixels_of(file_of(photo("coffee")[:283, :381], quality=70))[3:, 2:])
    where = np.ones((35, 48), bool)
    nats = lastjpeg.of_part(luma, where, 70, (5, 6))
    assert nats is not None and nats > 0.9
