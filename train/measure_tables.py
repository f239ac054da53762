"""What is told of first tables that the networks did not learn, and whether a square without them is found."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jscan.jpegtables import N_COEFS, Q1_MAX, ZIGZAG
from train import compress
from train import measure_metrics as metrics
from train.compress import Compression
from train.measure_files import NOTABLE
from train.measure_sets import Images, load, scanner, sides
from train.measure_sizes import FOUND, found_in

SIDE = 480
"""Pixels along a side of the images, which are pieces of the pictures."""
SQUARE = (96, 224)
"""Pixels along a side of the squares, never compressed, that every second image has; drawn evenly."""
QF2 = (85, 90, 95)
"""Quality factors of the last compression, drawn evenly."""
GRIDS = ("the same grid", "other grids")
"""Whether the blocks of both compressions begin at the same pixels."""
WINDOWS_PER_SCAN = 50
"""Windows asked for that one scan stands for."""

Job = tuple[Path, str, str, bool, str]
"""An image, the names of a first table and of a grid, whether a square is pasted, and a seed."""


@cache
def tables() -> dict[str, Compression]:
    """First compressions by name: one that was learned, and others.

    Photoshop's level 7 is of `photoshop_tables.json`. Two of mozjpeg's tables (`jcparam.c`; ImageMagick's, by N.
    Robidoux, is what its `cjpeg` takes, the other was tuned for MS-SSIM) are scaled like the standard ones.
    """
    rows = json.loads(Path(__file__).with_name("other_tables.json").read_text())
    out = {"standard 75": compress.standard(75), "Photoshop 7": compress.photoshop_tables()[7]}
    for row in rows:
        for qf in (75, 85):
            scaled = np.clip((np.array(row["luma"]) * (200 - 2 * qf) + 50) // 100, 1, 255)
            steps = tuple(int(scaled[8 * r + c]) for r, c in ZIGZAG)
            out[f"{row['name']} {qf}"] = Compression(steps, steps, "4:2:0", "pillow", None)
    return out


def make(
    image: compress.Pixels, table: str, grid: str, pasted: bool, rng: random.Random
) -> tuple[bytes, tuple[slice, slice]]:
    """A JPEG file of a piece of the image that was compressed with a table before, and where a square was pasted in.

    That is nowhere unless it is to be `pasted`.
    """
    qf2, side = rng.choice(QF2), min(SIDE, *(s - 8 for s in image.shape[:2]))
    shift = (0, 0) if grid == GRIDS[0] else rng.choice([(y, x) for y in range(8) for x in range(8) if y or x])
    y, x = (rng.randrange(s - side - 8 + 1) for s in image.shape[:2])
    piece = np.ascontiguousarray(image[y : y + side + 8, x : x + side + 8])
    once = compress.recompress(piece, tables()[table])
    ground = np.ascontiguousarray(once[shift[0] : shift[0] + side, shift[1] : shift[1] + side])
    size = rng.randint(*SQUARE) if pasted else 0
    top, left, from_y, from_x = (rng.randrange(side - size + 1) for _ in range(4))
    place = (slice(top, top + size), slice(left, left + size))
    ground[place] = piece[from_y : from_y + size, from_x : from_x + size]
    return compress.encode(ground, compress.standard(qf2)), place


def measure(job: Job) -> dict[str, Any]:
    """Of one image: its score, how many of the first 15 steps are told right, None where none is, and `found_in`."""
    path, table, grid, pasted, seed = job
    data, place = make(load(path), table, grid, pasted, random.Random(seed))
    result = scanner().scan(data)
    if result.maps is None:
        raise ValueError(f"{path} could not be scanned: {result.record.error}")
    square = np.zeros((result.record.height or 0, result.record.width or 0), bool)
    square[place] = True
    said = result.record.q1_background
    right = None
    if said is not None:
        right = sum(a == min(b, most) for a, b, most in zip(said, tables()[table].luma, Q1_MAX, strict=False))
    return {**found_in(result, square), "right": right, "pasted": pasted}


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the images of one table and grid."""
    told = [f["right"] for f in found if f["right"] is not None]
    squares = [f for f in found if f["pasted"]]
    others = [f["score"] for f in found if not f["pasted"]]
    return {
        "images": len(found),
        "told": len(told) / len(found),
        "steps_right": float(np.mean(told)) / N_COEFS if told else None,
        "all_right": float(np.mean([n == N_COEFS for n in told])) if told else None,
        "found": float(np.mean([f["iou"] >= FOUND for f in squares])) if squares else None,
        f"without_square_from_{NOTABLE}": float(np.mean([s >= NOTABLE for s in others])) if others else None,
    }


def drawn(sets: Images, each: int) -> list[tuple[tuple[str, str], Job]]:
    """(set, row of the table) and the job of every image, `each` of a table and a grid."""
    out: list[tuple[tuple[str, str], Job]] = []
    for name, paths in sets.items():
        usable = [p for p in paths if min(sides(p)) >= SQUARE[1] + 16]
        for table in tables():
            for grid in GRIDS:
                row = f"{table}, {grid}"
                picked = random.Random(f"{name}/{row}").choices(usable, k=each) if usable else []
                for k, path in enumerate(picked):
                    out.append(((name, row), (path, table, grid, k % 2 == 0, f"{name}/{row}/{path.name}/{k}")))
    return out


def measure_tables(sets: Images, count: int, workers: int) -> dict[str, Mapping[str, Any]]:
    """Figures by set, and by table and grid; see `figures`. Each is of a fiftieth of `count` images."""
    jobs = drawn(sets, max(2, count // WINDOWS_PER_SCAN))
    gathered: dict[tuple[str, str], list[dict[str, Any]]] = {}
    answers = metrics.spread(measure, [job for _, job in jobs], workers)
    for (place, _), answer in zip(jobs, answers, strict=True):
        gathered.setdefault(place, []).append(answer)
    return {name: {row: figures(of) for (of_set, row), of in gathered.items() if of_set == name} for name in sets}
