"""What is measured on: sets of uncompressed images, and the scanner that every measurement shares."""

from __future__ import annotations

import os
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np

from jscan.scan import Scanner
from train.compress import Pixels
from train.dataset import EXTENSIONS

SMALLEST = 136
"""Images with a shorter side are left out."""

Images = dict[str, list[Path]]


def image_sets(data: Path) -> Images:
    """The images of each set: one set for every sub-folder, and one for what lies in the folder itself.

    Raises ValueError where there is no uncompressed image.
    """
    found: Images = {}
    for path in sorted(p for p in data.rglob("*") if p.suffix.lower() in EXTENSIONS):
        parts = path.relative_to(data).parts
        found.setdefault(parts[0] if len(parts) > 1 else data.resolve().name, []).append(path)
    sets = {name: [p for p in paths if min(sides(p)) >= SMALLEST] for name, paths in found.items()}
    sets = {name: paths for name, paths in sets.items() if paths}
    if not sets:
        raise ValueError(f"{data}: no uncompressed image of {SMALLEST} pixels a side or more in it")
    return sets


@cache
def sides(path: Path) -> tuple[int, int]:
    """Height and width in pixels; (0, 0) where the file cannot be read."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return (0, 0) if image is None else (image.shape[0], image.shape[1])


@lru_cache(maxsize=1)
def load(path: Path) -> Pixels:
    """(H, W, 3) uint8 pixels of an image, in BGR order; the last one is kept, and not to be written to."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)


THOROUGH = "JSCAN_EVALUATE_THOROUGH"
"""Variable of the environment by which `--thorough` reaches the processes that measure."""


@cache
def scanner() -> Scanner:
    """This process's scanner, on the CPU with one thread; thorough where the environment says so."""
    return Scanner(device="cpu", thorough=THOROUGH in os.environ)
