"""A part at one scale, or a place of a picture that was warped."""

from __future__ import annotations

import numpy as np

from jscan import warped


def test_a_part_shows_at_its_own_scale_and_the_rest_at_none() -> None:
    """Where more of an image shows a compression far from the part, at whatever scale, it was warped as a whole."""
    part, anywhere = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    part[10:20, 10:20] = anywhere[10:20, 10:20] = True
    anywhere[20:26, 10:26] = True  # what is near to the part holds some of it
    assert not warped.fits_elsewhere(part, anywhere)
    anywhere[45:50, 20:40] = True
    assert not warped.fits_elsewhere(part, anywhere)
    anywhere[50, 20] = True
    assert warped.fits_elsewhere(part, anywhere)
    # Or much of what is beside it, where a part of a picture ends where its scale does.
    anywhere[26:] = False
    assert not warped.fits_elsewhere(part, anywhere)
    anywhere[22:26, 8:28] = True
    assert warped.fits_elsewhere(part, anywhere)
