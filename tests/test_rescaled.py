from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from jscan import rescaled


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
    found = rescaled.candidates(compressed_then_resized(factor))
    # The second candidate may be the right one: 3/2 and 2/3 of a period share harmonics with it.
    assert any(abs(period / (8 * factor) - 1) < 0.015 for period in found)


def test_blocks_that_were_not_resized_are_not_reported() -> None:
    assert rescaled.candidates(compressed_then_resized(1.0)) == []


def test_a_photograph_without_blocks_has_no_period() -> None:
    assert rescaled.candidates(np.asarray(photograph())) == []


def test_an_image_too_small_to_tell_gives_none() -> None:
    assert rescaled.candidates(np.zeros((127, 500), np.uint8)) == []


def test_a_flat_image_gives_none_and_stays_untouched() -> None:
    flat = np.full((200, 300), 128, np.uint8)
    flat.setflags(write=False)
    assert rescaled.candidates(flat) == []


def test_restoring_moves_by_the_phase() -> None:
    image = np.asarray(photograph())
    assert np.array_equal(rescaled.restore(image, 1.0, (0.0, 0.0)), image)
    assert np.array_equal(rescaled.restore(image, 1.0, (1.0, 2.0))[:-1, :-2], image[1:, 2:])
    assert rescaled.restore(image, 8 / 7, (0.5, 0.0)).shape == rescaled.size(image, 8 / 7)


def test_a_phase_brings_blocks_back_to_whole_pixels() -> None:
    """Blocks of 8 pixels, seen half a pixel away: at phase 0 no pixel lies on the middle of a flat block's edge."""
    blocks = np.kron(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4), np.ones((8, 8), np.uint8))
    moved = cv2.warpAffine(blocks, np.array([[1.0, 0, 0.5], [0, 1, 0]]), (32, 32), borderMode=cv2.BORDER_REPLICATE)
    back = rescaled.restore(moved, 1.0, (0.0, 0.5))
    edges = np.abs(np.diff(back[:, 4:28].astype(int), axis=1)).sum(axis=0)
    blurred = np.abs(np.diff(moved[:, 4:28].astype(int), axis=1)).sum(axis=0)
    assert edges.max() > 1.2 * blurred.max()
