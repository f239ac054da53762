from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from jscan import blockperiod


def photograph() -> Image.Image:
    # Reduced by an awkward factor, which wipes out whatever grid the photograph came with.
    return Image.fromarray(data.astronaut()).convert("L").resize((431, 431), Image.Resampling.LANCZOS)


def compressed_then_resized(factor: float, quality: int = 75) -> np.ndarray:
    out = io.BytesIO()
    photograph().save(out, "JPEG", quality=quality)
    image = Image.open(out).convert("L")
    size = round(image.width * factor)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("factor", [0.75, 0.88, 1.2])
def test_the_period_of_resized_blocks_is_found(factor: float) -> None:
    found = blockperiod.candidates(compressed_then_resized(factor))
    # The second candidate may be the right one: 3/2 and 2/3 of a period share harmonics with it.
    assert any(abs(candidate.period / (8 * factor) - 1) < 0.015 for candidate in found)


@pytest.mark.parametrize("corner", [(40, 20), (150, 170)])
def test_the_place_lies_where_the_period_shows(corner: tuple[int, int]) -> None:
    picture = np.array(photograph())
    y, x = corner
    picture[y : y + 200, x : x + 200] = compressed_then_resized(0.88, 50)[y : y + 200, x : x + 200]
    down, across = blockperiod.candidates(picture)[0].place
    assert y < down < y + 200 and x < across < x + 200


def test_blocks_that_were_not_resized_are_not_reported() -> None:
    assert blockperiod.candidates(compressed_then_resized(1.0)) == []


def test_a_photograph_without_blocks_has_no_period() -> None:
    assert blockperiod.candidates(np.asarray(photograph())) == []


def test_an_image_too_small_to_tell_gives_none() -> None:
    assert blockperiod.candidates(np.zeros((127, 500), np.uint8)) == []


def test_a_flat_image_gives_none_and_stays_untouched() -> None:
    flat = np.full((200, 300), 128, np.uint8)
    flat.setflags(write=False)
    assert blockperiod.candidates(flat) == []


def test_blocks_around_a_part_show_also_where_their_size_changes() -> None:
    """Of what is not of the parts alone; where there is next to nothing else, nothing is said."""
    parts = np.zeros((54, 54), bool)
    assert abs(blockperiod.rest(np.asarray(photograph()), parts) or 0) < 0.4
    for size in (7.7, 8.0, 8.3):
        assert (blockperiod.rest(compressed_then_resized(size / 8, 60)[:425, :425], parts) or 0) > 1
    assert (blockperiod.rest(compressed_then_resized(7 / 8, 60), parts[:48, :48]) or 0) < 0.4
    picture = np.array(photograph())
    picture[100:330, 80:310] = compressed_then_resized(1.0, 50)[100:330, 80:310]
    assert (blockperiod.rest(picture, parts) or 0) > 0.6
    parts[12:42, 9:40] = True
    assert abs(blockperiod.rest(picture, parts) or 0) < 0.4
    parts[:50] = True
    assert blockperiod.rest(picture, parts) is None
    assert blockperiod.rest(picture[:100], parts[:13]) is None
