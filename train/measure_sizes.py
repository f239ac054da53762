"""How small a region with another history may be: squares pasted into images that are compressed twice."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan.records import Region, ScanResult
from train import compress
from train import measure_metrics as metrics
from train.compress import Pixels
from train.measure_files import NOTABLE, outlined, to_pixels
from train.measure_sets import Images, load, scanner, sides

SIZES = (32, 48, 64, 96, 128)
"""Pixels along a side of the squares."""
SIDE = 512
"""Pixels along a side of the images, which are pieces of the pictures."""
BORDER = 32
"""Pixels at the image's edge that hold no square."""
QF1 = (70, 85)
"""Quality factors of the image's first compression, drawn evenly; both ends are meant."""
FOUND = 0.25
"""Intersection over union from which a region counts as the square: one of 64 x 64 around a square of 32 x 32."""
NEAR = 16
"""Pixels around the square in which a region is not one elsewhere: regions are sharp to about that."""
WINDOWS_PER_SCAN = 50
"""Windows asked for that one scan with a square of each size stands for."""


@dataclass(frozen=True)
class Contrast:
    """What history the square has, beside that of the image; where it is a compression, its grid is another one."""

    name: str
    apart: tuple[int, int] | None = None
    """How far its first quality factor is from the image's, up or down, drawn evenly; None where it has none."""
    pasted: bool = True
    """Whether there is a square at all."""


CONTRASTS = (
    Contrast("never compressed"),
    Contrast("QF1 13 to 20 apart", (13, 20)),
    Contrast("QF1 4 to 7 apart", (4, 7)),
    Contrast("same QF1", (0, 0)),
    Contrast("no square", pasted=False),
)
QF2 = (90, 95)
"""Quality factors of the last compression."""

Job = tuple[Path, Contrast, int, int, str]
"""An image, a contrast, the last quality factor, the side of the square, and a seed."""


@dataclass(frozen=True, slots=True)
class Made:
    """A JPEG file with a square pasted in, and what its maker knows."""

    data: bytes
    place: tuple[int, int]
    """Row and column where the square begins."""
    pixels: Pixels
    """(H, W, 3), BGR, before the last compression."""
    qf1: int
    """Quality factor of the image's first compression."""
    shift: tuple[int, int]
    """Pixels cropped, down and across, between the two."""


def make(image: Pixels, contrast: Contrast, qf2: int, size: int, rng: random.Random) -> Made:
    """A JPEG file of a piece of the image with a square of this many pixels a side pasted in."""
    side = min(SIDE, *(s - 8 for s in image.shape[:2]))
    qf1 = rng.randint(*QF1)
    shift = (rng.randrange(8), rng.randrange(8))
    ground = _piece(image, side, qf1, shift, rng)
    y, x = rng.randrange(BORDER, side - size - BORDER + 1), rng.randrange(BORDER, side - size - BORDER + 1)
    if contrast.pasted:
        other = None
        if contrast.apart is not None:
            other = qf1 + rng.choice((-1, 1)) * rng.randint(*contrast.apart)
        elsewhere = rng.choice([(dy, dx) for dy in range(8) for dx in range(8) if (dy, dx) != shift])
        donor = _piece(image, side, None if other is None else min(other, 98), elsewhere, rng)
        ground[y : y + size, x : x + size] = donor[y : y + size, x : x + size]
    return Made(compress.encode(ground, compress.standard(qf2)), (y, x), ground, qf1, shift)


def _piece(image: Pixels, side: int, qf: int | None, shift: tuple[int, int], rng: random.Random) -> Pixels:
    """A random piece of the image, (side, side, 3), compressed before it was cut at this shift, or never."""
    y, x = (rng.randrange(s - side - 8 + 1) for s in image.shape[:2])
    piece = np.ascontiguousarray(image[y : y + side + 8, x : x + side + 8])
    if qf is not None:
        piece = compress.recompress(piece, compress.standard(qf))
    return np.ascontiguousarray(piece[shift[0] : shift[0] + side, shift[1] : shift[1] + side])


