"""False alarms: pristine pictures that were processed as a whole after their compression, then saved once more."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from train import compress
from train import measure_metrics as metrics
from train.compress import Pixels
from train.measure_files import of_pristine
from train.measure_sets import Images, load, scanner, sides
from train.process import PROCESSES, process

SIDE = 512
"""Pixels along a side of the pieces of pictures, at most."""
SAVED = ("PNG", "JPEG")
WINDOWS_PER_SCAN = 50
"""Windows asked for that a picture of each line stands for."""

Job = tuple[Path, str, str, str]
"""An image, what is done to it, how it is saved, and a seed."""


def make(image: Pixels, how: str, saved: str, rng: random.Random) -> bytes:
    """A file of a piece of the image that was a JPEG of QF 50 to 95, cropped anywhere, and processed."""
    side = min(SIDE, *(s - 16 for s in image.shape[:2]))
    y, x = (rng.randrange(s - side - 15) for s in image.shape[:2])
    piece = compress.recompress(
        np.ascontiguousarray(image[y : y + side + 8, x : x + side + 8]), compress.standard(rng.randint(50, 95))
    )
    piece = piece[rng.randrange(8) :, rng.randrange(8) :][:side, :side]
    pixels = process(np.ascontiguousarray(piece), how, rng)
    if saved == "JPEG":
        return compress.encode(pixels, compress.standard(rng.choice((75, 80, 85, 90, 92, 95, 97))))
    return bytes(cv2.imencode(".png", pixels)[1])


def measure(job: Job) -> float:
    """The score of one picture."""
    path, how, saved, seed = job
    record = scanner().scan(make(load(path), how, saved, random.Random(seed))).record
    if record.score is None:
        raise ValueError(f"{path} could not be scanned: {record.error}")
    return record.score


def measure_processed(sets: Images, count: int, workers: int) -> dict[str, Any]:
    """Figures by set and line, which says what was done and how the picture was saved.

    Each is of a fiftieth of `count` pictures.
    """
    each = max(1, count // WINDOWS_PER_SCAN)
    lines = [(how, saved) for saved in SAVED for how in PROCESSES]
    jobs: list[Job] = []
    for name, paths in sets.items():
        usable = [p for p in paths if min(sides(p)) >= 128]
        for how, saved in lines:
            picked = random.Random(f"{name}/{how}/{saved}").choices(usable, k=each) if usable else []
            jobs += [(p, how, saved, f"{name}/{p.name}/{how}/{saved}/{k}") for k, p in enumerate(picked)]
    jobs.sort(key=lambda job: str(job[0]))
    gathered: dict[tuple[str, str], list[float]] = {}
    for (_, how, saved, seed), score in zip(jobs, metrics.spread(measure, jobs, workers), strict=True):
        gathered.setdefault((seed.partition("/")[0], f"{how}, {saved}"), []).append(score)
    return {
        name: {
            line: of_pristine(scores)
            for how, saved in lines
            if (scores := gathered.get((name, line := f"{how}, {saved}")))
        }
        for name in sets
    }
