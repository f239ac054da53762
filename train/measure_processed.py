"""False alarms: pristine pictures that were processed as a whole after their compression, then saved once more."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, features

from train import compress
from train import measure_metrics as metrics
from train.compress import Pixels
from train.measure_files import NOTABLE
from train.measure_sets import Images, load, scanner, sides

SIDE = 512
"""Pixels along a side of the pieces of pictures, at most."""
PROCESSES = (
    "nothing", "noise", "blur", "sharpened", "brighter or darker", "vignette", "resized", "saved twice", "turned",
    "another codec",
)  # fmt: skip
"""What is done to a JPEG's pixels, evenly all over the picture; see `process`."""
SAVED = ("PNG", "JPEG")
WINDOWS_PER_SCAN = 50
"""Windows asked for that a picture of each line stands for."""

Job = tuple[Path, str, str, str]
"""An image, what is done to it, how it is saved, and a seed."""


def process(pixels: Pixels, how: str, rng: random.Random) -> Pixels:
    """Pixels (H, W, 3), BGR, of a JPEG after one of PROCESSES, of a strength drawn evenly."""
    out: npt.NDArray[Any] = pixels.astype(np.float32)
    if how == "noise":
        out = out + np.random.default_rng(rng.randrange(2**32)).normal(0, rng.uniform(0.7, 3), out.shape)
    elif how == "blur":
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.2))
    elif how == "sharpened":
        out = out + rng.uniform(0.3, 1) * (out - cv2.GaussianBlur(out, (0, 0), 1.2))
    elif how == "brighter or darker":
        out = out * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
    elif how == "vignette":
        y, x = (np.linspace(-1, 1, n, dtype=np.float32) ** 2 for n in out.shape[:2])
        out = out * (1 - rng.uniform(0.1, 0.3) * (y[:, None] + x[None]))[..., None]
    elif how == "resized":
        factor = rng.uniform(0.5, 0.95)
        out = cv2.resize(out, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    elif how == "saved twice":
        out = compress.recompress(pixels, compress.standard(rng.randint(70, 97)))
    elif how == "turned":
        out = np.rot90(pixels)
    elif how == "another codec":
        packed = io.BytesIO()
        codec = rng.choice(("WEBP", "AVIF") if features.check("avif") else ("WEBP",))
        Image.fromarray(pixels[..., ::-1]).save(packed, codec, quality=rng.randint(40, 95))
        out = np.asarray(Image.open(packed).convert("RGB"))[..., ::-1]
    return np.ascontiguousarray(np.clip(np.rint(out), 0, 255), np.uint8)


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
            line: {
                "images": len(scores),
                "median_score": float(np.median(scores)),
                f"share_from_{NOTABLE}": float(np.mean(np.array(scores) >= NOTABLE)),
            }
            for how, saved in lines
            if (scores := gathered.get((name, line := f"{how}, {saved}")))
        }
        for name in sets
    }