def measure(job: Job) -> dict[str, Any]:
    """What was found in one image with a square; see `found_in`."""
    path, contrast, qf2, size, seed = job
    made = make(load(path), contrast, qf2, size, random.Random(seed))
    result, (y, x) = scanner().scan(made.data), made.place
    if result.maps is None:
        raise ValueError(f"{path} could not be scanned: {result.record.error}")
    square = np.zeros((result.record.height or 0, result.record.width or 0), bool)
    if contrast.pasted:
        square[y : y + size, x : x + size] = True
    return found_in(result, square)


def found_in(result: ScanResult, square: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """`score`; the largest `iou` of a region with the square (H, W); the `pixel_auc` of the suspicion map, None without
    a square; and how many regions lie `elsewhere`, further than NEAR pixels from it."""
    assert result.maps is not None
    near = cv2.dilate(square.astype(np.uint8), np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)) > 0
    own = [_outlined(result, region) for region in result.record.regions or ()]
    return {
        "score": result.record.score or 0.0,
        "iou": max((metrics.iou(one, square) for one in own), default=0.0) if square.any() else 0.0,
        "pixel_auc": metrics.auc(
            to_pixels(np.nan_to_num(result.maps.suspicion), *square.shape).ravel(), square.ravel()
        ),
        "elsewhere": sum(not (one & near).any() for one in own),
    }


def _outlined(result: ScanResult, region: Region) -> npt.NDArray[np.bool_]:
    return outlined(result, (region,))


def figures(found: list[dict[str, Any]], pasted: bool) -> dict[str, Any]:
    """Figures of the images with squares of one size and contrast, or with none."""
    scores = np.array([f["score"] for f in found])
    out: dict[str, Any] = {
        "images": len(found),
        f"share_from_{NOTABLE}": float((scores >= NOTABLE).mean()),
        "with_regions_elsewhere": float(np.mean([f["elsewhere"] > 0 for f in found])),
    }
    if pasted:
        overlap = np.array([f["iou"] for f in found])
        out |= {
            "found": float((overlap >= FOUND).mean()),
            "iou": float(overlap.mean()),
            "pixel_auc": float(np.mean([f["pixel_auc"] for f in found])),
        }
    return out


def squares(sets: Images, each: int, sizes: tuple[int, ...]) -> list[tuple[tuple[str, str, Contrast, int], Job]]:
    """(set, row of the table, contrast and side) and the job of every image, `each` of a kind.

    Squares of all sizes and contrasts lie in pieces of their own.
    """
    out: list[tuple[tuple[str, str, Contrast, int], Job]] = []
    for name, paths in sets.items():
        usable = [p for p in paths if min(sides(p)) >= max(SIZES) + 2 * BORDER + 8]
        cases = [(q, c, s) for q in QF2 for c in CONTRASTS for s in (sizes if c.pasted else (0,))]
        drawn = [
            (path, case, k)
            for case in cases
            for k, path in enumerate(random.Random(f"{name}/{case}").choices(usable, k=each) if usable else ())
        ]
        for path, (qf2, contrast, size), k in sorted(drawn, key=lambda d: str(d[0])):
            seed = f"{name}/{path.name}/{qf2}/{contrast.name}/{size}/{k}"
            out.append(((name, f"QF2 {qf2}, {contrast.name}", contrast, size), (path, contrast, qf2, size, seed)))
    return out


def measure_sizes(sets: Images, count: int, workers: int) -> dict[str, Any]:
    """Figures by set, last quality and contrast, and under `by_size` by the side of the square; see `figures`.

    Each is of a fiftieth of `count` images.
    """
    drawn = squares(sets, max(1, count // WINDOWS_PER_SCAN), SIZES)
    gathered: dict[tuple[str, str, Contrast, int], list[dict[str, Any]]] = {}
    answers = metrics.spread(measure, [job for _, job in drawn], workers)
    for (place, _), answer in zip(drawn, answers, strict=True):
        gathered.setdefault(place, []).append(answer)
    out: dict[str, Any] = {}
    for name in sets:
        for qf2 in QF2:
            for contrast in CONTRASTS:
                row = f"QF2 {qf2}, {contrast.name}"
                of = {
                    str(size) if contrast.pasted else "none": figures(parts, contrast.pasted)
                    for size in (*SIZES, 0)
                    if (parts := gathered.get((name, row, contrast, size)))
                }
                if of:
                    out.setdefault(name, {})[row] = {"by_size": of}
    return out
