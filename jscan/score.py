"""The image's score: how probable it is that some region has another history, and why.

A score is a logistic function of how strongly the most suspicious places stand out; its coefficients were fitted on
forgeries of images that trained nothing else (`train/fit_regions.py`) and travel in the model's manifest. Places are
counted: in a larger image more of them can look odd by chance, so its odds are divided by how many times more
places than the largest calibration image it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan.records import Region
from jscan.wording import KINDS, quality

CALIBRATION_CELLS = 4000
"""Cells of the largest images that the score was calibrated on (504 x 504 pixels)."""


def smooth(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits (R, C) averaged over 3 x 3 cells; NaN counts as the most innocent."""
    known = np.where(np.isnan(logits), np.float32(-8), np.clip(logits, -8, 8))
    return cv2.blur(known, (3, 3), borderType=cv2.BORDER_REPLICATE).astype(np.float32)


def summary(smoothed: npt.NDArray[np.float32], counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """(len(counts),) means of so many largest of smoothed logits of whatever shape."""
    flat = smoothed.ravel()
    out = []
    for count in counts:
        if flat.size >= count:
            out.append(float(np.partition(flat, flat.size - count)[-count:].mean()))
        else:  # what is not there counts as innocent
            out.append((float(flat.sum()) - 8.0 * (count - flat.size)) / count)
    return np.array(out)


def probability(smoothed: npt.NDArray[np.float32], cells: int, calibration: Mapping[str, Any]) -> float:
    """The calibrated probability, 0 to 1, of smoothed logits in an image of this many cells.

    The calibration holds the `counts` of its summary, a weight for each, and a bias.
    """
    logit = float(np.dot(calibration["weights"], summary(smoothed, calibration["counts"])) + calibration["bias"])
    logit -= max(0.0, float(np.log(max(cells, 1) / CALIBRATION_CELLS)))
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


RETONED = ", or was made brighter, darker or otherwise toned after a compression that it shares with the rest"
"""What may be behind another table on the background's own grid, where one in 64 pasted parts lies."""


def describe(region: Region, number: int, ground: tuple[int, int] | None = None) -> str:
    """One sentence on a region of an image whose first compression's blocks begin at `ground`."""
    what = f"Region {number} at x {region.x}, y {region.y} ({region.width} x {region.height} pixels) "
    what += KINDS[region.kind].sentence
    if region.kind == "other_q1" and ground is not None and region.grid_shift == ground:
        what += RETONED
    facts = []
    if region.qf1 is not None:
        facts.append(f"quality {quality(region.qf1, first=region.q1 is not None)}")
    if region.grid_shift is not None:
        facts.append(f"grid shift {region.grid_shift[0]}, {region.grid_shift[1]}")
    facts.append(f"score {region.score:.2f}")
    return f"{what} ({', '.join(facts)})."


def reasons(
    regions: Sequence[Region], score: float, coverage: float, ground: tuple[int, int] | None = None
) -> tuple[str, ...]:
    """Sentences, the strongest region first, and what limits the answer; `ground` as for `describe`."""
    found = [describe(region, k + 1, ground) for k, region in enumerate(regions)]
    if not found:
        found.append("No region with another compression history was found.")
    if coverage < 0.25:
        limit = "a low score says little here" if score < 0.5 else "the score rests on little"
        found.append(f"Only {100 * coverage:.0f} % of the image holds enough information for a sure answer; {limit}.")
    return tuple(found)
