"""How many small squares their blocks can give away: those of `measure_sizes`, with everything about the image known.

    python -m train.bounds_squares DATA [--side 32] [--patches 1000]

The blocks are told the background's whole table and grid, and how large noise and coefficients are in the image before
its last compression, for which a scan has estimates alone. What lies between the figures is what better estimates
could give; a square that is missed with them holds too little for its blocks to say anything.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import clipping, likelihood, trace
from jscan.jpegtables import ZIGZAG, dct_basis
from jscan.regions import ALONE, least_missing
from jscan.tiling import BLOCK
from train import compress
from train import measure_metrics as metrics
from train.measure_report import table
from train.measure_sets import image_sets, load
from train.measure_sizes import CONTRASTS, FOUND, QF2, WINDOWS_PER_SCAN, Contrast, Made, make, measure, squares

NEAR = 24
"""Pixels around the square whose cells hold some of it."""
_BASIS = dct_basis().astype(np.float32)

Job = tuple[Path, Contrast, int, int, str]


def _blocks(luma: npt.NDArray[np.uint8], first: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(r, c, 64) coefficients of the blocks of an image (H, W) on a grid, at 8 * down + along."""
    inside = luma[first[0] :, first[1] :]
    rows, cols = (n // BLOCK for n in inside.shape)
    blocks = inside[: BLOCK * rows, : BLOCK * cols].reshape(rows, BLOCK, cols, BLOCK).transpose(0, 2, 1, 3)
    out = _BASIS @ (blocks.astype(np.float32) - 128) @ _BASIS.T
    return np.asarray(out.reshape(rows, cols, -1), np.float32)


def known(made: Made) -> tuple[npt.NDArray[np.uint8], trace.Trace, likelihood.Noise]:
    """Luma of the file, and all that its maker knows of the background's compression and of the noise."""
    luma = compress.decode(made.data, gray=True)
    before = np.asarray(cv2.cvtColor(made.pixels, cv2.COLOR_BGR2YCrCb)[..., 0], np.uint8)
    steps = np.empty(BLOCK * BLOCK, np.float32)
    steps[[BLOCK * u + v for u, v in ZIGZAG]] = compress.standard(made.qf1).luma
    first = (-made.shift[0] % BLOCK, -made.shift[1] % BLOCK)
    seen = trace.Trace(steps, np.ones_like(steps), first)
    coefs, clean = _blocks(luma, first), _blocks(before, first)
    kinds = np.searchsorted(likelihood.EDGES, np.abs(coefs[..., 1:]).sum(axis=2), side="right")
    off = coefs - steps * np.rint(clean / steps)
    deviation, spread = (np.zeros((len(likelihood.EDGES) + 1, len(steps)), np.float32) for _ in range(2))
    for kind in range(len(deviation)):
        here = kinds == kind
        if here.any():
            deviation[kind] = np.sqrt((off[here] ** 2).mean(axis=0)) / steps
            spread[kind] = np.abs(clean[here]).mean(axis=0) / steps
    deviation[:, steps <= 1] = 0
    # Noise of half a step and more leaves no comb.
    deviation[deviation > 0.4] = 0
    return luma, seen, likelihood.Noise(deviation, np.maximum(spread, likelihood.NARROWEST))


@dataclass(frozen=True, slots=True)
class Found:
    """Whether a square was found, or another place taken for one, with everything known and in a scan."""

    with_all: bool
    in_a_scan: bool


def look(job: Job) -> Found:
    """What the blocks of one image say, by the rule of `regions` for parts that hold no window."""
    path, contrast, qf2, side, seed = job
    made = make(load(path), contrast, qf2, side, random.Random(seed))
    luma, seen, noise = known(made)
    rgb = np.ascontiguousarray(compress.decode(made.data)[..., ::-1])
    skip = clipping.blocks(clipping.share(rgb), luma.shape, seen.first)
    missing = trace.around_cells(likelihood.against(luma, seen, noise, skip), (luma.shape[0], luma.shape[1]))
    # Without a square, the place that looks most like one takes its part.
    peak = np.unravel_index(int(missing.argmax()), missing.shape)
    place, size = (made.place, side) if contrast.pasted else ([BLOCK * int(k) for k in peak], BLOCK)
    middles = [BLOCK * np.arange(n) + BLOCK / 2 for n in missing.shape]
    off = [np.maximum(p - m, m - p - size) for p, m in zip(place, middles, strict=True)]
    away = np.maximum(off[0][:, None], off[1][None])  # pixels from it, negative inside
    most = float(missing[away < 0].max())
    alone = most >= ALONE * float(missing[away > NEAR].max())
    scanned = measure(job)
    in_a_scan = scanned["iou"] >= FOUND if contrast.pasted else scanned["elsewhere"] > 0
    return Found(most >= least_missing(missing.size) and alone, in_a_scan)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of uncompressed images, or of sets")
    parser.add_argument("--side", type=int, default=32, help="pixels along a side of the squares")
    parser.add_argument("--patches", type=int, default=1000, help="as for the section `sizes` of train.evaluate")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    o = parser.parse_args()
    sets = image_sets(o.data)
    drawn = squares(sets, max(1, o.patches // WINDOWS_PER_SCAN), (o.side,))
    answers = metrics.spread(look, [job for _, job in drawn], o.workers)
    gathered: dict[tuple[str, str], list[Found]] = {}
    for ((name, *_), (_, contrast, qf2, *_)), found in zip(drawn, answers, strict=True):
        kind = "squares found" if contrast.pasted else "no square, and one is seen"
        gathered.setdefault((name, f"QF2 {qf2}, {kind}"), []).append(found)
    lines: dict[str, dict[str, Any]] = {
        f"{name}, {row}": {
            "images": len(found),
            "everything known": sum(f.with_all for f in found),
            "a scan": sum(f.in_a_scan for f in found),
        }
        for (name, row), found in sorted(gathered.items())
    }
    print(f"\nSquares of {o.side} x {o.side} pixels, QF2 {QF2}, {len(CONTRASTS) - 1} contrasts\n")
    print("\n".join(table("set", lines)))


if __name__ == "__main__":
    main()
