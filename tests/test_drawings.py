"""Drawings and screenshots: flat but for edges and letters, so that little tells what they were compressed with."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from material import Pixels, file_of, pixels_of, rng

from jscan.scan import Scanner


def drawn(seed: int) -> Pixels:
    """Discs and a word, four times, in colours of their own."""
    some = rng(seed)
    out = np.empty((600, 800, 3), np.uint8)
    out[:] = some.integers(0, 256, 3)
    for _ in range(4):
        y, x, radius = some.integers(0, 600), some.integers(0, 800), some.integers(20, 150)
        cv2.circle(out, (int(x), int(y)), int(radius), some.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    for k in range(4):
        colour = some.integers(0, 256, 3).tolist()
        cv2.putText(out, "quantisation", (20, 150 + 60 * k), cv2.FONT_HERSHEY_SIMPLEX, 1.0, colour, 2, cv2.LINE_AA)
    return out


@pytest.mark.parametrize("seed", [29, 76, 98])
def test_a_drawing_that_was_saved_twice_is_not_accused_of_what_is_drawn(seed: int) -> None:
    once = pixels_of(file_of(drawn(seed), quality=70, subsampling="4:2:0"))
    data = file_of(np.ascontiguousarray(once[3:, 5:]), quality=95, subsampling="4:2:0")
    row = Scanner(device="cpu").scan(data).record
    assert row.score is not None and row.score < 0.5 and row.regions == ()
