"""Where colours were clipped, and what is said of parts of an image in which they were."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from material import file_of, photo, pixels_of, rng

from jscan import clipping, doubts, scan
from jscan.scan import Scanner


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (8, 9), (1100, 20)])
def test_shares_equal_their_definition(size: tuple[int, int]) -> None:
    rgb = rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    rgb[: size[0] // 2] = rgb[: size[0] // 2] // 2 + 64  # nothing is clipped there
    got = clipping.share(rgb)
    assert got.shape == (-(-size[0] // 8), -(-size[1] // 8)) and got.dtype == np.float32
    odd = ((rgb <= 3) | (rgb >= 252)).any(axis=2)
    for r in range(size[0] // 8):
        for c in range(size[1] // 8):
            assert got[r, c] == pytest.approx(odd[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean(), abs=1e-5)
    assert (got >= 0).all() and (got <= 1 + 1e-6).all()


def test_a_frame_is_what_is_of_one_colour_from_end_to_end() -> None:
    luma = rng(3).integers(0, 256, (61, 83)).astype(np.uint8)
    part = np.ones((8, 11), bool)
    assert clipping.in_frame(luma, part) == 0
    luma[24:40, 24:40] = 255  # within the picture
    luma[:21] = 255  # two rows of whole cells, and five lines of a third
    luma[:, 80:] = 255  # the last column of cells, which the image's edge cuts
    assert clipping.in_frame(luma, part) == pytest.approx(1 - 6 * 10 / 88)
    part[:, 5:] = False
    part[:1] = False
    assert clipping.in_frame(luma, part) == pytest.approx(1 / 7)
    assert clipping.in_frame(np.full((61, 83), 9, np.uint8), part) == 1


@pytest.mark.parametrize("first", [(0, 0), (0, 5), (3, 0), (7, 1)])
def test_blocks_with_a_clipped_colour_are_those_that_touch_such_a_cell(first: tuple[int, int]) -> None:
    height, width = 61, 83
    clipped = (rng(5).random((8, 11)) < 0.2).astype(np.float32) / 64
    rows, cols = (height - first[0]) // 8, (width - first[1]) // 8
    pixels = np.kron(clipped, np.ones((8, 8)))[:height, :width] > 0
    whole = pixels[first[0] : first[0] + 8 * rows, first[1] : first[1] + 8 * cols]
    touched = whole.reshape(rows, 8, cols, 8).any(axis=(1, 3))
    assert np.array_equal(clipping.blocks(clipped, (height, width), first), touched) and touched.any()
    assert not clipping.blocks(None, (height, width), first).any()


def test_pictures_of_greys_and_of_one_tone_have_no_colours() -> None:
    colour = photo("coffee")
    grey = np.repeat(np.rint(colour @ (0.299, 0.587, 0.114)).astype(np.uint8)[..., None], 3, axis=2)
    toned = np.rint(grey * np.array([1, 0.9, 0.75])).astype(np.uint8)
    for quality in (60, 90):
        assert clipping.is_grey(pixels_of(file_of(grey, quality=quality)))
        assert clipping.is_grey(pixels_of(file_of(toned, quality=quality)))
        assert not clipping.is_grey(pixels_of(file_of(colour, quality=quality)))
    faint = np.rint(grey * 0.7 + colour * 0.3).astype(np.uint8)
    assert not clipping.is_grey(faint)
    assert clipping.is_grey(np.zeros((1, 9000, 3), np.uint8)) and clipping.is_grey(colour[:1, :1])


def darkened() -> npt.NDArray[np.uint8]:
    """A picture that was compressed, made so dark that much of it is clipped, and cut off the grid."""
    once = pixels_of(file_of(photo("coffee"), quality=70)).astype(np.int64)
    return np.clip(once - 40, 0, 255).astype(np.uint8)[3:, 5:].copy()


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(device="cpu")


def test_where_colours_are_clipped_there_is_no_region(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is suspicious there counts as doubt."""
    pixels = darkened()
    data = file_of(pixels, quality=94)
    # So much of the trace is gone that this alone would be doubt; here it is asked what the colours tell.
    monkeypatch.setattr(doubts, "KEPT_BY_REST", 0.7)
    # Without looking at them there is a region: a part without the first compression.
    with monkeypatch.context() as blinded:
        blinded.setattr(scan, "MOST_COLOURED", 0)
        blind = scanner.scan(data)
    assert blind.record.score is not None and blind.record.score > 0.75 and blind.record.regions
    region = blind.record.regions[0]
    assert region.kind == "no_first_compression"
    here = (slice(region.y // 8, (region.y + region.height) // 8), slice(region.x // 8, (region.x + region.width) // 8))
    assert clipping.share(pixels)[here].mean() > 0.5
    found = scanner.scan(data)
    assert found.maps is not None and found.record.double_fraction is not None and found.record.double_fraction > 0.5
    assert found.record.score is not None and found.record.score < 0.5 and not found.record.regions
    assert np.nanmax(found.maps.suspicion) < 0.5
    # With the colours at hand, as for a heatmap, it is the same.
    assert scanner.scan(data, rgb=True).record.score == found.record.score


def test_colours_are_decoded_only_where_a_part_is_suspicious(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    real = clipping.share

    def telling(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        asked.append(rgb.shape)
        return real(rgb)

    monkeypatch.setattr(clipping, "share", telling)
    once = pixels_of(file_of(photo("coffee")[:390, :590], quality=70))[3:, 5:].copy()
    quiet = scanner.scan(file_of(once, quality=92))
    assert quiet.record.score is not None and quiet.record.score < 0.3 and not asked
    once[120:264, 200:376] = photo("astronaut")[40:184, 60:236]
    spliced = scanner.scan(file_of(once, quality=92))
    assert spliced.record.score is not None and spliced.record.score > 0.9 and spliced.record.regions
    assert asked and set(asked) == {once.shape}
