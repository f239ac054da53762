"""The floor of quality: what the shipped models must find in cases that are plain.

These tests, and no others, depend on how well the models were trained: they fail for weights that are not. They are
far below what is measured elsewhere (see the README), so that no new training should ever fail them.
"""

from __future__ import annotations

import random
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import file_of, photo, pixels_of

from jscan import Scanner
from jscan.jpegtables import N_COEFS, standard_table
from jscan.records import Maps, ScanRecord
from train import process

SIZE = (384, 400)
INSIDE = (slice(120, 260), slice(150, 310))  # pixels
MASK = np.zeros(SIZE, bool)
MASK[INSIDE] = True


@cache
def scanner() -> Scanner:
    return Scanner(device="cpu")


def picture(name: str) -> npt.NDArray[np.uint8]:
    """A piece of a photograph without a JPEG past, 392 x 408."""
    return photo(name, 0.97 if name != "coffee" else 0.99)[: SIZE[0] + 8, : SIZE[1] + 8]


def once(name: str, quality: int, dy: int, dx: int) -> npt.NDArray[np.uint8]:
    """The photograph after one compression, cropped off its grid."""
    return pixels_of(file_of(picture(name), quality=quality))[dy : dy + SIZE[0], dx : dx + SIZE[1]]


def pasted(ground: npt.NDArray[np.uint8], piece: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.where(MASK[..., None], piece, ground)


def scanned(data: bytes) -> tuple[ScanRecord, Maps]:
    result = scanner().scan(data)
    assert result.record.status == "ok" and result.maps is not None
    return result.record, result.maps


def check_found(row: ScanRecord, maps: Maps) -> None:
    """The pasted part is the strongest region, and suspicion is high in it and low elsewhere."""
    assert row.score is not None and row.score >= 0.5 and row.regions
    first = row.regions[0]
    box = np.zeros(SIZE, bool)
    box[first.y : first.y + first.height, first.x : first.x + first.width] = True
    assert (box & MASK).sum() / (box | MASK).sum() > 0.5
    cells = MASK.reshape(SIZE[0] // 8, 8, SIZE[1] // 8, 8).mean(axis=(1, 3))
    assert np.nanmean(maps.suspicion[cells == 1]) > np.nanmean(maps.suspicion[cells == 0]) + 0.4


def test_a_splice_of_another_jpeg() -> None:
    image = pasted(once("astronaut", 65, 3, 5), once("coffee", 80, 6, 1))
    check_found(*scanned(file_of(image, quality=95)))


def test_a_splice_of_clean_pixels() -> None:
    image = pasted(once("astronaut", 65, 3, 5), picture("coffee")[: SIZE[0], : SIZE[1]])
    check_found(*scanned(file_of(image, quality=95)))


def test_a_splice_in_a_png() -> None:
    image = pasted(picture("astronaut")[: SIZE[0], : SIZE[1]], once("coffee", 70, 2, 7))
    check_found(*scanned(file_of(image, "PNG")))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera"])
@pytest.mark.parametrize("quality", [75, 92])
def test_an_untouched_photograph(name: str, quality: int) -> None:
    row, _ = scanned(file_of(picture(name), quality=quality))
    assert row.score is not None and row.score < 0.5 and row.regions == ()


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_an_untouched_png(name: str) -> None:
    row, maps = scanned(file_of(picture(name), "PNG"))
    assert row.score is not None and row.score < 0.5
    assert row.compressed_fraction is not None and row.compressed_fraction < 0.2
    assert np.nanmean(maps.flag) < 0.4


@pytest.mark.parametrize(("name", "quality"), [("astronaut", 56), ("coffee", 60)])
def test_a_vignette_on_a_decoded_jpeg(name: str, quality: int) -> None:
    """Its corners lost the last compression's multiples, which says nothing of what was before that compression."""
    pixels = pixels_of(file_of(photo(name, 1.0)[:520, :520], quality=quality))[3:, 5:]
    down, across = (np.linspace(-1, 1, n) ** 2 for n in pixels.shape[:2])
    darker = 1 - 0.12 * (down[:, None] + across)[..., None]
    row, _ = scanned(file_of(np.rint(pixels * darker).astype(np.uint8), "PNG"))
    assert row.score is not None and row.score < 0.5 and not row.regions


@pytest.mark.parametrize(
    ("name", "how", "seed", "kind"),
    [
        ("astronaut", "warped", 1, "JPEG"),
        ("coffee", "denoised", 3, "JPEG"),
        ("coffee", "video", 3, "JPEG"),
        ("camera", "video", 3, "PNG"),
        ("astronaut", "warped", 3, "PNG"),
    ],
)
def test_a_jpeg_that_was_processed_as_a_whole(name: str, how: str, seed: int, kind: str) -> None:
    """What that leaves of its compression differs from part to part; no part of it has another history."""
    decoded = pixels_of(file_of(photo(name, 1.0)[:520, :520], quality=65))[3:, 5:]
    changed = process.process(np.ascontiguousarray(decoded[..., ::-1]), how, random.Random(seed))[..., ::-1]
    more = {"quality": 92} if kind == "JPEG" else {}
    row, _ = scanned(file_of(np.ascontiguousarray(changed), kind, **more))
    assert row.score is not None and row.score < 0.5 and not row.regions


@pytest.mark.parametrize(("name", "quality"), [("astronaut", 65), ("coffee", 75), ("chelsea", 55)])
def test_a_picture_of_which_the_lens_was_corrected(name: str, quality: int) -> None:
    """In its middle blocks have one size; around it they have others, down and across, and no window tells them."""
    decoded = pixels_of(file_of(photo(name, 0.9), quality=quality))
    down, across = (np.linspace(-1, 1, n, dtype=np.float32) for n in decoded.shape[:2])
    scale = np.float32(1 + 0.055 * (down[:, None] ** 2 + across**2) - 0.11)
    y, x = ((at * scale + 1) * ((n - 1) / 2) for at, n in zip((down[:, None], across), decoded.shape, strict=False))
    row, _ = scanned(file_of(cv2.remap(decoded, x, y, cv2.INTER_LINEAR), "PNG"))
    assert row.score is not None and row.score < 0.5 and "no region is named" in row.reasons[-1]


def test_a_photograph_saved_twice() -> None:
    row, maps = scanned(file_of(once("coffee", 70, 3, 5), quality=95))
    assert row.score is not None and row.score < 0.5
    assert row.double_fraction is not None and row.double_fraction > 0.8
    assert row.grid_shift == (5, 3) and row.qf1_background is not None and abs(row.qf1_background - 70) <= 2
    wanted = standard_table(70)[:N_COEFS, None, None]
    assert (maps.q1[:10] == wanted[:10]).mean() > 0.6
    assert ((maps.shift == np.array((5, 3))[:, None, None]).all(axis=0)).mean() > 0.8
    assert np.nanmean(maps.shift_confidence) > 0.7


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera"])
@pytest.mark.parametrize("qualities", [(85, 90), (70, 85), (92, 95)])
def test_a_photograph_saved_twice_as_it_is(name: str, qualities: tuple[int, int]) -> None:
    """Without a crop, so that both compressions have the same grid."""
    first, second = qualities
    row, _ = scanned(file_of(pixels_of(file_of(picture(name)[: SIZE[0], : SIZE[1]], quality=first)), quality=second))
    assert row.score is not None and row.score < 0.5 and row.regions == ()


def test_a_picture_of_four_is_not_cleared_in_silence() -> None:
    """Each quarter has another quality and another grid: there is no rest that one of them could differ from."""
    quarters = [
        once(name, quality, *shift)[:192, :200]
        for name, quality, shift in (
            ("astronaut", 60, (1, 2)), ("coffee", 70, (3, 5)), ("astronaut", 75, (6, 1)), ("coffee", 65, (2, 7)),
        )
    ]  # fmt: skip
    both = np.concatenate([np.concatenate(quarters[:2], 1), np.concatenate(quarters[2:], 1)])
    row, _ = scanned(file_of(both, quality=95))
    assert row.grid_shift is None and row.double_fraction is not None and row.double_fraction > 0.5
    assert "no one grid is shared by most of it" in row.reasons[-1]


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera"])
@pytest.mark.parametrize("quality", [45, 55, 60])
def test_coarse_compression_tells_nothing_of_an_earlier_one(name: str, quality: int) -> None:
    """A photograph that was saved once is not called warped, or compressed before."""
    row, _ = scanned(file_of(picture(name)[: SIZE[0], : SIZE[1]], quality=quality))
    assert row.double_fraction is None or row.double_fraction < 0.5
    assert row.q1_background is None and not any("before" in reason for reason in row.reasons)


def test_what_a_part_of_a_png_was_compressed_with_is_not_the_background_s() -> None:
    """Both were compressed once: nothing is known of the background but that."""
    both = once("coffee", 89, 3, 5).copy()
    both[80:240, 104:296] = once("astronaut", 65, 6, 1)[80:240, 104:296]
    row, _ = scanned(file_of(both, "PNG"))
    assert row.regions and row.regions[0].kind == "other_qf" and row.score is not None and row.score > 0.9
    assert row.q1_background is None and row.grid_shift is None
    assert row.double_fraction is None or row.double_fraction < 0.5


def test_the_table_of_a_picture_that_was_sharpened_is_not_told() -> None:
    """Steps are larger after that, and fit a table that nobody used."""
    decoded = pixels_of(file_of(picture("coffee")[: SIZE[0], : SIZE[1]], quality=70)).astype(np.float32)
    sharper = decoded + 0.8 * (decoded - cv2.GaussianBlur(decoded, (0, 0), 2))
    row, _ = scanned(file_of(np.clip(np.rint(sharper), 0, 255).astype(np.uint8), quality=92))
    assert row.double_fraction is not None and row.double_fraction > 0.5
    assert row.q1_background is None and row.qf1_background is None
    assert "its table is not told" in row.reasons[-1]


@pytest.mark.parametrize("quality", [50, 75, 90])
def test_the_quality_of_decoded_pixels(quality: int) -> None:
    image = once("coffee", quality, 3, 5)
    row, maps = scanned(file_of(image, "PNG"))
    assert row.compressed_fraction is not None and row.compressed_fraction > 0.8
    assert row.qf_mean is not None and abs(row.qf_mean - quality) < 5
    assert any(f"quality about {quality} with blocks from x 3, y 5" in reason for reason in row.reasons)
    assert row.score is not None and row.score < 0.5
    assert np.nanmean(np.abs(maps.qf - quality)) < 5
